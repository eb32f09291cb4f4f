"""Bodies of the Open Inference protocol (V2), as Triton reads and writes them: JSON, binary after JSON, raw binary.

    {"id", "parameters", "inputs": [{"name", "datatype", "shape", "data" | "parameters": {"binary_data_size"}}],
     "outputs": [{"name", "parameters": {"binary_data", "classification"}}]}

Binary tensors follow the JSON, little-endian, in the order of the inputs; BYTES elements are a 32-bit length and so
many bytes. Binary inputs are views of the body. What the model wants is not known here: `fitting` checks that. Texts
of errors are Triton's where clients know them. Called by the HTTP rooms.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from serving.codecs import json
from serving.codecs.json_numbers import MAX_RANK
from serving.errors import BadRequestError
from serving.tensors import DTYPES, Array

# More classes than any network has (Triton's own limit).
_CLASSES_MAX = 1_000_000
_NOTHING = memoryview(b"")
_LENGTH = struct.Struct("<I")
HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"
VENDOR = "application/vnd.sagemaker-triton.binary+json;json-header-size="
"""SageMaker's clients of Triton put the size of the JSON into the content type."""
_RESERVED = frozenset(
    ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output")
)


class ParseError(BadRequestError):
    """The body is no request: 500 on V2's own routes, as Triton says it, 400 elsewhere."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output as asked for; `classes` above 0 asks for the best so many instead of the tensor.

    With a `region`, its name may be empty, it goes to shared memory: `size` bytes at `offset` are the room there is.
    """

    name: str
    is_binary: bool = False
    classes: int = 0
    region: str | None = None
    offset: int = 0
    size: int = 0


@dataclass(slots=True)
class Question:
    """A request: input arrays with their datatypes, outputs (none: all), and what else the client said."""

    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, tuple[str, Array]] = field(default_factory=dict)
    outputs: list[Wanted] = field(default_factory=list)
    is_binary: bool = False
    priority: int = 0
    timeout_us: int = 0
    raw: bytes | None = None


class Memory(Protocol):
    """Shared memory by the names that clients registered."""

    def read(self, name: str, offset: int, count: int) -> memoryview:
        """Return `count` bytes at `offset` of a region, in place."""

    def check(self, name: str, offset: int, count: int) -> None:
        """Raise where `count` bytes at `offset` of a region are not there."""

    def write(self, name: str, offset: int, limit: int, data: bytes, output: str) -> None:
        """Write an output at `offset` of a region, where `limit` bytes are its."""


def read(body: bytes, header_bytes: int | None, memory: Memory | None = None) -> Question:
    """Read a request whose JSON takes `header_bytes` (None: all of it; 0: none, the body is the one input's bytes).

    Raises `ParseError` for what is no request, `BadRequestError` for one that contradicts itself.
    """
    if header_bytes == 0:
        return Question(raw=body, is_binary=True)
    head = body if header_bytes is None else body[:header_bytes]
    try:
        document = json.load(head)
    except BadRequestError as fault:
        raise ParseError(f"failed to parse the request JSON buffer: {fault.message}") from None
    if not isinstance(document, dict):
        raise ParseError("failed to parse the request JSON buffer: The document is no object.")
    return read_document(document, memoryview(body)[len(head) :], memory)


def read_document(document: dict[str, Any], rest: memoryview = _NOTHING, memory: Memory | None = None) -> Question:
    """Read a request whose JSON is parsed; binary inputs are in `rest`. Raises as `read` does."""
    question = _question(document)
    _Inputs(rest, memory).fill(question, _items(document, "inputs"))
    check_places(question, memory)
    return question


def check_places(question: Question, memory: Memory | None) -> None:
    """Raise where the room for an output in shared memory is not there: before a model runs for it."""
    for each in question.outputs:
        if each.region is not None:
            _memory(memory).check(each.region, each.offset, each.size)


def from_region(place: tuple[str, int, int], memory: Memory | None) -> memoryview:
    """Return what lies in shared memory at a place: a region, an offset, a size in bytes."""
    region, offset, size = place
    return _memory(memory).read(region, offset, size)


def to_region(want: Wanted, array: Array, memory: Memory | None) -> None:
    """Write an output to shared memory, where it was asked for."""
    _memory(memory).write(want.region or "", want.offset, want.size, to_bytes(array), want.name)


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


def _question(document: dict[str, Any]) -> Question:
    parameters = _object(document, "parameters")
    question = Question(id=_text(document, "id"), is_binary=bool(parameters.get("binary_data_output", False)))
    question.priority = _count(parameters, "priority")
    question.timeout_us = _count(parameters, "timeout")
    question.parameters = checked(parameters)
    if "outputs" in document:
        question.outputs = [_wanted(each, question.is_binary) for each in _items(document, "outputs")]
    return question


