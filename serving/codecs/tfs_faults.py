"""What is wrong with a tensor in JSON, in TensorFlow Serving's words.

Clients and people know these sentences ("... is not of expected type: float"), so they are that server's to the letter
as far as it has them (its util/json_tensor.cc). Values are walked one by one: this is for requests that `tfs` could not
read, and returns None where nothing is found or there is too much to look at, for the reader's own error to stand.
Knows no signature and no HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from serving.codecs.json_numbers import MAX_RANK
from serving.codecs.tf_example import from_base64, is_base64, shown, type_of
from serving.errors import BadRequestError
from serving.tensors import DTYPES

# TensorFlow's names of Triton's data types.
TYPE_NAMES = {
    **{name: name.lower() for name in DTYPES if name.startswith(("INT", "UINT", "BOOL"))},
    **{"FP16": "half", "FP32": "float", "FP64": "double", "BYTES": "string"},
}

# Values and lists that are looked at, in 0.2 s; a body of 6 MiB may have fifteen times as many.
_MOST_VALUES = 100_000


class _TooManyError(Exception):
    """The walk was too long."""


def row_fault(rows: Any, dtype: str | None, key: str = "") -> BadRequestError | None:
    """Return what is wrong with the values of one input, row by row; `key` names it where rows are objects."""
    first: list[int] | None = None
    steps = iter(range(_MOST_VALUES))
    for number, row in enumerate(_listed(rows)):
        shape = _shape(row)
        if shape is None:
            return None
        try:
            found = _fault(row, 0, shape, dtype, steps) or _misshapen(shape, first)
        except _TooManyError:
            return None
        if found:
            return BadRequestError(
                f"Failed to process element: {number}{key} of 'instances' list. Error: INVALID_ARGUMENT: {found}"
            )
        first = first or shape
    return None


def column_fault(value: Any, dtype: str | None) -> BadRequestError | None:
    """Return what is wrong with a whole tensor."""
    shape = _shape(value)
    try:
        found = _fault(value, 0, shape, dtype, iter(range(_MOST_VALUES))) if shape is not None else ""
    except _TooManyError:
        return None
    return BadRequestError(found) if found else None


def _listed(value: Any) -> Any:
    """Return a value without the array that large numbers were parsed into."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def _shape(value: Any) -> list[int] | None:
    """Return the shape that the first elements have, None for one that is deeper than any array."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > MAX_RANK:
            return None
        if not value:
            return shape
        value = value[0]
    return [*shape, *value.shape] if isinstance(value, np.ndarray) else shape


def _misshapen(shape: list[int], first: list[int] | None) -> str:
    if first is None or shape == first:
        return ""
    if math.prod(shape) != math.prod(first):
        return f"Expecting tensor size: {math.prod(first)} but got: {math.prod(shape)}"
    listed = (f"[{','.join(map(str, each))}]" for each in (first, shape))
    return "Expecting shape {} but got: {}".format(*listed)


def _fault(value: Any, level: int, shape: list[int], dtype: str | None, steps: Iterator[int]) -> str:
    if next(steps, None) is None:
        raise _TooManyError
    value = _listed(value)
    if not isinstance(value, list):
        if level != len(shape):
            return (
                f"JSON Value: {shown(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: "
                f"{len(shape)}"
            )
        return _leaf_fault(value, dtype)
    if level >= len(shape):
        return f"Encountered list at unexpected level: {level} expected < {len(shape)}"
    if len(value) != shape[level]:
        return f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
    return next((found for each in value if (found := _fault(each, level + 1, shape, dtype, steps))), "")


def _leaf_fault(value: Any, dtype: str | None) -> str:
    if dtype == "BYTES" and isinstance(value, dict):
        return _base64_fault(value)
    if dtype is None or _is_of(value, dtype):
        return ""
    if DTYPES[dtype].kind == "f" and type(value) in (int, float):
        return f"Cannot convert JSON value: {shown(value)} to {TYPE_NAMES[dtype]} without loss of precision."
    return f"JSON Value: {shown(value)} Type: {type_of(value)} is not of expected type: {TYPE_NAMES[dtype]}"


def _base64_fault(value: dict[str, Any]) -> str:
    if not is_base64(value):
        return f"JSON Value: {shown(value)} not formatted correctly for base64 data"
    try:
        from_base64(value["b64"])
    except ValueError:
        return "Unable to base64 decode"
    return ""


def _is_of(value: Any, dtype: str) -> bool:
    kind = DTYPES[dtype].kind
    if kind == "f":
        most = float(np.finfo(DTYPES[dtype]).max)
        is_finite = type(value) is int or (type(value) is float and math.isfinite(value))
        return abs(value) <= most if is_finite else type(value) is float
    if kind in "iu":
        limits = np.iinfo(DTYPES[dtype])
        is_whole = type(value) is int or (type(value) is float and value.is_integer())
        return is_whole and limits.min <= value <= limits.max
    return type(value) is (bool if kind == "b" else str)
