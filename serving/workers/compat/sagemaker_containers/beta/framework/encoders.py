"""Reads bodies into numpy arrays and writes arrays, by type or by a function for each of JSON, CSV and npy.

JSON and npy are read and written by the SageMaker dialect, which unpickles nothing. CSV is read here: the older toolkit
knows quotes, and makes numbers of a table only where all of it is. recordio-protobuf is not here.
People's scripts call `encode`, `decode` and the six functions.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

from . import content_types
from .errors import ClientError, UnsupportedFormatError


def array_to_npy(array_like: Any) -> Any:
    """Return the bytes of an npy file."""
    return _written(array_like, content_types.NPY)


def npy_to_numpy(npy_array: Any) -> Any:
    """Return the array of an npy file's bytes; objects in it are refused, as they would run code."""
    return _read(npy_array, content_types.NPY)


def array_to_json(array_like: Any) -> Any:
    """Return JSON text."""
    return _written(array_like, content_types.JSON)


def json_to_numpy(string_like: Any, dtype: Any = None) -> Any:
    """Return JSON text as an array; an object has no dimensions."""
    import numpy as np

    return np.array(_read(string_like, content_types.JSON), dtype=dtype)


def array_to_csv(array_like: Any) -> Any:
    """Return rows of CSV; an array of one dimension is a column."""
    import numpy as np

    array = np.array(array_like)
    rows = array.reshape(-1, 1) if array.ndim == 1 else array
    stream = io.StringIO()
    try:
        csv.writer(stream, lineterminator="\n").writerows(rows)
    except (csv.Error, TypeError) as fault:
        raise ClientError(f"An array of shape {array.shape} has no CSV form, {fault}: return rows.") from None
    return stream.getvalue()


def csv_to_numpy(string_like: Any, dtype: Any = None) -> Any:
    """Return CSV as an array of FP64 or `dtype`, or of text where it is not all numbers; one row has one dimension.

    Raises `ClientError` for text where a `dtype` is wanted, and for what is no table.
    """
    import numpy as np

    text = string_like if isinstance(string_like, str) else bytes(string_like).decode()
    try:
        table = np.array(list(csv.reader(io.StringIO(text), strict=True))).squeeze()
    except (csv.Error, ValueError) as fault:
        raise ClientError(f"The CSV body is no table, {fault}: send rows of one length.") from None
    try:
        return table.astype(dtype or np.float64)
    except ValueError as fault:
        if dtype is None:
            return table
        raise ClientError(f"The CSV body is not all {dtype}, {fault}: send numbers, or take dtype=None.") from None


def decode(obj: Any, content_type: str) -> Any:
    """Return a body as an array; raises `UnsupportedFormatError` for a type that is not JSON, CSV or npy."""
    reader = _DECODERS.get(_media_type(content_type))
    if reader is None:
        raise UnsupportedFormatError(content_type)
    return reader(obj)


def encode(array_like: Any, content_type: str) -> Any:
    """Return an array, a list or a number as str (JSON, CSV) or bytes (npy); raises `UnsupportedFormatError`."""
    writer = _ENCODERS.get(_media_type(content_type))
    if writer is None:
        raise UnsupportedFormatError(content_type, status_code=406)
    return writer(array_like)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    content_types.NPY: npy_to_numpy,
    content_types.CSV: csv_to_numpy,
    content_types.JSON: json_to_numpy,
}
_ENCODERS: dict[str, Callable[[Any], Any]] = {
    content_types.NPY: array_to_npy,
    content_types.CSV: array_to_csv,
    content_types.JSON: array_to_json,
}


def _media_type(content_type: str) -> str:
    return str(content_type).partition(";")[0].strip().lower()


def _read(body: Any, content_type: str) -> Any:
    from serving.workers.dialects import sagemaker_defaults as defaults

    return defaults.decode(body, content_type)


def _written(array_like: Any, content_type: str) -> Any:
    from serving.workers.dialects import sagemaker_defaults as defaults

    return defaults.encode(array_like, content_type)[0]
