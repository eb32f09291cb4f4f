"""Tensors as buffers with a small description, for the channel: numpy arrays are sent and seen in place.

    {"name": "x", "dtype": "FP32", "shape": [1, 3], "at": 0, "bytes": 12}

`at` counts from the start of the message's body, in steps of 64 bytes. BYTES are elements of a 32-bit little-endian
length and so many bytes, as Triton's. Runs on both sides and under foreign interpreters: numpy is imported when a
tensor comes. What a worker sends is checked here: a description that lies is a `ValueError`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from serving.workers.handler import Body

# A cache line: vectorised reads of an array that starts there are never split.
_ALIGN = 64
_LENGTH = struct.Struct("<I")
# numpy's codes of kind and size. Its names would say more, but are made anew whenever an array is asked (2.5 us).
_CODES = {
    "BOOL": "b1",
    "UINT8": "u1",
    "UINT16": "u2",
    "UINT32": "u4",
    "UINT64": "u8",
    "INT8": "i1",
    "INT16": "i2",
    "INT32": "i4",
    "INT64": "i8",
    "FP16": "f2",
    "FP32": "f4",
    "FP64": "f8",
}
_DTYPES = {code: name for name, code in _CODES.items()}


def pack(tensors: Mapping[str, Any], at: int) -> tuple[list[dict[str, Any]], list[Body], int]:
    """Describe `tensors` for a body that has `at` bytes already; return descriptions, buffers and the new length.

    Raises `ValueError` for a type that is no data type here.
    """
    import numpy as np

    described: list[dict[str, Any]] = []
    buffers: list[Body] = []
    for name, value in tensors.items():
        array = np.asarray(value)
        if array.dtype.kind in "OSU":
            dtype = "BYTES"
            data: Body = _join(array)
        else:
            code = array.dtype.str  # with its byte order before it
            known = _DTYPES.get(code[1:])
            if known is None:
                raise ValueError(f"Tensor '{name}' has values of type {array.dtype}: return one of {', '.join(_CODES)}")
            if code[0] == ">" or not array.flags.c_contiguous:
                array = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
            dtype, data = known, array.data.cast("B") if array.size else b""
        padding = -at % _ALIGN
        if padding:
            buffers.append(bytes(padding))
        at += padding
        described.append({"name": name, "dtype": dtype, "shape": list(array.shape), "at": at, "bytes": len(data)})
        buffers.append(data)
        at += len(data)
    return described, buffers, at


def unpack(described: Sequence[Mapping[str, Any]], body: Body) -> dict[str, Any]:
    """Return arrays by name, views of `body` where they can be. Raises `ValueError` for a description that lies."""
    try:
        return {_name(each): _array(each, body) for each in described}
    except (KeyError, TypeError, OverflowError, struct.error) as error:
        raise ValueError(f"a tensor's description that is none: {type(error).__name__}: {error}") from None


def _name(each: Mapping[str, Any]) -> str:
    name = each["name"]
    if not isinstance(name, str):
        raise TypeError(f"a tensor's name is a {type(name).__name__}")
    return name


def _array(each: Mapping[str, Any], body: Body) -> Any:
    import numpy as np

    shape = [int(dim) for dim in each["shape"]]
    start, size = int(each["at"]), int(each["bytes"])
    if min(shape, default=0) < 0 or start < 0 or size < 0 or start + size > len(body):
        raise ValueError(f"tensor {each['name']!r} of shape {shape} does not lie in a body of {len(body)} bytes")
    if each["dtype"] == "BYTES":
        return _split(memoryview(body)[start : start + size], shape)
    code = _CODES[each["dtype"]]
    return np.frombuffer(body, "<" + code, size // int(code[1]), start).reshape(shape)


def _join(array: Any) -> bytes:
    parts: list[bytes] = []
    for element in array.reshape(-1).tolist():
        data = element if isinstance(element, bytes) else str(element).encode()
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def _split(data: memoryview, shape: list[int]) -> Any:
    import numpy as np

    elements = []
    at = 0
    while at < len(data):
        (size,) = _LENGTH.unpack_from(data, at)
        elements.append(bytes(data[at + 4 : at + 4 + size]))
        at += 4 + size
    if at != len(data):
        raise ValueError("a BYTES tensor whose last element is cut short")
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)
