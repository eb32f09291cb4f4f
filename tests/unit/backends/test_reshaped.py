"""A client's shape and a model's shape of the same tensor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends.base import LoadedModel
from serving.backends.onnx import OnnxBackend
from serving.backends.reshaped import ReshapedBackend, ReshapedModel
from serving.backends.wrapping import WrappedModel
from serving.errors import InvalidArtifactError, ModelFailedError
from serving.repository.layouts import ModelSpec
from serving.tensors import Signature, Tensors, TensorSpec
from serving.workers.handler import Reply, Request
from tests.unit.backends.test_onnx import FLOAT, graph, node

pytest.importorskip("onnx")


def load(folder: Path, dims: list[Any], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> LoadedModel:
    """Make the identity of one tensor of `dims` ready."""
    file = graph(folder, [node("Identity", "x", "y")], {"x": (FLOAT, dims)}, {"y": (FLOAT, dims)})
    return ReshapedBackend(OnnxBackend("cpu", 1)).load(
        ModelSpec("m", "onnx", file, file.stat().st_size, inputs, outputs)
    )


def test_the_model_gets_and_gives_its_own_shape(tmp_path: Path) -> None:
    """Clients send and see theirs, the batch leads both."""
    model = load(
        tmp_path, ["b", 2, 3], (TensorSpec("x", "FP32", (-1, 6), (-1, 2, 3)),),
        (TensorSpec("y", "FP32", (-1, 3, 2), (-1, 2, 3)),),
    )  # fmt: skip
    assert model.signature.inputs == (TensorSpec("x", "FP32", (-1, 6), (-1, 2, 3)),)
    assert model.signature.outputs[0].dims == (-1, 3, 2)
    given = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(model.run({"x": given})["y"], given.reshape(2, 3, 2))


def test_a_sample_may_be_a_scalar(tmp_path: Path) -> None:
    """The empty reshape, which most people write."""
    spec = TensorSpec("x", "FP32", (-1, 1), (-1,))
    model = load(tmp_path, ["b"], (spec,), ())
    assert model.run({"x": np.ones((3, 1), np.float32)})["y"].shape == (3,)


def test_free_dims_keep_their_order(tmp_path: Path) -> None:
    """Each goes where the configuration has the next one."""
    spec = TensorSpec("x", "FP32", (-1, 2, -1, 6), (-1, 1, 2, -1, 3, 2))
    model = load(tmp_path, ["b", 1, 2, "n", 3, 2], (spec,), ())
    assert model.run({"x": np.ones((4, 2, 5, 6), np.float32)})["y"].shape == (4, 1, 2, 5, 3, 2)


def test_what_the_model_fixes_is_fixed_for_clients_too(tmp_path: Path) -> None:
    """A batch of 1 in the file narrows the first dim."""
    model = load(tmp_path, [1, 2, 3], (TensorSpec("x", "FP32", (-1, 6), (-1, 2, 3)),), ())
    assert model.signature.inputs == (TensorSpec("x", "FP32", (1, 6), (1, 2, 3)),)


def test_a_reshape_that_is_not_the_models_is_refused(tmp_path: Path) -> None:
    """At the load, with both shapes."""
    with pytest.raises(InvalidArtifactError, match=r"\[-1, 2, 3\].*\[-1, 3, 2\]"):
        load(tmp_path, ["b", 2, 3], (TensorSpec("x", "FP32", (-1, 6), (-1, 3, 2)),), ())


def test_a_model_without_a_reshape_is_untouched(tmp_path: Path) -> None:
    """Nothing stands between it and its callers."""
    assert not isinstance(load(tmp_path, ["b", 2], (TensorSpec("x", "FP32", (-1, 2)),), ()), WrappedModel)


class Handler(WrappedModel):
    """A model in a worker, as far as a reshape sees it: it answers what it gets, or a body."""

    def __init__(self) -> None:
        self.seen: list[Request] = []

    signature = Signature((TensorSpec("x"),), (TensorSpec("y"),))

    def invoke(self, request: Request, deadline: float) -> Reply:
        """Answer with the same tensor."""
        self.seen.append(request)
        return Reply(tensors=request.tensors and {"y": request.tensors["x"]})


def reshaped_handler() -> tuple[Handler, ReshapedModel]:
    inner = Handler()
    inputs, outputs = (TensorSpec("x", None, (-1, 4), (-1, 2, 2)),), (TensorSpec("y", None, (-1, 4), (-1, 2, 2)),)
    return inner, ReshapedModel(ModelSpec("m", "worker", Path("m"), 1, inputs, outputs), inner)


def test_a_worker_gets_and_gives_its_own_shape_too() -> None:
    """What else the client said travels along, and a body passes as it is."""
    inner, model = reshaped_handler()
    given: Tensors = {"x": np.ones((1, 4))}
    reply = model.invoke(Request(tensors=given, about={"id": "a"}), time.monotonic() + 9)
    assert reply.tensors is not None
    assert reply.tensors["y"].shape == (1, 4)
    assert inner.seen[0].tensors is not None
    assert (inner.seen[0].tensors["x"].shape, inner.seen[0].about) == ((1, 2, 2), {"id": "a"})
    assert model.invoke(Request(b"raw"), time.monotonic() + 9).tensors is None


@pytest.mark.parametrize("shape", [(1, 2), (1, 3, 2)])
def test_an_output_of_another_shape_than_configured_is_the_models_failure(shape: tuple[int, ...]) -> None:
    """With both shapes."""
    _, model = reshaped_handler()
    with pytest.raises(ModelFailedError, match=r"output 'y'.*reshape says \[-1, 2, 2\]"):
        model._outward({"y": np.ones(shape)})
