"""Bodies of TensorFlow Serving's predict API: rows (`instances`) or columns (`inputs`) in, the same form out.

    {"signature_name"?, "instances": [row, ...]}             -> {"predictions": [row, ...]}
    {"signature_name"?, "inputs": tensor | {name: tensor}}   -> {"outputs": tensor | {name: tensor}}

A row is the value of the one input, or an object of values by input name. Bytes are `{"b64": "..."}`, in answers where
the output's name ends in `_bytes` or they are no text. NaN and the infinities are the tokens that Python's own parser
knows. Keys that the API does not have are not looked at, as there.

What is right is read by `json`, large bodies quickly; what is wrong is looked at again by `tfs_faults`, which says it
in TensorFlow Serving's words. `tfs_examples` has the bodies of classify and regress. Called by the HTTP rooms.
"""

from __future__ import annotations

import base64
import json as slow_json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from serving.codecs import json
from serving.codecs.binary import single
from serving.codecs.tf_example import is_base64, is_object, shown
from serving.codecs.tfs_faults import column_fault, row_fault
from serving.errors import BadRequestError
from serving.tensors import Array, Signature, Tensors

ROWS, COLUMNS = "instances", "inputs"
DEFAULT_SIGNATURE = "serving_default"
_BYTES_SUFFIX = "_bytes"
# A text, which may hold the word, or a value that JSON has no token for.
_TEXT_OR_NULL = re.compile(rb'"(?:[^"\\]|\\.)*"|null')
_TOKENS = re.compile(rb"NaN|Infinity")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A request to predict, not yet held against a signature: `signature` is its name, `form` is ROWS or COLUMNS."""

    signature: str
    form: str
    values: Any


def load(body: bytes) -> dict[str, Any]:
    """Parse a body; raises `BadRequestError` for what is no object, with the place of a syntax error."""
    if not body.strip():
        raise BadRequestError("JSON Parse error: The document is empty")
    try:
        document = json.load(body)
    except json.NotJsonError as fault:
        if not _TOKENS.search(body):
            raise BadRequestError(f"JSON Parse error: Invalid value. {fault.message}") from None
        document = _with_tokens(body)
    if type(document) is not dict:
        raise BadRequestError(f"JSON Value: {shown(document)} Is not object")
    return document


def _with_tokens(body: bytes) -> Any:
    """Parse a body with NaN or Infinity in it."""
    try:
        return slow_json.loads(body.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as fault:
        raise BadRequestError(f"JSON Parse error: Invalid value. {fault}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key is there twice in one object: send it once")
    return members


def signature_name(document: dict[str, Any]) -> str:
    """Return the signature that a document asks for, "" for the default one."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise BadRequestError(
            f"JSON Value: {shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def read_predict(body: bytes) -> Prediction:
    """Read a request to predict; raises `BadRequestError` in TensorFlow Serving's words."""
    document = load(body)
    name = signature_name(document)
    if ROWS in document and COLUMNS in document:
        raise BadRequestError(
            f"JSON Value: {shown(document)} Not formatted correctly expecting only one of '{COLUMNS}' or '{ROWS}' keys "
            "to exist "
        )
    if COLUMNS in document:
        return Prediction(name, COLUMNS, document[COLUMNS])
    if ROWS not in document:
        raise BadRequestError(f"Missing '{COLUMNS}' or '{ROWS}' key")
    rows = document[ROWS]
    if not isinstance(rows, (list, np.ndarray)):
        raise BadRequestError(f"JSON Value: {shown(document)} Excepting '{ROWS}' to be an list/array")
    if len(rows) == 0:
        raise BadRequestError(f"JSON Value: {shown(document)} No values in '{ROWS}' array")
    return Prediction(name, ROWS, rows)


def tensors(asked: Prediction, signature: Signature) -> Tensors:
    """Return the tensors of a request by input name, in the types of `signature`; their shapes are not checked.

    Raises `BadRequestError`, in TensorFlow Serving's words where it has some, with the row and the input.
    """
    read = _from_rows if asked.form == ROWS else _from_columns
    return read(asked.values, signature)


def _from_rows(rows: Any, signature: Signature) -> Tensors:
    if isinstance(rows, np.ndarray) or not is_object(rows[0]):
        return _from_plain_rows(rows, signature)
    types = {spec.name: spec.dtype for spec in signature.inputs if spec.dtype or spec.dims}
    names = rows[0].keys()
    for number, row in enumerate(rows):
        if not is_object(row):
            raise BadRequestError(f"Expecting object but got list at item {number} of input list")
        if row.keys() != names or (types and not signature.accepts(row)):
            _refuse_names(number, row, types or dict.fromkeys(names))
    columns = {}
    for name in names:
        values = [row[name] for row in rows]
        try:
            columns[name] = json.to_array(values, types.get(name), name)
        except BadRequestError as error:
            raise row_fault(values, types.get(name), f" key: {name}") or error from None
    return columns


