"""JSON bodies to tensors and back.

Knows the forms that clients write: rows (`instances`), columns (`inputs`, one array or named ones), the tensors of the
Open Inference protocol (`v2`) and bare arrays or names; an answer is in the form of its question. Large bodies of
numbers are `json_numbers`'s. Knows neither media types nor HTTP; `media` and `tabular` call it.

Strings are BYTES in UTF-8; bytes that are not UTF-8 travel as `{"b64": "..."}`, as TensorFlow Serving writes them.
NaN and infinity have no JSON: answers have `null` in their place, requests with them are refused.
"""

from __future__ import annotations

import base64
import json
import math
import re
import reprlib
import sys
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import orjson

from serving.codecs.binary import cast, place, single
from serving.codecs.json_numbers import MAX_RANK, SIMDJSON_FROM_BYTES, read_numbers
from serving.codecs.tf_example import from_base64
from serving.errors import BadRequestError, NotAcceptableError
from serving.tensors import DTYPES, Array, Signature, Tensors, TensorSpec

# What numbers become when the model does not tell its type, by the kind of numpy that the JSON has.
_UNTOLD = {"f": "FP32", "i": "INT64", "u": "UINT64", "b": "BOOL"}
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
_V2_KEYS = {"name", "shape", "datatype", "data"}
_NUMBERS = {float, int}
_REPR = reprlib.Repr()  # one line of anything: a message does not echo a body of megabytes
_REPR.maxlist, _REPR.maxstring = 16, 60
_KEY = re.compile(rb'"\s*:')


class OpenInferenceError(BadRequestError):
    """A V2 body that says more than tensors: `document` is for who can act on it (`v2`), the message for others."""

    def __init__(self, message: str, document: dict[str, Any]) -> None:
        super().__init__(message)
        self.document = document


class NotJsonError(BadRequestError):
    """The body does not parse; `media` asks for this when raw bytes may be JSON."""


def read(body: bytes, signature: Signature) -> tuple[Tensors, str]:
    """Turn a JSON body into tensors by name, and its form: `instances`, `inputs`, `v2` or `bare`.

    Types are those of `signature`; shapes and names are left to its check. Raises `BadRequestError` with the line and
    column of a syntax error, or the input and index of a value that does not fit; `OpenInferenceError` for a V2 body
    that wants more than its tensors read.
    """
    document = load(body)
    if type(document) is not dict:
        return _one(document, signature), "bare"
    if len(document) == 1 or not signature.accepts(document):  # else all keys are inputs
        if "instances" in document:
            _refuse_neighbours(document, "instances")
            return read_instances(document["instances"], signature), "instances"
        if "inputs" in document:
            return _read_inputs(document, signature)
    return _named(document, signature), "bare"


def load(body: bytes) -> Any:
    """Parse a body, large rectangular numbers straight into arrays; raises what `parse` raises."""
    document = read_numbers(body) if len(body) >= SIMDJSON_FROM_BYTES else None
    return parse(body, "The body") if document is None else document


