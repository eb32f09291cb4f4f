"""Streams of the service without a channel: marks, errors among answers, what is asked of a client that left."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.grpc.calls import House
from serving.grpc.service import Service
from serving.http.admission import Admission
from serving.workers import answer_frames
from serving.workers.handler import Reply
from tests.unit.test_inference import Engine

pb = pytest.importorskip("tritonclient.grpc.service_pb2")


class Client:
    """A client that leaves after so many questions whether it is still there."""

    def __init__(self, patience: int = 1000) -> None:
        self._left = patience

    def is_active(self) -> bool:
        """Say whether it listens."""
        self._left -= 1
        return self._left > 0


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """With a model `m` of this process."""
    engine = Engine(tmp_path)
    engine.house.make("m")
    return engine


def ask(engine: Engine, model: str, client: Client | None = None, *, wants_last: bool = True) -> list[Any]:
    """What comes of one request of a stream."""
    admission = Admission(10, 1 << 20, 1 << 20)
    house = House(admission, [], lambda _: None, str, lambda: True, lambda *_: None)
    request = pb.ModelInferRequest(model_name=model, id="7")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(np.ones(1, np.float32).tobytes())
    request.parameters["triton_enable_empty_final_response"].bool_param = wants_last
    answers = Service(engine.inference, house).ModelStreamInfer(iter([request]), client or Client())
    # In a context of its own, as a thread of the server: lines of the log are told whose they are.
    found = copy_context().run(list, answers)
    assert admission.in_flight == 0
    return found


def marks(found: list[Any]) -> list[Any]:
    """Of each answer the error, or the mark and how many outputs there are."""
    return [
        each.error_message
        or (each.infer_response.parameters["triton_final_response"].bool_param, len(each.infer_response.outputs))
        for each in found
    ]


def frame(value: int, *, is_last: bool = False) -> bytes:
    """One answer of a worker's stream."""
    return answer_frames.write({"y": np.array([value])}, {}, is_last=is_last)


ERROR = answer_frames.write_error("no\n")


@pytest.mark.parametrize(
    ("frames", "wants_last", "expected"),
    [
        ([frame(1), frame(2)], False, [(False, 1), (False, 1)]),
        ([frame(1), frame(2)], True, [(False, 1), (False, 1), (True, 0)]),
        ([frame(1), frame(2, is_last=True)], True, [(False, 1), (True, 1)]),
        ([ERROR, frame(2)], True, ["no\n", (False, 1), (True, 0)]),
        ([frame(1), answer_frames.write_error("no", is_last=True)], True, [(False, 1), "no"]),
        ([], True, [(True, 0)]),
        ([], False, []),
    ],
)
def test_each_answer_says_whether_it_is_the_last(
    engine: Engine, frames: list[bytes], wants_last: bool, expected: list[Any]
) -> None:
    """Where none was, who asked for it gets an empty one more; an error is one of several."""
    engine.outside(lambda _: Reply(chunks=iter(frames)))
    found = ask(engine, "far", wants_last=wants_last)

    assert marks(found) == expected
    assert {each.infer_response.id for each in found} <= {"7"}


def test_the_empty_last_one_has_no_version(engine: Engine) -> None:
    """As with Triton."""
    engine.outside(lambda _: Reply(chunks=iter([frame(1)])))
    first, last = ask(engine, "far")

    assert (first.infer_response.model_version, last.infer_response.model_version) == ("1", "")


def test_the_one_answer_of_a_model_is_its_last(engine: Engine) -> None:
    """Asked for or not."""
    assert marks(ask(engine, "m", wants_last=False)) == [(True, 1)]


def test_a_refusal_is_the_only_answer(engine: Engine) -> None:
    """No empty one follows."""
    assert marks(ask(engine, "nope")) == ["Request for unknown model: 'nope' is not found"]
    engine.outside(lambda _: Reply(b'{"error": "no"}', 424))
    assert marks(ask(engine, "far")) == ["no"]


def test_a_client_that_left_is_told_nothing_more(engine: Engine) -> None:
    """And the model's generator is closed."""
    closed = []

    def chunks() -> Iterator[bytes]:
        try:
            yield frame(1)
            yield frame(2)
        finally:
            closed.append(True)

    engine.outside(lambda _: Reply(chunks=chunks()))

    assert marks(ask(engine, "far", Client(patience=1))) == [(False, 1)]
    assert closed == [True]