def checked(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return a request's parameters: scalars, none of a reserved name; raises `BadRequestError` (Triton's texts)."""
    for name, value in parameters.items():
        if name.startswith("triton_"):
            raise BadRequestError(f"parameter keys starting with 'triton_' are reserved for Triton usage: '{name}'")
        if not isinstance(value, (str, int, float)):
            raise BadRequestError(
                f"parameter '{name}' has invalid type. It should be either 'int', 'bool', 'string', or 'double'."
            )
    return parameters


def own_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are the model's: those that are not the protocol's."""
    return {name: value for name, value in parameters.items() if name not in _RESERVED}


def _items(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    if key not in document:
        raise ParseError(f"Unable to parse '{key}': attempt to access non-existing object member '{key}'")
    items = document[key]
    if not isinstance(items, list) or any(not isinstance(each, dict) for each in items):
        raise ParseError(f"Unable to parse '{key}': attempt to access JSON non-array as array")
    return items


def _object(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = document.get(key, {})
    if not isinstance(found, dict):
        raise ParseError(f"Unable to parse '{key}': attempt to access JSON non-object as object")
    return found


def _text(document: Mapping[str, Any], key: str) -> str:
    found = document.get(key, "")
    if not isinstance(found, str):
        raise ParseError(f"Unable to parse '{key}': attempt to access JSON non-string as string")
    return found


def _count(parameters: Mapping[str, Any], key: str) -> int:
    found = parameters.get(key, 0)
    if type(found) is not int or found < 0:
        raise ParseError(f"Unable to parse '{key}': attempt to access JSON non-unsigned-integer as unsigned-integer")
    return found


def _wanted(item: Mapping[str, Any], is_binary: bool) -> Wanted:
    parameters = _object(item, "parameters")
    classes = _count(parameters, "classification")
    if classes > _CLASSES_MAX:
        raise BadRequestError(f"'classification' of output '{item.get('name')}' is {classes}: at most {_CLASSES_MAX}.")
    region = _text(parameters, "shared_memory_region") if "shared_memory_region" in parameters else None
    if region is not None and (classes or parameters.get("binary_data")):
        other = "classification" if classes else "binary_data"
        raise BadRequestError(f"Output can't set both 'shared_memory_region' and '{other}'")
    return Wanted(
        _name(item, "outputs"),
        bool(parameters.get("binary_data", is_binary)),
        classes,
        region,
        _count(parameters, "shared_memory_offset"),
        _count(parameters, "shared_memory_byte_size"),
    )


def _name(item: Mapping[str, Any], key: str) -> str:
    name = item.get("name")
    if not isinstance(name, str):
        raise ParseError(f"Unable to parse '{key}': attempt to access non-existing object member 'name'")
    return name


class _Inputs:
    """Takes inputs apart; binary ones from `rest`, in turn."""

    def __init__(self, rest: memoryview, memory: Memory | None) -> None:
        self._rest = rest
        self._memory = memory

    def fill(self, question: Question, items: list[dict[str, Any]]) -> None:
        for item in items:
            name = _name(item, "inputs")
            datatype = _text(item, "datatype")
            if datatype not in DTYPES:
                raise BadRequestError(
                    f"inference input '{name}' has datatype '{datatype}': one of {', '.join(DTYPES)}."
                )
            if name in question.inputs:
                raise BadRequestError(f"input '{name}' already exists in request")
            question.inputs[name] = (datatype, self._array(name, datatype, _shape(item), item))
        if self._rest:
            raise BadRequestError(
                f"unexpected additional input data for model: {len(self._rest)} bytes follow the last input."
            )

    def _array(self, name: str, datatype: str, shape: list[int], item: Mapping[str, Any]) -> Array:
        parameters = _object(item, "parameters")
        if "shared_memory_region" in parameters:
            place = (
                _text(parameters, "shared_memory_region"),
                _count(parameters, "shared_memory_offset"),
                _count(parameters, "shared_memory_byte_size"),
            )
            return from_bytes(name, datatype, shape, from_region(place, self._memory))
        if "binary_data_size" not in parameters:
            return _from_json(name, datatype, shape, item)
        size = _count(parameters, "binary_data_size")
        if "data" in item:
            raise BadRequestError(f"input '{name}' has both 'data' and 'binary_data_size': send one of them.")
        if size > len(self._rest):
            raise BadRequestError(f"unexpected size for input '{name}', expecting {size} bytes, got {len(self._rest)}")
        data, self._rest = self._rest[:size], self._rest[size:]
        return from_bytes(name, datatype, shape, data)


def _memory(memory: Memory | None) -> Memory:
    if memory is None:
        raise BadRequestError("shared memory is not read on this route: send the data itself.")
    return memory


def _shape(item: Mapping[str, Any]) -> list[int]:
    shape = item.get("shape")
    if isinstance(shape, np.ndarray):
        shape = shape.tolist()
    if not isinstance(shape, list) or any(type(dim) is not int for dim in shape):
        raise ParseError("Unable to parse 'shape': attempt to access JSON non-array as array")
    # The product of what is not 0 as well: numpy refuses an empty array of such a shape.
    if len(shape) > MAX_RANK or min(shape, default=0) < 0 or math.prod(filter(None, shape)) >= 2**31:
        raise BadRequestError(
            f"input '{item.get('name')}' has the shape {shape[:8]}: dimensions, and their product, are 0 to 2**31 - 1."
        )
    return shape


def _from_json(name: str, datatype: str, shape: list[int], item: Mapping[str, Any]) -> Array:
    if "data" not in item:
        raise ParseError("Unable to parse 'data': attempt to access non-existing object member 'data'")
    array = json.to_array(item["data"], datatype, name)
    if array.size != math.prod(shape):
        raise ParseError("Unable to parse 'data': Shape does not match true shape of 'data' field")
    return array.reshape(shape)


def from_bytes(name: str, datatype: str, shape: list[int], data: memoryview) -> Array:
    """Return the array that little-endian `data` holds, a view of it but for BYTES; raises `BadRequestError`."""
    count = math.prod(shape)
    if datatype == "BYTES":
        return _split(name, data, count).reshape(shape)
    dtype = DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise BadRequestError(
            f"unexpected size for input '{name}', expecting {count * dtype.itemsize} bytes, got {len(data)}"
        )
    if datatype == "BOOL" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise BadRequestError(f"input '{name}' is BOOL and has bytes other than 0 and 1: send only those.")
    return np.frombuffer(data, dtype.newbyteorder("<"), count).reshape(shape).astype(dtype, copy=False)


def _split(name: str, data: memoryview, count: int) -> Array:
    elements: list[bytes] = []
    at = 0
    while at < len(data) and len(elements) < count:
        size = _LENGTH.unpack_from(data, at)[0] if at + 4 <= len(data) else len(data)
        if at + 4 + size > len(data):
            raise BadRequestError(f"incomplete string data for inference input '{name}': element {len(elements)}")
        elements.append(bytes(data[at + 4 : at + 4 + size]))
        at += 4 + size
    if at != len(data) or len(elements) != count:
        raise BadRequestError(f"expected {count} strings for inference input '{name}', got {len(elements)}")
    array = np.empty(count, object)
    array[:] = elements
    return array


def to_bytes(array: Array) -> bytes:
    """Return an array as little-endian bytes, BYTES with lengths."""
    if array.dtype.kind in "OSU":
        parts: list[bytes] = []
        for element in array.ravel().tolist():
            data = element if isinstance(element, bytes) else str(element).encode()
            parts += (_LENGTH.pack(len(data)), data)
        return b"".join(parts)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def write(
    head: dict[str, Any], outputs: Mapping[str, Array], question: Question, memory: Memory | None = None
) -> tuple[bytes, int | None]:
    """Write an answer of `head` (model_name ...) and `outputs`; return the body, and its JSON's size if binary follows.

    Only outputs asked for in binary that are not empty are written so. `outputs` are in the order that was asked for.
    """
    wanted = {each.name: each for each in question.outputs}
    items, tail = [], []
    for name, array in outputs.items():
        want = wanted.get(name) or Wanted(name, question.is_binary)
        item: dict[str, Any] = {"name": name, "datatype": json.datatype_of(array), "shape": list(array.shape)}
        if want.region is not None:
            to_region(want, array, memory)
        elif want.is_binary and array.size:
            tail.append(to_bytes(array))
            item["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            item["data"] = array.ravel()
        items.append(item)
    text = json.dump({**head, "outputs": items})
    return (b"".join((text, *tail)), len(text)) if tail else (text, None)


def classified(array: Array, classes: int, labels: tuple[str, ...] | None, *, has_batch: bool) -> Array:
    """Return the best `classes` of each row as BYTES `value:index[:label]`, the best first (Triton's extension)."""
    if array.dtype.kind not in "biuf":
        raise BadRequestError("class result not available for output due to unsupported type 'BYTES'")
    has_batch = has_batch and array.ndim > 0
    rows = array.reshape(array.shape[0], math.prod(array.shape[1:])) if has_batch else array.reshape(1, array.size)
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :classes]
    texts = np.empty(best.shape, object)
    for row, column in np.ndindex(*best.shape):
        index = int(best[row, column])
        label = f":{labels[index]}" if labels and index < len(labels) else ""
        texts[row, column] = f"{rows[row, index]:f}:{index}{label}".encode()
    return texts if has_batch else texts[0]
