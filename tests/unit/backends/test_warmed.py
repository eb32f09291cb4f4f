"""Samples of model_warmup run before a model is ready."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends.onnx import OnnxBackend
from serving.backends.warmed import WarmedBackend
from serving.backends.wrapping import WrappedBackend, WrappedModel
from serving.errors import InsufficientMemoryError, LoadFailedError
from serving.repository.handler_spec import HandlerSpec
from serving.repository.layouts import ModelSpec
from serving.repository.warmup import WarmupInput, WarmupSample
from serving.tensors import Signature, Tensors, TensorSpec
from tests.unit.backends.test_onnx import adder

A, B = WarmupInput("a", "FP32", (2, 3)), WarmupInput("b", "FP32", (2, 3), is_random=True)


class Recorded(WrappedModel):
    """A model that remembers its runs."""

    signature = Signature((TensorSpec("a"), TensorSpec("b")), ())
    is_outside = False
    takes_bodies = False

    def __init__(self) -> None:
        self.runs: list[Tensors] = []
        self.is_closed = False

    def run(self, inputs: Tensors) -> Tensors:
        """Remember."""
        self.runs.append(inputs)
        return {}

    def close(self) -> None:
        """Remember that too."""
        self.is_closed = True


class Ready(WrappedBackend):
    """A backend of one model."""

    name = "ready"

    def __init__(self, model: Any) -> None:
        self.model = model

    def load(self, spec: ModelSpec) -> Any:
        """Return it."""
        return self.model


def spec_of(*samples: WarmupSample, **more: Any) -> ModelSpec:
    return ModelSpec("m", "onnx", Path("m"), 1, warmup=samples, **more)


def test_every_sample_runs_as_often_as_it_says() -> None:
    """In order, with the tensors that it describes."""
    model = Recorded()
    samples = (WarmupSample("first", 2, (A, B)), WarmupSample("second", 1, (B, A)))
    assert WarmedBackend(Ready(model)).load(spec_of(*samples)) is model
    assert [list(run) for run in model.runs] == [["a", "b"]] * 3
    assert (model.runs[0]["a"] == 0).all()
    assert (model.runs[0]["b"] != 0).all()


def test_a_real_model_is_warmed_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And the log says so."""
    file = adder(tmp_path)
    with caplog.at_level(logging.INFO):
        spec = ModelSpec("m", "onnx", file, file.stat().st_size, warmup=(WarmupSample("s", 1, (A, B)),))
        model = WarmedBackend(OnnxBackend("cpu", 1)).load(spec)
    assert "event=warmed model=m sample=s" in caplog.text
    model.close()


@pytest.mark.parametrize("inputs", [(A,), (A, WarmupInput("b", "FP32", (2, 5))), (A, WarmupInput("b", "FP64", (2, 3)))])
def test_a_sample_that_fails_is_a_load_that_fails(tmp_path: Path, inputs: tuple[WarmupInput, ...]) -> None:
    """An input too few, a wrong shape, a wrong type: by the name of the sample, and nothing stays loaded."""
    file = adder(tmp_path)
    spec = ModelSpec("m", "onnx", file, file.stat().st_size, warmup=(WarmupSample("odd", 1, inputs),))
    with pytest.raises(LoadFailedError, match=r"sample 'odd' of its model_warmup"):
        WarmedBackend(OnnxBackend("cpu", 1)).load(spec)
    model = Recorded()
    with pytest.raises(LoadFailedError, match="none"):
        WarmedBackend(Ready(model)).load(spec_of(WarmupSample("none", 1, (A,))))
    assert model.is_closed


def test_memory_that_is_short_stays_that() -> None:
    """The manager makes room and tries again."""

    class Short(Recorded):
        def run(self, inputs: Tensors) -> Tensors:
            raise InsufficientMemoryError("no memory")

    with pytest.raises(InsufficientMemoryError):
        WarmedBackend(Ready(Short())).load(spec_of(WarmupSample("s", 1, (A, B))))


def test_a_worker_model_gets_as_many_runs_at_once_as_it_has_instances() -> None:
    """So that each instance has a turn."""
    model = Recorded()
    model.is_outside = True
    handler = HandlerSpec("triton_python", Path(), min_workers=3)
    WarmedBackend(Ready(model)).load(spec_of(WarmupSample("s", 2, (A, B)), handler=handler))
    assert len(model.runs) == 6


def test_a_model_that_takes_bodies_is_not_warmed_up(caplog: pytest.LogCaptureFixture) -> None:
    """A sample has no body; the log says so."""
    model = Recorded()
    model.takes_bodies = True
    WarmedBackend(Ready(model)).load(spec_of(WarmupSample("s", 1, (A, B))))
    assert not model.runs
    assert "event=not_warmed model=m" in caplog.text


def test_zeros_of_text_are_empty() -> None:
    """And noise is not."""
    assert WarmupInput("t", "BYTES", (2,)).array().tolist() == [b"", b""]
    assert WarmupInput("t", "BYTES", (1,), is_random=True).array().tolist() == [b"0"]
    assert set(WarmupInput("t", "INT64", (64,), is_random=True).array().tolist()) == {0, 1}
    assert WarmupInput("t", "BOOL", (), is_random=True).array().dtype == np.bool_
