"""Large tensors lie in memory that a real tritonserver shares with us; answers are those of gRPC alone."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from serving.backends import triton_call
from serving.backends.triton import TritonBackend, TritonModel
from serving.backends.triton_memory import Regions
from serving.errors import DeadlineExceededError, ModelFailedError
from serving.tensors import Array, Tensors
from serving.workers.handler import Request
from tests.triton.models import spec_of
from tests.waiting import until

# Says what it was given, in a file, a negative first number of seconds later.
MODEL = """
import pathlib
import time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        found = []
        for request in requests:
            tensors = {each.name(): each.as_numpy() for each in request.inputs()}
            first = float(tensors["a"].ravel()[0]) if tensors["a"].dtype != object else 0
            time.sleep(max(0.0, -first))
            with pathlib.Path("SEEN").open("a") as file:
                print(first, file=file)
            if first == 13:
                raise ValueError("unlucky")
            found.append(pb_utils.InferenceResponse([pb_utils.Tensor("y" + n, EXPRESSION) for n, x in tensors.items()]))
        return found
"""
TENSOR = '{ name: "%s" data_type: TYPE_%s dims: [ %s ] }'
LARGE = triton_call.LEAST_BYTES


def load(backend: TritonBackend, folder: Path, types: str = "FP32", dims: str = "-1", **more: str) -> TritonModel:
    """Load a model of inputs a, b ... of `types`, which answers ya, yb ...: the same, or what `expression` says."""
    (folder / "1").mkdir(parents=True)
    expression, out_dims = more.get("expression", "x"), more.get("out_dims", dims)
    text = MODEL.replace("EXPRESSION", expression).replace("SEEN", str(folder / "seen"))
    (folder / "1/model.py").write_text(text)
    each = list(zip("abcdef", types.split(), strict=False))
    inputs = ", ".join(TENSOR % (name, type_, dims) for name, type_ in each)
    outputs = ", ".join(TENSOR % (f"y{name}", type_, out_dims) for name, type_ in each)
    config = more.get("config", "max_batch_size: 8")
    (folder / "config.pbtxt").write_text(f'backend: "python" {config} input [ {inputs} ] output [ {outputs} ]')
    return backend.load(spec_of(folder))


def regions(backend: TritonBackend) -> Regions:
    """Those that the server has now."""
    return backend.server.link().regions


def rows(count: int = 1, size: int = LARGE // 4, first: float = 1) -> Array:
    """Some rows of numbers, the first of which is `first`."""
    found = np.arange(count * size, dtype=np.float32).reshape(count, size) + 1
    found[0, 0] = first
    return found


def asked(model: TritonModel, tensors: Tensors, timeout_s: float = 20, **about: object) -> Tensors:
    """What the model answers."""
    reply = model.invoke(Request(tensors=tensors, about=about), time.monotonic() + timeout_s)
    assert reply.tensors is not None
    return reply.tensors


@pytest.mark.parametrize("dims", ["-1", str(LARGE)])
def test_answers_are_those_of_the_wire(backend: TritonBackend, tmp_path: Path, dims: str) -> None:
    """Of all types and of arrays that lie otherwise in memory; outputs of free shapes go by gRPC."""
    model = load(backend, tmp_path / "m", "FP32 FP16 INT64 BOOL UINT8 STRING", dims)
    count = LARGE
    numbers = np.arange(2 * count).reshape(count, 2).T
    given = {
        "a": numbers.astype(np.float32) + 1,
        "b": (numbers % 2048).astype(np.float16)[:, ::-1],
        "c": numbers.astype(">i8"),
        "d": numbers % 2 == 0,
        "e": numbers.astype(np.uint8),
        "f": np.full((2, count), b"words", object),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_call, "LEAST_BYTES", 1 << 60)
        made = regions(backend).made
        by_wire = model.run(given)
        assert regions(backend).made == made
    shared = model.run(given)
    assert regions(backend).made > made or regions(backend).held_bytes > 0
    assert list(shared) == list(by_wire)
    for name, array in by_wire.items():
        assert shared[name].dtype == array.dtype
        assert np.array_equal(shared[name], array)
        assert np.array_equal(array, given[name.removeprefix("y")])
    model.close()


def test_a_region_serves_one_request_after_another(backend: TritonBackend, tmp_path: Path) -> None:
    """Registered once; an answer does not change when the region is used again."""
    model = load(backend, tmp_path / "m", dims=str(LARGE))
    first = model.run({"a": rows(2, LARGE, 5)})["ya"]
    made = regions(backend).made
    for number in range(6, 10):
        assert model.run({"a": rows(2, LARGE, number)})["ya"][0, 0] == number
    assert regions(backend).made == made
    assert np.array_equal(first, rows(2, LARGE, 5))
    with pytest.raises(ModelFailedError, match="unlucky"):
        model.run({"a": rows(2, LARGE, 13)})
    model.run({"a": rows(2, LARGE)})
    assert regions(backend).made == made
    model.close()


def test_small_tensors_are_in_the_message(backend: TritonBackend, tmp_path: Path) -> None:
    """And each by itself: a large one beside it is not."""
    model = load(backend, tmp_path / "m", "FP32 FP32")
    made, held = regions(backend).made, regions(backend).held_bytes
    assert len(model.run({"a": rows(size=2), "b": rows(size=3)})) == 2
    assert (regions(backend).made, regions(backend).held_bytes) == (made, held)
    found = model.run({"a": rows(size=2), "b": rows(size=3 * LARGE)})
    assert [each.size for each in found.values()] == [2, 3 * LARGE]
    assert regions(backend).held_bytes > 0
    model.close()


def test_only_the_outputs_that_are_asked_for_come(backend: TritonBackend, tmp_path: Path) -> None:
    """Wherever they lie."""
    model = load(backend, tmp_path / "m", "FP32 FP32", str(LARGE))
    found = asked(model, {"a": rows(1, LARGE), "b": rows(1, LARGE, 7)}, outputs=["yb"])
    assert list(found) == ["yb"]
    assert found["yb"][0, 0] == 7
    model.close()


@pytest.mark.parametrize("answer", ["np.tile(x, 3)", "np.full((1, 2 * x.size), b'text', object)"])
def test_a_model_that_answers_other_than_it_says_is_heard(
    backend: TritonBackend, tmp_path: Path, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its outputs have no room where they should lie: it is asked once more, and then they come by gRPC."""
    model = load(backend, tmp_path / "m", dims=str(LARGE), expression=answer)
    given = rows(1, LARGE)
    wanted = np.full((1, 2 * LARGE), b"text", object) if "text" in answer else np.tile(given, 3)
    for count in (2, 3):
        assert np.array_equal(model.run({"a": given})["ya"], wanted)
        assert len((tmp_path / "m/seen").read_text().split()) == count
    assert "event=outputs_not_shared" in caplog.text
    model.close()


