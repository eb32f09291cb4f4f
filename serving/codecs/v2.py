"""Questions and answers of the Open Inference protocol (V2), as Triton has them, and tensors as bytes.

    {"id"?, "model_name", "model_version", "parameters"?,
     "outputs": [{"name", "datatype", "shape", "data" | "parameters": {"binary_data_size"}}]}

Binary tensors follow the JSON, little-endian, in the order of the outputs; BYTES elements are a 32-bit length and so
many bytes. `v2_requests` reads what clients send. What the model wants is not known here: `fitting` checks that. Texts
of errors are Triton's where clients know them. Called by the HTTP rooms, gRPC's and `inference`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from serving.codecs import json
from serving.errors import BadRequestError
from serving.tensors import DTYPES, Array

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
    """A request: input arrays with their datatypes, outputs (none: all), and what else the client said.

    `is_binary` is about the outputs where none is named. `raw` is the one input's bytes: the model says what it is.
    """

    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, tuple[str, Array]] = field(default_factory=dict)
    outputs: list[Wanted] = field(default_factory=list)
    is_binary: bool = False
    priority: int = 0
    timeout_us: int = 0
    raw: bytes | None = None

    @property
    def about(self) -> str:
        """How Triton's sentences about a request begin."""
        return f"[request id: {self.id or '<id_unknown>'}] "


class Memory(Protocol):
    """Shared memory by the names that clients registered."""

    def read(self, name: str, offset: int, count: int) -> memoryview:
        """Return `count` bytes at `offset` of a region, in place."""

    def write(self, name: str, offset: int, limit: int, data: bytes) -> None:
        """Write `data` at `offset` of a region, where `limit` bytes are the output's."""


def own_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are the model's: those that are not the protocol's."""
    return {name: value for name, value in parameters.items() if name not in _RESERVED}


def from_region(place: tuple[str, int, int], memory: Memory | None) -> memoryview:
    """Return what lies in shared memory at a place: a region, an offset, a size in bytes."""
    region, offset, size = place
    return _memory(memory).read(region, offset, size)


def _memory(memory: Memory | None) -> Memory:
    if memory is None:
        raise BadRequestError("shared memory is not read on this route: send the data itself.")
    return memory


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

    `outputs` are in the order that was asked for. An empty one that was asked for in binary has the size 0.
    """
    wanted = {each.name: each for each in question.outputs}
    items, tail = [], []
    for name, array in outputs.items():
        want = wanted.get(name) or Wanted(name, question.is_binary)
        item: dict[str, Any] = {"name": name, "datatype": json.datatype_of(array), "shape": list(array.shape)}
        if want.region is not None:
            data = to_bytes(array)
            _memory(memory).write(want.region, want.offset, want.size, data)
            item["parameters"] = {
                "shared_memory_region": want.region,
                **({"shared_memory_offset": want.offset} if want.offset else {}),
                "shared_memory_byte_size": len(data),
            }
        elif want.is_binary:
            tail.append(to_bytes(array))
            item["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            item["data"] = array.ravel()
        items.append(item)
    text = json.dump({**head, "outputs": items})
    return (b"".join((text, *tail)), len(text)) if any(tail) else (text, None)


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
