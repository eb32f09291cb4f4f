"""The bytes of a `tf.Example`, and what of TensorFlow Serving's JSON needs no parser: values, their types, their looks.

Protobuf's wire format by hand: no library is needed for so small a message (tensorflow/core/example/feature.proto).
Whole numbers and booleans are int64 features, others float, texts and `{"b64": ...}` bytes; a feature is of one kind.
Sentences are TensorFlow Serving's (its util/json_tensor.cc). Called by `tfs_examples` and `tfs_faults` in the server,
and in workers by the dialect of SageMaker's TensorFlow container: standard library alone, CPython 3.9 on.
"""

from __future__ import annotations

import base64
import json
import reprlib
import struct
from typing import Any

from serving.errors import BadRequestError

_SHOWN_MAX_CHARS = 200
_JSON_TYPES = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
_FLOAT_MAX = 3.4028234663852886e38  # of 32 bits
_BYTES, _FLOATS, _INTS = 1, 2, 3  # fields of tf.Feature
_KINDS = {_BYTES: "bytes", _FLOATS: "float", _INTS: "int64"}


def shown(value: Any) -> str:
    """Return a value as JSON, the beginning of a long one."""
    try:
        text = json.dumps(value, default=_listed, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # deeper than the writer goes
        text = reprlib.repr(value)
    return text if len(text) <= _SHOWN_MAX_CHARS else text[:_SHOWN_MAX_CHARS] + "..."


def _listed(value: Any) -> Any:
    """Return what large numbers were parsed into as lists."""
    return value.tolist()


def type_of(value: Any) -> str:
    """Return the name of a JSON value's type."""
    return str(value) if isinstance(value, bool) else _JSON_TYPES.get(type(value), "Array")


def is_base64(value: Any) -> bool:
    """Say whether a value stands for bytes."""
    return type(value) is dict and len(value) == 1 and isinstance(value.get("b64"), str)


def from_base64(text: str) -> bytes:
    """Return the bytes of a base64 text, its padding there or not, as TensorFlow Serving does; raises `ValueError`."""
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def is_object(value: Any) -> bool:
    """Say whether a value is an object of named tensors."""
    return type(value) is dict and not is_base64(value)


def example_bytes(features: Any) -> bytes:
    """Return a `tf.Example` of features by name; raises `BadRequestError` for what is no feature."""
    if not isinstance(features, dict):
        raise BadRequestError(f"Example must be JSON object but got JSON {type_of(features)}")
    entries = (_field(1, _field(1, _utf8(name)) + _field(2, _feature(name, each))) for name, each in features.items())
    return _field(1, b"".join(entries))


def _feature(name: str, content: Any) -> bytes:
    values = content.tolist() if hasattr(content, "tolist") else content
    found = [_value(name, each) for each in (values if isinstance(values, list) else [values])]
    if not found:
        return b""
    kind = found[0][0]
    if any(other != kind for other, _ in found):
        raise BadRequestError(f"Unexpected element type in feature: {name} expecting type: {_KINDS[kind]}")
    return _field(kind, _list(kind, [value for _, value in found]))


def _value(name: str, value: Any) -> tuple[int, Any]:
    """Return the kind of a value and itself as that kind has it."""
    if isinstance(value, str):
        return _BYTES, _utf8(value)
    if is_base64(value):
        try:
            return _BYTES, from_base64(value["b64"])
        except ValueError:
            raise BadRequestError("Unable to base64 decode") from None
    if isinstance(value, int):  # a boolean too
        if not -(2**63) <= value < 2**63:
            raise BadRequestError(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return _INTS, int(value)
    if isinstance(value, float):
        if _FLOAT_MAX < abs(value) < float("inf"):
            raise BadRequestError(f"Cannot convert JSON value: {shown(value)} to float without loss of precision.")
        return _FLOATS, value
    raise BadRequestError(f"Feature: {name} has element with unexpected JSON type: {type_of(value)}")


def _list(kind: int, values: list[Any]) -> bytes:
    """Return a list of values; numbers are packed."""
    if kind == _BYTES:
        return b"".join(_field(1, each) for each in values)
    if kind == _FLOATS:
        return _field(1, struct.pack(f"<{len(values)}f", *values))
    return _field(1, b"".join(_varint(each & (2**64 - 1)) for each in values))


def _field(number: int, content: bytes) -> bytes:
    """Return a field with a length (wire type 2)."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
