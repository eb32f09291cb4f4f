"""Tensors as little-endian bytes, row-major, as V2 carries them beside its JSON and in its protobuf messages.

BYTES elements are a 32-bit length and so many bytes. What came is `Unread` until it is known that the model wants it;
the texts of what is wrong with it are Triton's. Knows neither JSON nor a message: `v2` and `grpc/messages` make and
write tensors, `fitting` has them read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.codecs.json_numbers import MAX_RANK
from serving.errors import BadRequestError
from serving.tensors import DTYPES, Array

_LENGTH = struct.Struct("<I")


@dataclass(slots=True)
class Unread:
    """A tensor's bytes as they came. Not frozen, as each request makes some: that would take three times as long."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: memoryview

    def read(self, about: str, model: str) -> Array:
        """Return the array, a view but for BYTES.

        Raises `BadRequestError` with Triton's texts, which begin with `about` and name the input and the model.
        """
        whose = f"'{self.name}' for model '{model}'"
        if -1 in self.shape:
            raise BadRequestError(
                f"{about}All input dimensions should be specified for input {whose}, got {shown(self.shape)}"
            )
        count = math.prod(self.shape)
        if self.datatype == "BYTES":
            texts = _split(self, count, about, whose)
            self._refuse_odd()
            return texts.reshape(self.shape)
        dtype = DTYPES[known_datatype(self.name, self.datatype)]
        if len(self.data) != count * dtype.itemsize:
            raise BadRequestError(
                f"{about}input byte size mismatch for input {whose}. Expected {count * dtype.itemsize}, got "
                f"{len(self.data)}"
            )
        self._refuse_odd()
        if self.datatype == "BOOL" and np.frombuffer(self.data, np.uint8).max(initial=0) > 1:
            raise BadRequestError(f"input '{self.name}' is BOOL and has bytes other than 0 and 1: send only those.")
        array = np.frombuffer(self.data, dtype.newbyteorder("<"), count)
        return array.reshape(self.shape).astype(dtype, copy=False)

    def _refuse_odd(self) -> None:
        """Refuse shapes that the right number of bytes makes no array of."""
        # The product of what is not 0 as well: numpy refuses an empty array of such a shape.
        dims = self.shape
        if len(dims) > MAX_RANK or min(dims, default=0) < 0 or math.prod(filter(None, dims)) >= 2**31:
            raise BadRequestError(
                f"input '{self.name}' has the shape {list(dims[:8])}: dimensions, and their product, are 0 to 2**31 - "
                "1."
            )


def known_datatype(name: str, datatype: str) -> str:
    """Return `datatype`; raises `BadRequestError` for one that is none."""
    if datatype not in DTYPES:
        raise BadRequestError(f"inference input '{name}' has datatype '{datatype}': one of {', '.join(DTYPES)}.")
    return datatype


def shown(shape: Sequence[int]) -> str:
    """Return a shape as Triton writes it."""
    return "[" + ",".join(map(str, shape)) + "]"


def _split(tensor: Unread, count: int, about: str, whose: str) -> Array:
    elements: list[bytes] = []
    data, at = tensor.data, 0
    while at < len(data):
        if at + 4 > len(data):
            raise BadRequestError(
                f"{about}incomplete string length indicator for inference input {whose}, expecting 4 bytes but only "
                f"{len(data) - at} bytes available. Please make sure the string length indicator is in one buffer."
            )
        if len(elements) == count:
            raise BadRequestError(
                f"{about}unexpected number of string elements {count + 1} for inference input {whose}, expecting "
                f"{count}"
            )
        size = _LENGTH.unpack_from(data, at)[0]
        if at + 4 + size > len(data):
            raise BadRequestError(
                f"incomplete string data for inference input '{tensor.name}', expecting string of length {size} but "
                f"only {len(data) - at - 4} bytes available"
            )
        elements.append(bytes(data[at + 4 : at + 4 + size]))
        at += 4 + size
    if len(elements) != count:
        raise BadRequestError(
            f"{about}expected {count} string elements for inference input {whose}, got {len(elements)}"
        )
    array = np.empty(count, object)
    array[:] = elements
    return array


def to_buffer(array: Array) -> bytes | memoryview:
    """Return what `to_bytes` returns, of numbers without a copy where they lie so already."""
    if array.dtype.kind in "OSU" or not array.size:
        return to_bytes(array)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data.cast("B")


def to_bytes(array: Array) -> bytes:
    """Return an array as little-endian bytes, BYTES with lengths."""
    if array.dtype.kind in "OSU":
        parts: list[bytes] = []
        for element in array.ravel().tolist():
            data = element if isinstance(element, bytes) else str(element).encode()
            parts += (_LENGTH.pack(len(data)), data)
        return b"".join(parts)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