def _refuse_names(number: int, row: dict[str, Any], wanted: dict[str, Any]) -> NoReturn:
    for name in row:
        if name not in wanted:
            raise BadRequestError(
                f"Failed to process element: {number} key: {name} of 'instances' list. Error: INVALID_ARGUMENT: JSON "
                f"object: does not have named input: {name}"
            )
    raise BadRequestError(
        f"Failed to process element: {number} of 'instances' list. JSON object: {shown(row)} keys must be equal to: "
        f"{','.join(sorted(wanted))}"
    )


def _from_plain_rows(rows: Any, signature: Signature) -> Tensors:
    if sum(not spec.is_optional for spec in signature.inputs) > 1:
        raise BadRequestError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            f"tensorinfo_map: send objects of {', '.join(each.name for each in signature.inputs)}."
        )
    spec = single(signature, "plain instances")
    if isinstance(rows, list):
        for number, row in enumerate(rows):
            if is_object(row):
                raise BadRequestError(f"Expecting value/list but got object at item {number} of input list")
    try:
        return {spec.name: json.to_array(rows, spec.dtype, spec.name)}
    except BadRequestError as error:
        raise row_fault(rows, spec.dtype) or error from None


def _from_columns(values: Any, signature: Signature) -> Tensors:
    if type(values) is not dict or is_base64(values):
        if sum(not spec.is_optional for spec in signature.inputs) > 1:
            raise BadRequestError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                f"tensorinfo_map: send {', '.join(each.name for each in signature.inputs)} by name."
            )
        spec = single(signature, "plain inputs")
        return {spec.name: _column(values, spec.dtype, spec.name)}
    known = [spec for spec in signature.inputs if spec.dtype or spec.dims]
    if not known:  # a model that tells nothing of its inputs takes what comes
        return {name: _column(value, None, name) for name, value in values.items()}
    columns = {}
    for spec in known:
        if spec.name in values:
            columns[spec.name] = _column(values[spec.name], spec.dtype, spec.name)
        elif not spec.is_optional:
            raise BadRequestError(f"Missing named input: {spec.name} in 'inputs' object.")
    return columns


def _column(value: Any, dtype: str | None, name: str) -> Array:
    try:
        return json.to_array(value, dtype, name)
    except BadRequestError as error:
        raise column_fault(value, dtype) or error from None


# ---- answers ---------------------------------------------------------------------------------------------------------


def write_predict(outputs: Tensors, form: str) -> bytes:
    """Write the answer to a request in `form`.

    Raises `BadRequestError`, as TensorFlow Serving does, for outputs that are no rows where rows were asked for.
    """
    if not outputs:
        raise BadRequestError("Cannot convert empty tensor map to JSON")
    written = {name: _as_base64(array) if _is_bytes(name, array) else array for name, array in outputs.items()}
    if form == ROWS:
        _check_rows(outputs)
        return dump({"predictions": json.rows(written)}, written)
    return dump({"outputs": next(iter(written.values())) if len(written) == 1 else written}, written)


def _check_rows(outputs: Tensors) -> None:
    rows: int | None = None
    for name, array in outputs.items():
        if not array.ndim:
            raise BadRequestError(f"Tensor name: {name} has no shape information: ask with '{COLUMNS}'.")
        if rows not in (None, array.shape[0]):
            raise BadRequestError(
                f"Tensor name: {name} has inconsistent batch size: {array.shape[0]} expecting: {rows}: ask with "
                f"'{COLUMNS}'."
            )
        rows = array.shape[0]


def _is_bytes(name: str, array: Array) -> bool:
    return name.endswith(_BYTES_SUFFIX) and array.dtype.kind in "OSU"


def _as_base64(array: Array) -> Array:
    flat = np.empty(array.size, object)
    raw = (each if isinstance(each, bytes) else str(each).encode() for each in array.ravel())
    flat[:] = [{"b64": base64.b64encode(each).decode()} for each in raw]
    return flat.reshape(array.shape)


def dump(document: Any, outputs: Tensors) -> bytes:
    """Write a document of arrays, `outputs`, with tokens for what is not finite."""
    text = json.dump(document)
    if all(array.dtype.kind != "f" or np.isfinite(array).all() for array in outputs.values()):
        return text
    tokens = _not_finite(document)
    return _TEXT_OR_NULL.sub(lambda found: next(tokens) if found[0] == b"null" else found[0], text)


def _not_finite(value: Any) -> Iterator[bytes]:
    """Yield a token for every value that is not finite, in the order in which a document is written."""
    if isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _not_finite(each)
        return
    array = np.asarray(value)
    if array.dtype.kind == "f":
        for number in array[~np.isfinite(array)].tolist():
            yield b"NaN" if math.isnan(number) else b"Infinity" if number > 0 else b"-Infinity"