def test_a_request_of_a_sequence_is_never_sent_twice(backend: TritonBackend, tmp_path: Path) -> None:
    """So that its outputs come by gRPC, which has room for all."""
    config = "max_batch_size: 0 sequence_batching { }"
    model = load(backend, tmp_path / "m", dims=str(LARGE), expression="np.tile(x, 3)", config=config)
    found = asked(model, {"a": rows(1, LARGE)[0]}, sequence_id=5, flags=3)
    assert found["ya"].shape == (3 * LARGE,)
    assert len((tmp_path / "m/seen").read_text().split()) == 1
    model.close()


def test_what_a_cut_off_request_will_read_is_left_alone(
    backend: TritonBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits in tritonserver's line when its deadline passes, and is run later: with its own numbers."""
    model = load(backend, tmp_path / "m", dims=str(LARGE))
    with pytest.raises(DeadlineExceededError):
        asked(model, {"a": rows(1, LARGE, -1.5)}, timeout_s=0.3)
    with pytest.raises(DeadlineExceededError):
        asked(model, {"a": rows(1, LARGE, 111)}, timeout_s=0.3)
    held = regions(backend).held_bytes
    assert asked(model, {"a": rows(1, LARGE, 222)})["ya"][0, 0] == 222
    seen = [float(each) for each in (tmp_path / "m/seen").read_text().split()]
    assert seen == [-1.5, 111, 222]
    assert regions(backend).held_bytes > held

    # Once they are over their memory is had again: each of these wants a region of another size.
    monkeypatch.setattr("serving.backends.triton_memory._ASK_AGAIN_S", 0.0)
    sizes = iter(range(3, 100))
    until(lambda: model.run({"a": rows(1, LARGE)}) and _is_swept(backend, LARGE * next(sizes)))
    model.close()


def _is_swept(backend: TritonBackend, size: int) -> bool:
    with regions(backend).lent(min(size, regions(backend).max_bytes)):
        return not regions(backend)._abandoned
