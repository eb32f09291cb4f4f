"""The small real backend of the load tests: what it takes, what it gives, how it fails."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from serving import memory
from serving.backends.fake import FakeBackend, FakeModel
from serving.errors import InsufficientMemoryError, InvalidArtifactError, LoadFailedError, ModelFailedError
from serving.repository.layouts import ModelSpec
from tests.models import MIB, make_fake


def spec(tmp_path: Path, **config: object) -> ModelSpec:
    """Write a fake model and describe it."""
    file = make_fake(tmp_path, "m", **config) / "fake.json"
    return ModelSpec("m", "fake", file, file.stat().st_size)


def load(tmp_path: Path, **config: object) -> FakeModel:
    """Write and load."""
    return FakeBackend().load(spec(tmp_path, **config))


def rows(*values: float) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """One row of numbers."""
    return {"x": np.array([values], np.float32)}


def test_there_is_no_runtime_to_import() -> None:
    """Nothing that a budget would have to pay for."""
    assert FakeBackend().prepare() is False


@pytest.mark.parametrize(
    ("config", "expected"), [({}, [4, 8, 12]), ({"scale": -0.5}, [-0.5, -1, -1.5]), ({"take": 2}, [4, 8])]
)
def test_an_answer_is_scale_times_what_it_takes(
    tmp_path: Path, config: dict[str, object], expected: list[float]
) -> None:
    """float32 in and out."""
    answer = load(tmp_path, **config).run(rows(1, 2, 3))["y"]

    assert answer.tolist() == [expected]
    assert answer.dtype == np.float32


def test_dims_are_the_shape_of_a_row(tmp_path: Path) -> None:
    """The batch comes first and is free."""
    model = load(tmp_path, dims=[3, -1])

    assert model.signature.inputs[0].dims == (-1, 3, -1)
    assert model.threads == 1


def test_bytes_are_held_for_real_until_the_close(tmp_path: Path) -> None:
    """The kernel counts them, and the prediction is right."""
    predicted = FakeBackend().footprint(spec(tmp_path, bytes=64 * MIB))
    memory.give_back()
    before = memory.resident_bytes()
    model = load(tmp_path, bytes=64 * MIB)
    held = memory.resident_bytes() - before
    model.close()
    memory.give_back()

    assert predicted.peak_bytes == predicted.resident_bytes
    assert held == pytest.approx(predicted.resident_bytes, rel=0.05)
    assert memory.resident_bytes() - before < 4 * MIB


@pytest.mark.parametrize("key", ["load_ms", "delay_ms"])
def test_loads_and_runs_take_as_long_as_told(tmp_path: Path, key: str) -> None:
    """Milliseconds."""
    started = time.monotonic()
    load(tmp_path, **{key: 30}).run(rows(1))

    assert time.monotonic() - started >= 0.03


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        ({"fail_load": "BOOM: OOM"}, LoadFailedError, "BOOM: OOM"),
        ({"is_out_of_memory": True}, InsufficientMemoryError, "told to run out of memory"),
        ({"bytes": 10**14}, InsufficientMemoryError, "no memory left"),
    ],
)
def test_a_load_fails_as_told(tmp_path: Path, config: dict[str, object], error: type[Exception], text: str) -> None:
    """Typed, never by the words of a message."""
    with pytest.raises(error, match=text):
        load(tmp_path, **config)


def test_a_run_fails_as_told(tmp_path: Path) -> None:
    """Each time."""
    model = load(tmp_path, fail_run="no")
    for _ in range(2):
        with pytest.raises(ModelFailedError, match="'m' failed: no"):
            model.run(rows(1))


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "3", '{"byte": 1}', "[" * 100_000,
        '{"bytes": -1}', '{"bytes": "1"}', '{"bytes": true}', '{"bytes": NaN}', '{"bytes": 1e400}', '{"bytes": 1e30}',
        '{"load_ms": -5}', '{"delay_ms": Infinity}', '{"take": -1}', '{"scale": "x"}', '{"scale": null}',
        '{"dims": 3}', '{"dims": ["a"]}', '{"dims": [1.5]}', '{"dims": [true]}', '{"dims": [0]}', '{"dims": [-2]}',
        '{"fail_load": 1}', '{"is_out_of_memory": 1}',
    ],
)  # fmt: skip
def test_a_configuration_that_is_none_is_refused_by_its_key(tmp_path: Path, text: str) -> None:
    """Prediction and load alike: 400 with the value, never a crash."""
    broken = spec(tmp_path)
    broken.file.write_text(text)
    for ask in (FakeBackend().footprint, FakeBackend().load):
        with pytest.raises(InvalidArtifactError, match="fake.json") as caught:
            ask(broken)
        assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "config", [{"scale": -1e14}, {"bytes": 0.5}, {"dims": [3, 224, 224]}, {"dims": []}, {"scale": 0}]
)
def test_a_configuration_that_is_one_is_taken(tmp_path: Path, config: dict[str, object]) -> None:
    """Negative scales, fractions, any shape."""
    broken = spec(tmp_path, **config)

    assert FakeBackend().footprint(broken).peak_bytes >= 0
    assert json.loads(broken.file.read_text()) == config
    FakeBackend().load(broken).close()


def test_a_file_that_is_gone_or_not_text_is_refused(tmp_path: Path) -> None:
    """The folder may be taken away under us."""
    broken = spec(tmp_path)
    broken.file.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArtifactError):
        FakeBackend().load(broken)
    broken.file.unlink()
    with pytest.raises(InvalidArtifactError):
        FakeBackend().load(broken)
