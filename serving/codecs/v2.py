"""Questions and answers of the Open Inference protocol (V2), as Triton has them, and tensors as bytes.

    {"id"?, "model_name", "model_version", "parameters"?,
     "outputs": [{"name", "datatype", "shape", "data" | "parameters": {"binary_data_size"}}]}

Binary tensors follow the JSON in the order of the outputs, as `packed` has them. `v2_requests` reads what clients send;
what is binary in it stays `Unread` until `fitting` knows that the model wants it so. Texts of errors are Triton's where
clients know them. Called by the HTTP rooms, gRPC's and `inference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from serving.codecs import json
from serving.codecs.packed import Unread, to_buffer, to_bytes
from serving.errors import BadRequestError
from serving.tensors import Array

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


# An output that is not asked for by name.
_IN_JSON, _IN_BINARY = Wanted(""), Wanted("", is_binary=True)


@dataclass(slots=True)
class Question:
    """A request: input arrays with their datatypes, outputs (none: all), and what else the client said.

    `is_binary` is about the outputs where none is named. `raw` is the one input's bytes: the model says what it is.
    """

    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, tuple[str, Array | Unread]] = field(default_factory=dict)
    outputs: list[Wanted] = field(default_factory=list)
    is_binary: bool = False
    priority: int = 0
    timeout_us: int = 0
    raw: bytes | None = None
    is_left: Callable[[], bool] | None = None
    """Whether its caller has gone, where the transport can tell."""

    @property
    def about(self) -> str:
        """How Triton's sentences about a request begin."""
        return f"[request id: {self.id or '<id_unknown>'}] "

    def add(self, name: str, datatype: str, tensor: Array | Unread) -> None:
        """Take an input; raises `BadRequestError` for one that is there."""
        if name in self.inputs:
            raise BadRequestError(f"{self.about}input '{name}' already exists in request")
        self.inputs[name] = (datatype, tensor)

    def array(self, name: str, model: str) -> Array:
        """Return an input's array, read now where it came as bytes; raises `BadRequestError` for wrong ones."""
        tensor = self.inputs[name][1]
        return tensor.read(self.about, model) if isinstance(tensor, Unread) else tensor


class Memory(Protocol):
    """Shared memory by the names that clients registered."""

    def read(self, name: str, offset: int, count: int) -> memoryview:
        """Return `count` bytes at `offset` of a region, in place."""

    def check(self, name: str, offset: int, count: int) -> None:
        """Raise where `count` bytes at `offset` of a region are not there."""

    def write(self, name: str, offset: int, limit: int, data: bytes, output: str) -> None:
        """Write an output at `offset` of a region, where `limit` bytes are its."""


def own_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are the model's: those that are not the protocol's."""
    return {name: value for name, value in parameters.items() if name not in _RESERVED}


def from_region(place: tuple[str, int, int], memory: Memory | None) -> memoryview:
    """Return what lies in shared memory at a place: a region, an offset, a size in bytes."""
    region, offset, size = place
    return regions(memory).read(region, offset, size)


def regions(memory: Memory | None) -> Memory:
    """Return the shared memory of a route that has some; raises `BadRequestError`."""
    if memory is None:
        raise BadRequestError("shared memory is not read on this route: send the data itself.")
    return memory


def check_places(question: Question, memory: Memory | None) -> None:
    """Raise where the room for an output in shared memory is not there: before a model runs for it."""
    for each in question.outputs:
        if each.region is not None:
            regions(memory).check(each.region, each.offset, each.size)


def to_region(want: Wanted, array: Array, memory: Memory | None) -> None:
    """Write an output to shared memory, where it was asked for."""
    regions(memory).write(want.region or "", want.offset, want.size, to_bytes(array), want.name)


def write(
    head: dict[str, Any], outputs: Mapping[str, Array], question: Question, memory: Memory | None = None
) -> tuple[bytes, int | None]:
    """Write an answer of `head` (model_name ...) and `outputs`; return the body, and its JSON's size if binary follows.

    Bytes follow only where an output asked for in binary is not empty.
    """
    wanted = {each.name: each for each in question.outputs}
    items, tail = [], []
    for name, array in outputs.items():
        want = wanted.get(name) or (_IN_BINARY if question.is_binary else _IN_JSON)
        item: dict[str, Any] = {"name": name, "datatype": json.datatype_of(array), "shape": list(array.shape)}
        if want.region is not None:
            to_region(want, array, memory)
        elif want.is_binary:
            data = to_buffer(array)
            tail += [data] if data else []
            item["parameters"] = {"binary_data_size": len(data)}
        else:
            item["data"] = array.ravel()
        items.append(item)
    text = json.dump({**head, "outputs": items})
    return (b"".join((text, *tail)), len(text)) if any(tail) else (text, None)


def classified(array: Array, classes: int, labels: tuple[str, ...] | None, *, has_batch: bool) -> Array:
    """Return the best `classes` of each row as BYTES `value:index[:label]`, the best first (Triton's extension).

    Values with a point have six digits after it, whole ones none.
    """
    if array.dtype.kind not in "iuf":
        kind = json.datatype_of(array)
        raise BadRequestError(f"class result not available for output due to unsupported type '{kind}'")
    has_batch = has_batch and array.ndim > 0
    rows = array.reshape(array.shape[0], math.prod(array.shape[1:])) if has_batch else array.reshape(1, array.size)
    best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :classes]
    texts = np.empty(best.shape, object)
    for row, column in np.ndindex(*best.shape):
        index = int(best[row, column])
        label = f":{labels[index]}" if labels and index < len(labels) else ""
        value = rows[row, index]
        text = f"{value:f}" if array.dtype.kind == "f" else str(int(value))
        texts[row, column] = f"{text}:{index}{label}".encode()
    return texts if has_batch else texts[0]
