"""Answers of a stream as bytes, for who reads tensors: exact, NaN and all, and without a number written out.

    4 bytes, little-endian: the length of the head | head, JSON | body of tensors
    {"tensors": [...], "bytes": 192, "parameters": {...}, "last": true}  or  {"error": "...", "last": true}

`tensors` is `tensor_frames`' description of the body, `bytes` the body's length, so that frames may follow one another
in one body; `last` stands in the one that the model sent as its last. Heads end in spaces, for bodies that start at a
multiple of 64. Runs on both sides and under foreign interpreters; written by dialects whose models stream, read by
`outcomes`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from serving.workers import tensor_frames
from serving.workers.handler import Body

TYPE = "application/x-wharf-tensors"
_ALIGN = 64
_LENGTH = struct.Struct("<I")


def write(tensors: Mapping[str, Any], parameters: Mapping[str, Any], *, is_last: bool = False) -> bytes:
    """Return the frame of one answer. Raises `ValueError` for a type that is no data type here."""
    described, buffers, size = tensor_frames.pack(tensors, 0)
    head: dict[str, Any] = {"tensors": described, "bytes": size}
    if parameters:
        head["parameters"] = dict(parameters)
    return b"".join((_head(head, is_last), *buffers))


def write_error(message: str, *, is_last: bool = False) -> bytes:
    """Return the frame of an answer that is an error."""
    return _head({"error": message}, is_last)


def _head(head: dict[str, Any], is_last: bool) -> bytes:
    if is_last:
        head["last"] = True
    text = json.dumps(head).encode()
    text += b" " * (-(len(text) + _LENGTH.size) % _ALIGN)
    return _LENGTH.pack(len(text)) + text


def read(frames: Body) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield head and tensors, views of `frames`, of each. Raises `ValueError` for bytes that are no frames."""
    rest = memoryview(frames)
    while rest:
        head, size = _read_head(rest)
        start = _LENGTH.size + size
        body_bytes = head.get("bytes", 0)
        end = start + body_bytes if type(body_bytes) is int else -1
        if not start <= end <= len(rest):
            raise ValueError(f"a frame with a body of {body_bytes!r:.40} bytes in {len(rest)}")
        yield head, tensor_frames.unpack(head.get("tensors", ()), rest[start:end])
        rest = rest[end:]


def _read_head(frame: memoryview) -> tuple[dict[str, Any], int]:
    try:
        (size,) = _LENGTH.unpack_from(frame)
        head = json.loads(bytes(frame[_LENGTH.size : _LENGTH.size + size]))
    except (struct.error, RecursionError) as error:
        raise ValueError(f"a frame that is none: {error}") from None
    if not isinstance(head, dict):
        raise ValueError(f"the head of a frame is a JSON {type(head).__name__}")
    return head, size