def parse(text: bytes, what: str) -> Any:
    """Parse strict JSON; raises `NotJsonError` with the line and column, calling the text `what`.

    A key that is there twice is a `BadRequestError`.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as fault:
        found = "is empty" if not text.strip() else f"is not JSON at line {fault.lineno}, column {fault.colno}"
        raise NotJsonError(f"{what} {found}: {fault.msg}.") from None
    _refuse_duplicates(text, document, what)
    return document


def read_instances(rows: Any, signature: Signature) -> Tensors:
    """Turn rows into columns: each row a value of the one input, or an object of values by input name."""
    if isinstance(rows, np.ndarray):
        return _one(rows, signature)
    if type(rows) is not list or not rows:
        raise BadRequestError(f"'instances' is {_short(rows)} and wants an array of at least one row.")
    if type(rows[0]) is not dict or (rows[0].keys() == {"b64"} and len(signature.inputs) == 1):
        return _one(rows, signature)
    names = rows[0].keys()
    for number, row in enumerate(rows):
        if type(row) is not dict or row.keys() != names:
            raise BadRequestError(f"Row {number} is {_short(row)} and row 0 is an object of {_short(list(names))}.")
    return _named({name: [row[name] for row in rows] for name in names}, signature)


def _specs_of(found: dict[str, Any], signature: Signature) -> dict[str, TensorSpec]:
    specs = {spec.name: spec for spec in signature.inputs}
    if not signature.accepts(found):
        names = _short(sorted(found))  # as the signature would say it, but not with megabytes of names
        raise BadRequestError(f"The request has inputs {names} and the model wants {list(specs)}: send exactly those.")
    return specs


def _one(values: Any, signature: Signature) -> Tensors:
    return {(spec := single(signature, "JSON without names")).name: to_array(values, spec.dtype, spec.name)}


def _named(columns: dict[str, Any], signature: Signature) -> Tensors:
    specs = _specs_of(columns, signature)
    return {name: to_array(values, specs[name].dtype, name) for name, values in columns.items()}


def _read_inputs(document: dict[str, Any], signature: Signature) -> tuple[Tensors, str]:
    value = document["inputs"]
    if type(value) is list and value and type(value[0]) is dict and "name" in value[0]:
        if len(document) > 1 or any(type(item) is dict and "parameters" in item for item in value):
            raise OpenInferenceError(
                "The body has V2 tensors with an id, outputs or parameters: here, V2 alone.", document
            )
        return _read_v2(value, signature), "v2"
    _refuse_neighbours(document, "inputs")
    return (_named(value, signature) if type(value) is dict else _one(value, signature)), "inputs"


def _refuse_neighbours(document: dict[str, Any], *known: str) -> None:
    unknown = [key for key in document if key not in known]
    if unknown:
        raise BadRequestError(f"The body has {_short(unknown)} beside '{known[0]}', which is not read: leave it out.")


def _read_v2(items: list[Any], signature: Signature) -> Tensors:
    by_name: dict[str, dict[str, Any]] = {}
    for item in items:
        if type(item) is not dict or item.keys() != _V2_KEYS or type(item["name"]) is not str:
            raise BadRequestError(f"A V2 input is {_short(item)} and wants exactly the keys {sorted(_V2_KEYS)}.")
        if item["name"] in by_name:
            raise BadRequestError(f"Input {_short(item['name'])} is there twice: send each once.")
        by_name[item["name"]] = item
    specs = _specs_of(by_name, signature)
    return {name: _v2_array(item, specs[name]) for name, item in by_name.items()}


def _v2_array(item: dict[str, Any], spec: TensorSpec) -> Array:
    datatype, shape = item["datatype"], item["shape"]
    wanted = [*DTYPES] if spec.dtype is None else [spec.dtype]
    if datatype not in wanted:
        raise BadRequestError(f"Input '{spec.name}' has datatype {_short(datatype)} and the model wants {wanted}.")
    if type(shape) is not list or any(type(dim) is not int or dim < 0 for dim in shape) or len(shape) > MAX_RANK:
        raise BadRequestError(f"Input '{spec.name}' has shape {_short(shape)} and wants an array of sizes.")
    array = to_array(item["data"], datatype, spec.name)
    if array.size != math.prod(shape) or max(shape, default=0) >= 2**31:
        raise BadRequestError(f"Input '{spec.name}' has {array.size} values and shape {_short(shape)}: send as many.")
    return array.reshape(shape)


def to_array(values: Any, dtype: str | None, name: str) -> Array:
    """Return nested lists (or numbers parsed into an array) as `dtype`; raises `BadRequestError` with the place."""
    if isinstance(values, np.ndarray):
        return cast(values, dtype or _UNTOLD[values.dtype.kind], name)
    shape, leaves, kinds = _flatten(values, name)
    if kinds <= _NUMBERS:
        numbers = _integers(leaves, name) if kinds == {int} else _floats(leaves, name)
    elif kinds == {bool}:
        numbers = np.array(leaves, np.bool_)
    elif kinds == {np.ndarray}:
        return to_array(_stack(leaves, name).reshape(*shape, *leaves[0].shape), dtype, name)
    elif kinds <= {str, dict} and dtype in (None, "BYTES"):
        return _texts(leaves, shape, name)
    else:
        raise _odd_leaf(leaves, shape, dtype, name)
    if not kinds:
        return np.empty(shape, DTYPES[dtype or "FP32"])
    return cast(numbers.reshape(shape), dtype or _UNTOLD[numbers.dtype.kind], name)


def _integers(leaves: list[int], name: str) -> Array:
    for dtype in (np.int64, np.uint64):
        try:
            return np.array(leaves, dtype)
        except OverflowError:
            continue
    return _floats(leaves, name)  # both below 0 and over 2**63: no integer type holds them


def _floats(leaves: list[Any], name: str) -> Array:
    try:
        return np.array(leaves, np.float64)
    except OverflowError:  # Python's parser, which `tfs` needs for NaN, takes whole numbers of any length
        odd = next(leaf for leaf in leaves if type(leaf) is int and abs(leaf) > sys.float_info.max)
        raise BadRequestError(f"Input '{name}' has {_short(odd)}: send numbers up to 1.8e308.") from None


def _flatten(values: Any, name: str) -> tuple[list[int], list[Any], set[type]]:
    """Return shape, leaves and the types of the leaves of nested lists, level by level: no loop over elements."""
    level, shape = (values, [len(values)]) if type(values) is list else ([values], [])
    while True:
        kinds = set(map(type, level))
        if list not in kinds:
            return shape, level, kinds
        widths = set(map(len, level)) if len(kinds) == 1 else ()
        if len(widths) != 1 or len(shape) == MAX_RANK:
            raise _ragged(level, shape, name)
        shape.append(*widths)
        level = list(chain.from_iterable(level))


def _ragged(level: list[Any], shape: list[int], name: str) -> BadRequestError:
    if len(shape) == MAX_RANK:
        return BadRequestError(f"Input '{name}' is nested deeper than {MAX_RANK} arrays.")
    sizes = [len(value) if type(value) is list else -1 for value in level]
    odd = next(number for number, size in enumerate(sizes) if size != sizes[0])
    here, first = (
        f"{place(np.unravel_index(number, shape))} has "
        + (f"{sizes[number]} elements" if sizes[number] >= 0 else f"no array ({_short(level[number])})")
        for number in (odd, 0)
    )
    return BadRequestError(f"Input '{name}' is ragged: {here} and {first}.")


def _odd_leaf(leaves: list[Any], shape: list[int], dtype: str | None, name: str) -> BadRequestError:
    kind = {str: "BYTES", bool: "BOOL"}.get(type(leaves[0]), "FP32") if dtype is None else dtype
    fitting = {"BYTES": (str,), "BOOL": (bool,)}.get(kind, (int, float))
    odd = next((number for number, leaf in enumerate(leaves) if type(leaf) not in fitting), 0)
    where = place(np.unravel_index(odd, shape)) if shape else "the top"
    return BadRequestError(
        f"Input '{name}' has {_short(leaves[odd])} at {where} and wants {dtype or 'values of one type, as the first'}."
    )


def _stack(arrays: list[Array], name: str) -> Array:
    odd = next((number for number, array in enumerate(arrays) if array.shape != arrays[0].shape), None)
    if odd is None:
        return np.stack(arrays)
    found, first = arrays[odd].shape, arrays[0].shape
    raise BadRequestError(f"Input '{name}' is ragged: row {odd} has shape {list(found)} and row 0 {list(first)}.")


def _texts(leaves: Iterable[Any], shape: list[int], name: str) -> Array:
    flat = np.empty(math.prod(shape), object)
    flat[:] = [leaf.encode() if type(leaf) is str else _from_base64(leaf, name) for leaf in leaves]
    return flat.reshape(shape)


def _from_base64(leaf: dict[str, Any], name: str) -> bytes:
    if leaf.keys() == {"b64"} and type(leaf["b64"]) is str:
        try:
            return from_base64(leaf["b64"])
        except ValueError:
            pass
    raise BadRequestError(f'Input \'{name}\' has {_short(leaf)} and wants a string or {{"b64": "<base64>"}}.')


def _refuse_duplicates(text: bytes, document: Any, what: str) -> None:
    """Refuse a key that is there twice: orjson keeps the last one and the sender may have meant the first."""
    found = len(_KEY.findall(text))
    if found > 1 and found > _count_keys(document):  # or a string with '":' in it: only a slow parser can tell
        try:
            json.loads(text.decode(), object_pairs_hook=_unique)
        except KeyError as twice:
            raise BadRequestError(
                f"{what} has the key {_short(twice.args[0])} twice in one object: send it once."
            ) from None
        except RecursionError:
            return  # deeper than any array may be, which its reader says better


def _count_keys(document: Any) -> int:
    if type(document) is not dict:
        return 0
    groups = (value if type(value) is list else (value,) for value in document.values())
    members = [member for group in groups for member in group if type(member) is dict]
    inner = (value for member in members for value in member.values() if type(value) is dict)  # V2's parameters
    return len(document) + sum(map(len, members)) + sum(map(len, inner))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise KeyError(name)
        members[name] = value
    return members


def _short(value: object) -> str:
    return "null" if value is None else _REPR.repr(value)


def write(outputs: Tensors, form: str) -> bytes:
    """Write `outputs` in the form of the request.

    `instances` is `{"predictions": rows}`, rows of several outputs being objects; outputs that do not share a first
    dimension have no rows and are written as `inputs` is: `{"outputs": ...}`. `v2` has flat data, `bare` no envelope.
    Raises `NotAcceptableError` for a type that JSON does not have.
    """
    if form == "v2":
        return dump({"outputs": [_v2_output(name, array) for name, array in outputs.items()]})
    if form == "instances" and have_rows(outputs):
        return dump({"predictions": rows(outputs)})
    content = next(iter(outputs.values())) if len(outputs) == 1 else outputs
    return dump(content if form == "bare" else {"outputs": content})


def have_rows(outputs: Tensors) -> bool:
    """Say whether all outputs share their first dimension."""
    first = {array.shape[:1] for array in outputs.values()}
    return len(first) == 1 and () not in first


def rows(outputs: Tensors) -> Any:
    """Return the rows of outputs that have them: of one output the array itself, of several an object a row."""
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    return [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]


def dump(document: Any) -> bytes:
    """Write a document of arrays; NaN and infinity become `null`."""
    try:
        return orjson.dumps(document, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as fault:
        raise NotAcceptableError(f"JSON cannot hold the outputs ({fault}): accept application/x-npz.") from None


def _v2_output(name: str, array: Array) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "datatype": datatype_of(array), "data": array.reshape(-1)}


def datatype_of(array: Array) -> str:
    """Return Triton's name of an array's type."""
    return DATATYPES.get(array.dtype.newbyteorder("="), "BYTES")


def _plain(value: Any) -> Any:
    """Turn what orjson does not write into what it does: scalars, strided arrays, strings, bytes."""
    if isinstance(value, np.ndarray) and (value.dtype.kind in "OSU" or value.ndim == 0):
        return value.tolist()
    if isinstance(value, np.ndarray) and value.dtype in DATATYPES:
        # The canonical type: ONNX Runtime's int64 is C's long long, which orjson does not know.
        return np.array(value, DTYPES[DATATYPES[value.dtype]], order="C")
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    raise TypeError(f"type {getattr(value, 'dtype', type(value).__name__)}")
