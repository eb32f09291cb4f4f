"""What a worker's reply means: pieces of a stream, or an error of the kind that the model said."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from serving import outcomes
from serving.errors import (
    AlreadyExistsError,
    BadRequestError,
    CancelledError,
    InsufficientMemoryError,
    ModelFailedError,
    ModelNotFoundError,
    ServingError,
    UnavailableError,
    UnclassifiedError,
    UnsupportedError,
)
from serving.workers import answer_frames
from serving.workers.handler import Reply


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (404, ModelNotFoundError),
        (424, ModelFailedError),
        (501, UnsupportedError),
        (503, UnavailableError),
        (507, InsufficientMemoryError),
        (599, ModelFailedError),
    ],
)
def test_a_status_is_a_kind_of_error(status: int, kind: type[ServingError]) -> None:
    """Whatever else is said."""
    assert type(outcomes.failure(Reply(b'{"error": "no", "code": "INTERNAL"}', status))) is kind


@pytest.mark.parametrize(
    ("code", "kind"),
    [("UNKNOWN", UnclassifiedError), ("ALREADY_EXISTS", AlreadyExistsError), ("CANCELLED", CancelledError)],
)
def test_a_code_of_tritons_that_has_no_status_is_one_too(code: str, kind: type[ServingError]) -> None:
    """400 over HTTP; gRPC tells them apart."""
    error = outcomes.failure(Reply(b'{"error": "no", "code": "%s"}' % code.encode(), 400))

    assert (type(error), error.text, error.status, error.grpc_code) == (kind, "no", 400, code)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": "a\\n\\nAt:\\n  b\\n"}', "a\n\nAt:\n  b\n"),
        (b'{"error": 3, "code": []}', "3"),
        (b"plain", "plain"),
        (b"[1]", "[1]"),
        (b"", "The model answered nothing."),
    ],
)
def test_an_error_says_what_the_body_says(body: bytes, said: str) -> None:
    """Line for line."""
    assert outcomes.failure(Reply(body, 424)).text == said


def frames() -> bytes:
    """An answer, an error after which another comes, and the last."""
    return (
        answer_frames.write({"y": np.array([[1], [2]], np.int8)}, {"p": True})
        + answer_frames.write_error("no")
        + answer_frames.write({"y": np.array([3])}, {}, is_last=True)
    )


def test_frames_become_pieces() -> None:
    """Tensors by name, type and shape; an error is one of several."""
    first, second, third = outcomes.streamed(frames())

    assert (first.outputs["y"].dtype, first.outputs["y"].tolist()) == (np.dtype(np.int8), [[1], [2]])
    assert (first.parameters, first.is_last, first.error) == ({"p": True}, False, None)
    assert isinstance(second.error, ModelFailedError)
    assert (second.error.text, second.outputs, second.is_last) == ("no", {}, False)
    assert (third.outputs["y"].tolist(), third.is_last) == ([3], True)


@pytest.mark.parametrize("reply", [Reply(frames()), Reply(chunks=iter([frames(), b""]))])
def test_pieces_come_whole_or_one_by_one(reply: Reply) -> None:
    """Of a batch they are one body."""
    assert [each.is_last for each in outcomes.pieces(reply)] == [False, False, True]


def test_a_normal_answer_is_one_piece_and_the_last() -> None:
    """No frames at all."""
    (piece,) = outcomes.pieces(Reply(tensors={"y": np.array([3])}))

    assert (piece.outputs["y"].tolist(), piece.is_last) == ([3], True)


def test_an_error_in_place_of_a_stream_is_raised() -> None:
    """It is the end."""
    with pytest.raises(UnavailableError, match="busy"):
        list(outcomes.pieces(Reply(b"busy", 503)))


def test_leaving_a_stream_tells_the_model() -> None:
    """Its generator is closed."""
    left = []

    def chunks() -> Iterator[bytes]:
        try:
            yield frames()
        finally:
            left.append(True)

    pieces = outcomes.pieces(Reply(chunks=chunks()))
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]  # a generator
    outcomes.close(Reply())

    assert left == [True]


def test_a_frame_that_is_none_is_the_workers_failure() -> None:
    """In words."""
    with pytest.raises(ModelFailedError, match="an answer that is none"):
        list(outcomes.streamed(b"nonsense"))
