"""What came of a call to a model outside: pieces of a stream, or an error of the kind that the model said.

Reads a worker's `Reply`, whose status and body are the model's own words, and the frames of one that streams. Knows no
request and no statistics; `inference` calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

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
from serving.tensors import Tensors
from serving.workers import answer_frames
from serving.workers.handler import Body, Reply

# What a model's own code says with a status of its own; any other status is a failure of the model.
_KINDS: dict[int, type[ServingError]] = {
    400: BadRequestError,
    404: ModelNotFoundError,
    501: UnsupportedError,
    503: UnavailableError,
    507: InsufficientMemoryError,
}
# Triton's codes that have no status of their own.
_CODES: dict[object, type[ServingError]] = {
    "UNKNOWN": UnclassifiedError,
    "ALREADY_EXISTS": AlreadyExistsError,
    "CANCELLED": CancelledError,
}


@dataclass(frozen=True, slots=True)
class Piece:
    """One answer of a stream: outputs with parameters, or an error after which others may come."""

    outputs: Tensors = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    is_last: bool = False
    error: ServingError | None = None


def pieces(reply: Reply) -> Iterator[Piece]:
    """Yield what a reply to a request for a stream holds; closing it tells the model that the client left.

    Raises the error that the whole reply is.
    """
    if reply.tensors is not None:
        yield Piece(reply.tensors, is_last=True)
    elif reply.chunks is not None:
        try:
            for frames in reply.chunks:
                yield from streamed(frames)
        finally:
            close(reply)
    elif reply.status >= 400:
        raise failure(reply)
    else:  # of a batch, whose answers are sent whole
        yield from streamed(reply.body)


def close(reply: Reply) -> None:
    """Tell a model that streams that nobody reads any more."""
    getattr(reply.chunks, "close", lambda: None)()


def streamed(frames: Body) -> Iterator[Piece]:
    """Yield the piece that each frame of a worker's stream is; raises `ModelFailedError` for what is no frame."""
    try:
        for head, tensors in answer_frames.read(frames):
            is_last = head.get("last") is True
            if "error" in head:
                yield Piece(is_last=is_last, error=ModelFailedError(str(head["error"])))
                continue
            said = head.get("parameters")
            yield Piece(tensors, said if isinstance(said, dict) else {}, is_last)
    except ValueError as error:
        raise ModelFailedError(f"The model's worker sent an answer that is none: {error}") from None


def failure(reply: Reply) -> ServingError:
    """Return the error that a reply without tensors is."""
    body = bytes(reply.body)
    text, code = body.decode("utf-8", "replace"), None
    with suppress(ValueError, KeyError, TypeError):  # a model's own words
        said = orjson.loads(body)
        text, code = str(said["error"]), said.get("code")
    kind = _CODES.get(code) if isinstance(code, str) else None
    return (kind or _KINDS.get(reply.status, ModelFailedError))(text or "The model answered nothing.")
