"""NDList bytes to and from numpy arrays.

The format, all integers big-endian: int32 count; then for each array the string `NDAR` (int16 length first), int32
version 3, a byte that says whether a name follows, the name, the string `default` (storage), the data type's name in
capitals, the shape (int32 rank, int64 a dimension, int32 layout length, a 16-bit `?` a dimension), the byte order `<`
or `>`, int32 data length, and the data in C order. `inputs` and `outputs` call it.
"""

from __future__ import annotations

import io
import struct
from typing import Any

MAGIC = "NDAR"
VERSION = 3
# The peer's Java side says BOOLEAN where numpy says bool.
_NUMPY_NAMES = {"boolean": "bool"}


def to_nd_list(arrays: Any) -> bytearray:
    """Encode a list of arrays, or one array. Anything else, a tuple too, raises AttributeError."""
    if not isinstance(arrays, list):
        arrays = [arrays]
    encoded = bytearray(struct.pack(">i", len(arrays)))
    for array in arrays:
        _encode(array, encoded)
    return encoded


def _encode(array: Any, into: bytearray) -> None:
    into += _string(MAGIC) + struct.pack(">iB", VERSION, 0) + _string("default") + _string(array.dtype.name.upper())
    rank = len(array.shape)
    into += struct.pack(f">i{rank}qi", rank, *array.shape, rank) + struct.pack(">H", ord("?")) * rank
    data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes("C")
    into += b"<" + struct.pack(">i", len(data)) + data


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded


def from_nd_list(encoded: Any) -> list[Any]:
    """Decode NDList, npz (by its magic `PK`) or npy bytes into a list of arrays.

    Raises ValueError where the bytes are none of these, or end early.
    """
    if bytes(encoded[:2]) == b"PK":
        return from_npz(encoded)
    if bytes(encoded[:6]) == b"\x93NUMPY":
        import numpy as np

        return [np.load(io.BytesIO(encoded))]
    reader = _Reader(encoded)
    return [_decode(reader) for _ in range(reader.integer())]


def from_npz(encoded: Any) -> list[Any]:
    """Decode an npz archive into its arrays, in the order of the file. Pickled objects are refused."""
    import numpy as np

    with np.load(io.BytesIO(encoded)) as archive:
        return [archive[name] for name in archive.files]


def _decode(reader: _Reader) -> Any:
    import numpy as np

    magic, version = reader.string(), reader.integer()
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError(f"An NDList array begins with {magic!r} {version}, wanted {MAGIC!r} {VERSION}.")
    if reader.take(1) == b"\x01":
        reader.string()
    reader.string()  # how it is stored: `default` is all there is
    name = reader.string().lower()
    rank = reader.integer()
    shape = struct.unpack(f">{rank}q", reader.take(8 * rank))
    reader.take(2 * reader.integer())
    is_big = reader.take(1) == b">"
    dtype = np.dtype(_NUMPY_NAMES.get(name, name)).newbyteorder(">" if is_big else "<")
    return np.frombuffer(reader.take(reader.integer()), dtype).reshape(shape)


class _Reader:
    def __init__(self, encoded: Any) -> None:
        self.view = memoryview(encoded)
        self.at = 0

    def take(self, size: int) -> bytes:
        taken = bytes(self.view[self.at : self.at + size]) if size >= 0 else b""
        if len(taken) != size:
            raise ValueError(f"The NDList ends early: byte {self.at} should begin {size} more, found {len(taken)}.")
        self.at += size
        return taken

    def integer(self) -> int:
        return int.from_bytes(self.take(4), "big", signed=True)

    def string(self) -> str:
        return self.take(int.from_bytes(self.take(2), "big", signed=True)).decode()
