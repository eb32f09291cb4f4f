"""Protobuf's wire format, walked through a memory map: what is long is stepped over, not read.

Enough to tell whether a file of a known schema is whole and which messages lie where; numbers of fields are its own.
`onnx_files` and `saved_model_files` walk with it; neither needs a library of protobufs.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (number, start, end) of the fields between two bytes that have a length; step over the others.

    Raises `ValueError` for what does not add up: a file that is no protobuf, or cut short.
    """
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        wire = tag & 7
        if wire == _BYTES:
            size, at = _varint(data, at, end)
            if at + size > end:
                raise ValueError(f"a field at byte {at} has {size} bytes, and {end - at} are left")
            yield tag >> 3, at, at + size
            at += size
        elif wire == _VARINT:
            _, at = _varint(data, at, end)
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"no field starts at byte {at}")
    if at != end:
        raise ValueError(f"a field ends at byte {at}, past {end}")


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= end:
            raise ValueError(f"it ends inside a number at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"a number at byte {at} does not end")
