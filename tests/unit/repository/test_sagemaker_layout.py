"""SageMaker's script is found where its containers look for it, and its dialect told from its text."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import InvalidArtifactError
from tests.unit.repository.written import SERVING, TOOLKIT, handled, worker, write


@pytest.mark.parametrize("place", ["", "code/"])
@pytest.mark.parametrize("beside", ["model.pt", "model.onnx", "1/model.onnx", "model.pth", "model.joblib", "notes.txt"])
def test_a_script_beside_a_model_is_sagemakers(tmp_path: Path, place: str, beside: str) -> None:
    """As people ship them: the script goes before whatever it loads."""
    write(tmp_path / "m", beside, place + "inference.py")
    handler = handled(tmp_path / "m")
    assert (handler.dialect, handler.file) == ("sagemaker", tmp_path / "m" / place / "inference.py")
    assert handler.folder == tmp_path / "m"


def test_imports_are_looked_for_beside_the_script_then_vendored_then_in_the_model(tmp_path: Path) -> None:
    """The order of sys.path; what is not there is not on it."""
    names = ["code/inference.py", "code/lib/a.py", "lib/b.py", "site-packages/c/__init__.py", "model.pt"]
    paths = handled(write(tmp_path / "m", *names)).paths
    shown = [str(path.relative_to(tmp_path / "m")) for path in paths]
    assert shown == ["code", "code/lib", "lib", "site-packages", "."]


@pytest.mark.parametrize("place", ["", "code/"])
def test_requirements_lie_beside_the_script_or_at_the_top(tmp_path: Path, place: str) -> None:
    """Code's own go first."""
    folder = write(tmp_path / "m", "code/inference.py", "requirements.txt")
    if place:
        write(folder, "code/requirements.txt")
    assert handled(folder).requirements == folder / f"{place}requirements.txt"


def test_a_folder_of_code_alone_stays_the_model(tmp_path: Path) -> None:
    """An archive may hold one folder; `code` is not the one."""
    folder = write(tmp_path / "m", "code/inference.py")
    assert handled(folder).folder == folder
    assert handled(write(tmp_path / "n", "gpt/code/inference.py")).folder == tmp_path / "n" / "gpt"


@pytest.mark.parametrize(
    ("program", "submit", "found"),
    [
        ("", "", "code/inference.py"),
        ("run.py", "", "code/run.py"),
        ("top.py", "", "top.py"),
        ("sub/run.py", "", "code/sub/run.py"),
        ("run.py", "/opt/ml/model/src", "src/run.py"),
        ("run.py", "file:///opt/ml/model/src", "src/run.py"),
        ("run.py", "src", "src/run.py"),
        ("/opt/ml/model/src/run.py", "", "src/run.py"),
        ("run.py", "/opt/ml/model", "code/run.py"),
        ("", "/opt/ml/model/src", "src/inference.py"),
        ("gone.py", "", "code/inference.py"),
        ("../top.py", "/elsewhere", "code/inference.py"),
        ("run.py", "s3://bucket/code.tar.gz", "code/run.py"),
    ],
)
def test_the_environment_names_the_script(tmp_path: Path, program: str, submit: str, found: str) -> None:
    """It holds for all models: one that has no such file is served by its own inference.py."""
    names = ["code/inference.py", "code/run.py", "code/sub/run.py", "src/run.py", "src/inference.py", "top.py", "x.pt"]
    environ = {"SAGEMAKER_PROGRAM": program, "SAGEMAKER_SUBMIT_DIRECTORY": submit}
    spec, handler = worker(write(tmp_path / "m", *names), environ)
    assert handler.file == tmp_path / "m" / found
    assert [each.partition(" ")[0] for each in spec.warnings if "TORY" in each] == (
        ["SAGEMAKER_SUBMIT_DIRECTORY"] if submit in ("/elsewhere", "s3://bucket/code.tar.gz") else []
    )


def test_another_base_folder_is_the_models_place(tmp_path: Path) -> None:
    """SAGEMAKER_BASE_DIR moves /opt/ml."""
    environ = {"SAGEMAKER_BASE_DIR": "/data/ml", "SAGEMAKER_SUBMIT_DIRECTORY": "/data/ml/model/src"}
    assert handled(write(tmp_path / "m", "src/inference.py", "x.pt"), environ).file == tmp_path / "m/src/inference.py"


