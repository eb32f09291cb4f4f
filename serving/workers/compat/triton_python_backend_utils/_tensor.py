"""Tensors of Triton's Python backend, its data types by number and by name, and strings as bytes on the wire.

A tensor is a name and a numpy array in the memory of the CPU. Numbers of types are those of TRITONSERVER_DataType. It
knows no request; people's models make tensors, `triton_python` makes those of a request and reads those of a response.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ._errors import TritonModelException

_BYTES = 13
_TYPES = {
    1: np.bool_,
    2: np.uint8,
    3: np.uint16,
    4: np.uint32,
    5: np.uint64,
    6: np.int8,
    7: np.int16,
    8: np.int32,
    9: np.int64,
    10: np.float16,
    11: np.float32,
    12: np.float64,
    _BYTES: np.object_,
}
# By kind and size: C's `long long` is then the int64 that it is.
_NUMBERS = {(np.dtype(each).kind, np.dtype(each).itemsize): number for number, each in _TYPES.items()}

TRITON_STRING_TO_NUMPY: dict[str, Any] = {
    "TYPE_BOOL": bool,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT16": np.uint16,
    "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}

_DLPACK_CPU = (1, 0)  # kDLCPU and the device's number


def triton_to_numpy_type(data_type: int) -> Any:
    """Return the numpy type of a data type's number, None for one that numpy does not have."""
    return _TYPES.get(data_type)


def numpy_to_triton_type(data_type: Any) -> int | None:
    """Return the number of a numpy type, None for one that Triton does not have."""
    dtype = np.dtype(data_type)
    return _BYTES if dtype.kind == "S" else _NUMBERS.get((dtype.kind, dtype.itemsize))


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """Return the numpy type of a configuration's data_type such as `TYPE_FP32`; KeyError for an unknown one."""
    return TRITON_STRING_TO_NUMPY[triton_type_string]


class Tensor:
    """A named array: of numbers, bools, or objects that are bytes or strings."""

    def __init__(self, name: str, numpy_array: Any) -> None:
        if not isinstance(numpy_array, np.ndarray):
            raise TypeError(
                f"Tensor '{name}' is made of {type(numpy_array).__name__} and wants a numpy array: "
                "convert it, or use Tensor.from_dlpack."
            )
        number = numpy_to_triton_type(numpy_array.dtype)
        if number is None:
            raise TritonModelException(
                f"Tensor '{name}' has the numpy type {numpy_array.dtype}, which Triton does not have: "
                "use a type of numbers, bool, or np.object_ for strings."
            )
        self._name, self._array, self._number = name, numpy_array, number

    def name(self) -> str:
        """Return the name."""
        return self._name

    def as_numpy(self) -> Any:
        """Return the array, which may be written to: of a read-only one a copy, made once."""
        if not self._array.flags.writeable:
            self._array = self._array.copy()
        return self._array

    def triton_dtype(self) -> int:
        """Return the number of the data type."""
        return self._number

    def shape(self) -> list[int]:
        """Return the sizes of the dimensions."""
        return list(self._array.shape)

    def is_cpu(self) -> bool:
        """Return True: tensors of a worker lie in the memory of the CPU."""
        return True

    def to_dlpack(self) -> Any:
        """Return a DLPack capsule of the array, without a copy."""
        return self.__dlpack__()

    def __dlpack__(self, stream: Any = None) -> Any:
        if self._array.dtype.kind in "OS":
            raise TritonModelException(f"Tensor '{self._name}' holds strings, which DLPack has not: use as_numpy().")
        array = self.as_numpy()
        return array.__dlpack__(stream=stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DLPACK_CPU

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> Tensor:
        """Make a tensor of a DLPack capsule, or of what has `__dlpack__`, such as a torch tensor.

        Without a copy in the memory of the CPU; a tensor of a GPU is copied from there.
        """
        source = tensor if hasattr(tensor, "__dlpack__") else _Capsule(tensor)
        if source.__dlpack_device__()[0] != _DLPACK_CPU[0] and hasattr(tensor, "cpu"):
            source = tensor.cpu()
        try:
            return Tensor(name, np.from_dlpack(source))
        except (BufferError, RuntimeError, AttributeError, TypeError, ValueError) as error:
            raise TritonModelException(
                f"Tensor '{name}' cannot be made of this {type(tensor).__name__} ({error}): give it in the memory of "
                "the CPU, without a gradient, in a type that numpy has."
            ) from error


class _Capsule:
    """A capsule as numpy wants it: behind a method. Capsules do not tell their device."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, stream: Any = None) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DLPACK_CPU


def tensor_by_name(tensors: list[Tensor], name: str) -> Tensor | None:
    """Return the tensor of that name, or None."""
    return next((each for each in tensors if each.name() == name), None)


def wire_array(tensor: Tensor) -> Any:
    """Return the array as it leaves the worker: contiguous, of native byte order, strings as objects of bytes."""
    array = tensor._array
    if array.dtype.kind in "OS":
        plain = np.empty(array.size, np.object_)
        plain[:] = [_encoded(each) for each in array.ravel().tolist()]
        return plain.reshape(array.shape)
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")


def serialize_byte_tensor(input_tensor: Any) -> bytes:
    """Write an array of bytes or strings in C order, each element after its length in 4 bytes, little-endian.

    Elements that are not bytes are written as their `str` in UTF-8. Raises `TritonModelException` for other types.
    """
    if input_tensor.dtype.kind not in "OS":
        raise TritonModelException(
            f"A tensor of {input_tensor.dtype} is no tensor of bytes: give one of np.object_ or np.bytes_."
        )
    elements = [_encoded(each) for each in input_tensor.ravel().tolist()]
    return b"".join(part for each in elements for part in (struct.pack("<I", len(each)), each))


def deserialize_bytes_tensor(encoded_tensor: bytes) -> Any:
    """Read what `serialize_byte_tensor` writes: an array of one dimension, of objects that are bytes."""
    elements, offset, end = [], 0, len(encoded_tensor)
    while offset < end:
        start = offset + 4
        size = struct.unpack_from("<I", encoded_tensor, offset)[0] if start <= end else end
        if start + size > end:
            raise TritonModelException(
                f"A tensor of {end} bytes breaks off in the element at byte {offset}: send the whole of it."
            )
        elements.append(bytes(encoded_tensor[start : start + size]))
        offset = start + size
    found = np.empty(len(elements), np.object_)
    found[:] = elements
    return found


def _encoded(value: Any) -> bytes:
    return bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else str(value).encode()
