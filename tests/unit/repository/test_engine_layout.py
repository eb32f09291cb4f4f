"""An engine is what a wharf.toml says: its command is looked at before anything runs, and what cannot be is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import InvalidArtifactError
from serving.repository.engine_layout import routes_of
from tests.unit.repository.written import handled, worker, write

COMMAND = "vllm serve {folder} --port {port}"


def toml(folder: Path, *lines: str, **options: str) -> Path:
    """Write a folder with weights and an engine's wharf.toml."""
    write(folder, "weights/model.safetensors", "config.json")
    said = "".join(f"{key} = '{value}'\n" for key, value in options.items())
    (folder / "wharf.toml").write_text("\n".join(['format = "engine"', *lines, "[options]", said]))
    return folder


def test_a_command_is_an_engine_of_one_worker(tmp_path: Path) -> None:
    """Whatever else the folder holds; the times are the configuration's."""
    folder = toml(tmp_path / "m", "load_timeout_s = 900", "predict_timeout_s = 300", command=COMMAND, health="/ping")
    spec, handler = worker(folder)
    assert (handler.dialect, handler.min_workers, handler.max_workers) == ("engine", 1, 1)
    assert handler.options == {"command": COMMAND, "health": "/ping"}
    assert (handler.load_timeout_s, handler.predict_timeout_s) == (900, 300)
    assert (spec.file.name, spec.warnings) == ("wharf.toml", ())


def test_one_worker_may_be_said(tmp_path: Path) -> None:
    """That is what it has."""
    assert handled(toml(tmp_path / "m", "max_workers = 1", command=COMMAND)).max_workers == 1


@pytest.mark.parametrize(
    ("said", "routes"),
    [("", ()), (" , ", ()), ("/a", ("/a",)), (" /a, /b  /c ", ("/a", "/b", "/c"))],
)
def test_routes_have_blanks_or_commas_between_them(said: str, routes: tuple[str, ...]) -> None:
    """None is empty: that would be the engine's /."""
    assert routes_of({"routes": said}) == routes


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        ((), {}, "the command of its engine is '', without {port}"),
        ((), {"command": "vllm serve x"}, "without {port}: say it in wharf.toml"),
        ((), {"command": 'vllm "{port}'}, "(No closing quotation): close its quotes"),
        ((), {"command": COMMAND, "port": "1"}, "the option port, and known are command, health, routes"),
        ((), {"command": COMMAND, "routes": "/a v1/b"}, "name 'v1/b', and a route begins with /"),
        ((), {"command": COMMAND, "routes": "/a,/é"}, "name '/\\xe9', and a route"),
        (("max_workers = 2",), {"command": COMMAND}, "max_workers = 2, and an engine is one process"),
        (("min_workers = 3",), {"command": COMMAND}, "min_workers = 3"),
        (("batch_size = 8",), {"command": COMMAND}, "batch_size = 8"),
        (("tensor_parallel_degree = 2",), {"command": COMMAND}, "groups of ranks are for djl"),
    ],
)
def test_what_cannot_be_an_engine_is_refused(
    tmp_path: Path, lines: tuple[str, ...], options: dict[str, str], said: str
) -> None:
    """With the key, and what to do."""
    with pytest.raises(InvalidArtifactError) as error:
        handled(toml(tmp_path / "m", *lines, **options))
    assert said in str(error.value)