@pytest.mark.parametrize(
    ("text", "beside", "dialect"),
    [
        (TOOLKIT, "model.pt", "sagemaker"),
        (SERVING, "1/saved_model.pb", "tensorflow"),
        (SERVING, "weights.npz", "tensorflow"),
        ("def input_handler(data, context): ...", "export/1/saved_model.pb", "tensorflow"),
        ("from service import handler", "model.h5", "tensorflow"),
        (TOOLKIT + SERVING, "1/saved_model.pb", "tensorflow"),
        (TOOLKIT + SERVING, "model.keras", "tensorflow"),
        (TOOLKIT + SERVING, "model.pt", "sagemaker"),
        ("from service import *", "model.pt", "sagemaker"),
        ("def model_fn(:", "model.pt", "sagemaker"),
    ],
)
def test_the_script_tells_its_dialect(tmp_path: Path, text: str, beside: str, dialect: str) -> None:
    """TensorFlow Serving's functions are handlers; a script that is broken says so when it is loaded."""
    spec, handler = worker(write(tmp_path / "m", beside, code__inference_py=text))
    assert (handler.dialect, spec.warnings) == (dialect, ())


def test_a_script_without_a_known_function_is_warned_about(tmp_path: Path) -> None:
    """The toolkit's own functions may be meant."""
    spec, handler = worker(write(tmp_path / "m", code__inference_py="import torch\n"))
    assert handler.dialect == "sagemaker"
    assert "code/inference.py defines none of model_fn" in spec.warnings[0]


def test_all_files_of_the_folder_are_its_bytes(tmp_path: Path) -> None:
    """What the script will load is not known, so that everything counts."""
    folder = write(tmp_path / "m", "code/inference.py", "a/b/c/d/e/f/weights", "model.pt")
    sizes = [each.stat().st_size for each in folder.rglob("*") if each.is_file()]
    assert worker(folder)[0].bytes == sum(sizes)


@pytest.mark.parametrize("link", ["code", "code/inference.py", "code/requirements.txt", "lib", "code/lib"])
def test_a_link_out_of_the_repository_is_refused(tmp_path: Path, link: str) -> None:
    """The script, its libraries and its requirements; a link within the repository is followed."""
    write(tmp_path / "outside", "inference.py", "requirements.txt", "x.py")
    folder = write(tmp_path / "root" / "m", "model.pt")
    if link != "code":
        write(folder, *({"code/inference.py", "code/x.py"} - {link}))
    target = tmp_path / "outside" / ("" if link in ("code", "lib", "code/lib") else Path(link).name)
    (folder / link).symlink_to(target)
    with pytest.raises(InvalidArtifactError, match="leads outside"):
        handled(folder)


def test_a_link_within_the_repository_is_followed(tmp_path: Path) -> None:
    """Models may share one script."""
    write(tmp_path / "shared", "inference.py")
    folder = write(tmp_path / "m", "model.pt")
    (folder / "code").symlink_to(tmp_path / "shared")
    assert handled(folder).file == folder / "code" / "inference.py"


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    """Not passed over for the model beside it."""
    folder = write(tmp_path / "m", "model.pt")
    (folder / "inference.py").symlink_to("gone.py")
    with pytest.raises(InvalidArtifactError, match="cannot be read"):
        handled(folder)


def test_a_configured_script_is_believed(tmp_path: Path) -> None:
    """File and dialect; without a script the toolkit's own functions serve, TensorFlow Serving's do not."""
    folder = write(tmp_path / "m", "model.pt", "run.py", wharf_toml='format = "tensorflow"\nfile = "run.py"')
    assert (handled(folder).dialect, handled(folder).file) == ("tensorflow", folder / "run.py")
    write(folder, wharf_toml='format = "sagemaker"')
    assert (handled(folder).dialect, handled(folder).file) == ("sagemaker", None)
    write(folder, wharf_toml='format = "tensorflow"')
    with pytest.raises(InvalidArtifactError, match=r"configured as tensorflow and has no code/inference\.py"):
        handled(folder)
