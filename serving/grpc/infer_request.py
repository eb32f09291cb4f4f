"""A ModelInferRequest whose tensors stay where they came in.

protobuf copies `raw_input_contents` when it parses, and once more when they are read: of 602,112 bytes each costs
15-25 us, and twice that where other processes share the cache. So that field is cut out here, by the wire format
(protobuf.dev, "Encoding"), and protobuf parses the rest. What is no plain sequence of fields is left to protobuf, which
says what is wrong. `listener` has messages read by it, `messages` takes the tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tritonclient.grpc import service_pb2 as pb

# Below it the loop here costs more than the copies.
_CUT_FROM_BYTES = 32 << 10
# A request has one for each tensor; each is objects here and none in protobuf, and 6 MiB can be 3 million of them.
_FIELDS_MAX = 4096
# All fields of a ModelInferRequest are of wire type 2: length and bytes. Field 7 is raw_input_contents.
_LENGTH_DELIMITED, _RAW_TAG = 2, 7 << 3 | 2


class InferRequest:
    """The message, by `message` or by its fields; `raw_input_contents` are in place."""

    __slots__ = ("message", "raw_input_contents")

    def __init__(self, message: Any, raw: Sequence[bytes | memoryview]) -> None:
        self.message = message
        self.raw_input_contents = raw

    @classmethod
    def read(cls, data: bytes) -> InferRequest:
        """Read a serialized ModelInferRequest; raises protobuf's `DecodeError`."""
        cut = _cut(data) if len(data) >= _CUT_FROM_BYTES else None
        if cut is not None:
            return cls(pb.ModelInferRequest.FromString(cut[0]), cut[1])
        message = pb.ModelInferRequest.FromString(data)
        return cls(message, list(message.raw_input_contents))

    def __getattr__(self, name: str) -> Any:
        """Return a field."""
        return getattr(self.message, name)


def _cut(data: bytes) -> tuple[bytes, list[memoryview]] | None:
    """Return a message without its raw contents, and those; None where it is not what this room knows."""
    view, at = memoryview(data), 0
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    try:
        while at < len(data):
            tag, start = data[at], at + 1
            size, start = _varint(data, start)
            end = start + size
            if tag & 7 != _LENGTH_DELIMITED or tag >= 0x80 or end > len(data) or len(rest) + len(raw) >= _FIELDS_MAX:
                return None
            if tag == _RAW_TAG:
                raw.append(view[start:end])
            else:
                rest.append(view[at:end])
            at = end
    except IndexError:
        return None
    return b"".join(rest), raw


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the lowest first, and where it ends; of 5 bytes at most, as sizes are."""
    value = 0
    for shift in range(0, 35, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError("a size of over 5 bytes")
