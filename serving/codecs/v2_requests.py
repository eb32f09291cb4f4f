"""Bodies that clients send to Triton's infer route: JSON, binary tensors behind it, or the bytes of one tensor alone.

    {"id"?, "parameters"?, "inputs": [{"name", "datatype", "shape",
                                       "data" | "parameters": {"binary_data_size" | "shared_memory_region"}}],
     "outputs"?: [{"name", "parameters"?: {"binary_data", "classification", "shared_memory_region"}}]}

The first part that is wrong is what a client is told, so they are read in Triton's order: id, parameters, inputs,
outputs; of an input where its data is, name, datatype, shape, data. Binary inputs are views of the body. What a model
wants is not known here, only its name, for errors. Called by the HTTP rooms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from serving.codecs import json, v2
from serving.codecs.json_numbers import MAX_RANK
from serving.codecs.packed import Unread
from serving.codecs.v2 import VENDOR, Memory, ParseError, Question, Wanted
from serving.codecs.v2_heads import Heads
from serving.errors import BadRequestError
from serving.tensors import DTYPES, Array

# More classes than any network has (the limit of newer Tritons).
_CLASSES_MAX = 1_000_000
_NOTHING = memoryview(b"")
_FLAGS = ("sequence_start", "sequence_end", "binary_data_output")
_COUNTS = ("priority", "timeout")
_SOURCES = ("binary_data_size", "shared_memory_region")
# What Triton says of a value that is of the wrong kind, by the kind of numpy that the datatype has.
_MISFITS = {
    "f": "Unable to parse 'data': attempt to access JSON non-number as double",
    "i": "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer",
    "u": "Unable to parse 'data': attempt to access JSON non-unsigned-integer as unsigned-integer",
    "b": "Unable to parse 'data': attempt to access JSON non-boolean as boolean",
    "O": "Unable to parse JSON bytes array: attempt to access JSON non-string as string",
}


def read(
    body: bytes, header_bytes: int | None, model: str, memory: Memory | None = None, heads: Heads | None = None
) -> Question:
    """Read a request whose JSON takes `header_bytes` (None: all of it; 0: none, the body is the one input's bytes).

    An empty body is such bytes, too. Raises `ParseError` for what is no request, `BadRequestError` for one that
    contradicts itself. `heads` knows what was read before.
    """
    if header_bytes == 0 or not body:
        return Question(raw=body, is_binary=True)
    if header_bytes is None:
        return read_document(load(body), model, memory=memory)
    head, rest = body[:header_bytes], memoryview(body)[header_bytes:]
    question = heads.recall(head, rest) if heads is not None else None
    if question is None:
        question = read_document(load(head), model, rest, memory)
        if heads is not None:
            heads.keep(head, question, rest)
    return question


def load(text: bytes) -> Any:
    """Parse the JSON of a request; raises `ParseError`: Triton's words, and behind them our parser's."""
    if not text.strip():
        raise ParseError(f"failed to parse the request JSON buffer: The document is empty. at {len(text)}")
    try:
        return json.load(text)
    except BadRequestError as fault:
        raise ParseError(f"failed to parse the request JSON buffer: {fault.message}") from None


def read_document(document: Any, model: str, rest: memoryview = _NOTHING, memory: Memory | None = None) -> Question:
    """Read a request whose JSON is parsed; binary inputs are in `rest`. Raises as `read` does."""
    said: dict[str, Any] = document if isinstance(document, dict) else {}
    question = Question(id=text_of(said, "id") if "id" in said else "")
    parameters = checked(said.get("parameters", {}))
    question.parameters = parameters
    question.is_binary = parameters.get("binary_data_output", False)
    question.priority, question.timeout_us = parameters.get("priority", 0), parameters.get("timeout", 0)
    _Inputs(model, rest, memory).fill(question, _items(said, "inputs"))
    if "outputs" in said:
        question.outputs = [_wanted(each) for each in _items(said, "outputs")]
    v2.check_places(question, memory)
    return question


def header_length(text: str | None, body_bytes: int) -> int | None:
    """Return the size of the JSON that a header gives, None without one; raises `BadRequestError` (Triton's text)."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= body_bytes):
        raise BadRequestError(f"inference header size should be in range (0, {body_bytes}), got: {text[:40]}")
    return int(text)


def vendor_header_length(content_type: str, body_bytes: int) -> int:
    """Return the size of the JSON that SageMaker's vendor type gives; raises as `header_length` does."""
    return header_length(content_type[len(VENDOR) :].strip(), body_bytes) or 0


def checked(parameters: Any) -> dict[str, Any]:
    """Return a request's parameters: scalars, none of a reserved name, the protocol's own of their types.

    Raises `ParseError` and `BadRequestError` with Triton's texts.
    """
    if not isinstance(parameters, dict):
        raise ParseError("failed to get request params.: attempt to get members for non-object")
    for name, value in parameters.items():
        if name in _FLAGS:
            _flag(parameters, name)
        elif name in _COUNTS:
            _count(parameters, name)
        elif name == "sequence_id":
            if type(value) is not int or value < 0:
                text_of(parameters, name)
        elif name.startswith("triton_"):
            raise BadRequestError(
                "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
            )
        elif not isinstance(value, (str, int, float)):
            raise BadRequestError(
                f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'."
            )
    return parameters


def from_json(data: Any, datatype: str | None, name: str) -> Array:
    """Return an input's `data` as an array, in the shape that it is nested in; None: of the type that it has in JSON.

    Raises `ParseError` with Triton's text for a value of the wrong kind, `BadRequestError` for one that does not fit.
    """
    if not isinstance(data, (list, np.ndarray)):
        raise ParseError("Unable to parse 'data': attempt to access JSON non-array as array")
    try:
        return json.to_array(data, datatype, name)
    except BadRequestError:
        kind = DTYPES[datatype].kind if datatype else ""
        if kind and any(_is_misfit(each, kind) for each in _leaves(data)):
            raise ParseError(_MISFITS[kind]) from None
        raise


def _leaves(data: Any) -> Iterator[Any]:
    open_lists = [data]
    while open_lists:
        found = open_lists.pop()
        found = found.tolist() if isinstance(found, np.ndarray) else found
        if isinstance(found, list):
            open_lists += found
        else:
            yield found


def _is_misfit(value: Any, kind: str) -> bool:
    if kind == "f":
        return type(value) not in (int, float)
    if kind in "iu":
        least, most = (-(2**63), 2**63) if kind == "i" else (0, 2**64)
        return type(value) is not int or not least <= value < most
    return type(value) is not (bool if kind == "b" else str)


def _items(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the objects of an array; what is no object there lacks everything, as with Triton."""
    items = _member(document, key)
    if not isinstance(items, (list, np.ndarray)):
        raise ParseError(f"Unable to parse '{key}': attempt to access JSON non-array as array")
    return [each if isinstance(each, dict) else {} for each in items]


def _member(document: Mapping[str, Any], key: str) -> Any:
    try:
        return document[key]
    except KeyError:
        raise ParseError(f"Unable to parse '{key}': attempt to access non-existing object member '{key}'") from None


def text_of(document: Mapping[str, Any], key: str) -> str:
    """Return a member that is a text; raises `ParseError` with Triton's text."""
    found = _member(document, key)
    if not isinstance(found, str):
        raise ParseError(f"Unable to parse '{key}': attempt to access JSON non-string as string")
    return found


def _flag(parameters: Mapping[str, Any], key: str) -> bool:
    found = parameters.get(key, False)
    if not isinstance(found, bool):
        raise ParseError(f"Unable to parse '{key}': attempt to access JSON non-boolean as boolean")
    return found


def _count(parameters: Mapping[str, Any], key: str, verb: str = "parse") -> int:
    found = parameters.get(key, 0)
    if type(found) is not int or found < 0:
        raise ParseError(f"Unable to {verb} '{key}': attempt to access JSON non-unsigned-integer as unsigned-integer")
    return found


def _parameters(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of an input or an output; what is no object there is as good as none (Triton's way)."""
    found = item.get("parameters")
    return found if isinstance(found, dict) else {}


def _wanted(item: Mapping[str, Any]) -> Wanted:
    name, said = text_of(item, "name"), _parameters(item)
    classes = _count(said, "classification", "set")
    if classes > _CLASSES_MAX:
        raise BadRequestError(f"'classification' of output '{name}' is {classes}: at most {_CLASSES_MAX}.")
    is_binary = _flag(said, "binary_data")
    if "shared_memory_region" not in said:
        return Wanted(name, is_binary, classes)
    if classes or is_binary:
        other = "classification" if classes else "binary_data"
        raise BadRequestError(f"Output can't set both 'shared_memory_region' and '{other}'")
    region, offset = text_of(said, "shared_memory_region"), _count(said, "shared_memory_offset")
    return Wanted(name, region=region, offset=offset, size=_count(said, "shared_memory_byte_size"))


class _Inputs:
    """Takes inputs apart; binary ones from `rest`, in turn."""

    def __init__(self, model: str, rest: memoryview, memory: Memory | None) -> None:
        self._model = model
        self._rest = rest
        self._memory = memory

    def fill(self, question: Question, items: list[dict[str, Any]]) -> None:
        for item in items:
            source = _source(item)
            name, datatype, shape = text_of(item, "name"), text_of(item, "datatype"), _shape(item)
            if source == "data":
                question.add(name, datatype, _from_json(name, datatype, shape, item))
            else:
                question.add(name, datatype, Unread(name, datatype, tuple(shape), self._data(name, source, item)))
        if self._rest:
            raise BadRequestError(f"unexpected additional input data for model '{self._model}'")

    def _data(self, name: str, source: str, item: Mapping[str, Any]) -> memoryview:
        """Return the bytes of an input: those that are next, or those in shared memory."""
        said = _parameters(item)
        if source == "shared_memory_region":
            place = text_of(said, source), _count(said, "shared_memory_offset"), _count(said, "shared_memory_byte_size")
            return v2.from_region(place, self._memory)
        size = _count(said, "binary_data_size")
        if size > len(self._rest):
            raise BadRequestError(
                f"unexpected size for input '{name}', expecting {size - len(self._rest)} additional bytes for model "
                f"'{self._model}'"
            )
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _source(item: Mapping[str, Any]) -> str:
    """Return the one key that says where an input's data is; raises `BadRequestError` for none or several."""
    said = _parameters(item)
    found = ["data"] * ("data" in item) + [key for key in _SOURCES if key in said]
    if len(found) != 1:
        raise BadRequestError(
            "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
            "'shared_memory_region' in 'parameters'. But "
            + (f"set {' '.join(repr(key) for key in found)}" if found else "no field is set")
        )
    return found[0]


def _shape(item: Mapping[str, Any]) -> list[int]:
    shape = _member(item, "shape")
    shape = shape.tolist() if isinstance(shape, np.ndarray) else shape
    if not isinstance(shape, list):
        raise ParseError("Unable to parse 'shape': attempt to access JSON non-array as array")
    if any(type(dim) is not int or dim < 0 for dim in shape):
        raise ParseError("Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer")
    # The product of what is not 0 as well: numpy refuses an empty array of such a shape.
    if len(shape) > MAX_RANK or math.prod(filter(None, shape)) >= 2**31:
        raise BadRequestError(
            f"input '{item.get('name')}' has the shape {shape[:8]}: dimensions, and their product, are 0 to 2**31 - 1."
        )
    return shape


def _from_json(name: str, datatype: str, shape: list[int], item: Mapping[str, Any]) -> Array:
    if datatype not in DTYPES:
        raise BadRequestError(f"invalid datatype for input {name}")
    array = from_json(item["data"], datatype, name)
    if array.size != math.prod(shape):
        raise ParseError("Unable to parse 'data': Shape does not match true shape of 'data' field")
    return array.reshape(shape)
