"""Which files an ONNX model is made of: itself, and the external data that it names.

The model is a protobuf; its wire format is walked through a memory map, so that weights are stepped over, not read, and
neither onnx nor a runtime is needed. Numbers of fields are onnx.proto's. A file cut short does not add up and is
refused here; whether its operators are known is the backend's to say. `layouts` asks.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path, PurePosixPath

from serving.errors import InvalidArtifactError
from serving.repository.limits import quoted
from serving.repository.wire_format import fields

_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _FUNCTION_NODE = 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_TENSOR_EXTERNAL = 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

# Which fields of a message hold which messages on the way to a tensor.
_STEPS = {
    "model": {_MODEL_GRAPH: "graph", _MODEL_FUNCTIONS: "function"},
    "graph": {_GRAPH_NODE: "node", _GRAPH_INITIALIZER: "tensor", _GRAPH_SPARSE: "sparse"},
    "function": {_FUNCTION_NODE: "node"},
    "node": {_NODE_ATTRIBUTE: "attribute"},
    "attribute": {
        _ATTRIBUTE_TENSOR: "tensor",
        _ATTRIBUTE_GRAPH: "graph",
        _ATTRIBUTE_TENSORS: "tensor",
        _ATTRIBUTE_GRAPHS: "graph",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {_TENSOR_EXTERNAL: "entry"},
}

_Span = tuple[str, int, int]


def external_files(file: Path) -> tuple[Path, ...]:
    """Return the files that `file` keeps tensors in, each once.

    Raises `InvalidArtifactError` for a file that is no ONNX model or cut short, and for data that is missing or lies
    outside the model's folder.
    """
    return tuple(sorted({_checked(file, location) for location in set(_locations(file))}))


def is_onnx(file: Path) -> bool:
    """Say whether a file of any name is a whole ONNX model."""
    try:
        _locations(file)
    except InvalidArtifactError:
        return False
    return True


def _locations(file: Path) -> list[str]:
    try:
        with file.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:
            spans: list[_Span] = [("model", 0, len(data))]
            found = []
            has_graph = False
            while spans:
                kind, start, end = spans.pop()
                has_graph = has_graph or kind == "graph"
                if kind == "entry":
                    found += _location(data, start, end)
                else:
                    spans += _inner(data, kind, start, end)
    except (ValueError, IndexError) as error:
        raise InvalidArtifactError(f"'{file.name}' is no ONNX model, or cut short ({error}): copy it again.") from error
    if not has_graph:
        raise InvalidArtifactError(f"'{file.name}' is no ONNX model (it has no graph): export it again.")
    return found


def _inner(data: mmap.mmap, kind: str, start: int, end: int) -> list[_Span]:
    steps = _STEPS[kind]
    return [(steps[number], at, stop) for number, at, stop in fields(data, start, end) if number in steps]


def _location(data: mmap.mmap, start: int, end: int) -> list[str]:
    texts = {number: data[at:stop] for number, at, stop in fields(data, start, end)}
    return [texts.get(_ENTRY_VALUE, b"").decode()] if texts.get(_ENTRY_KEY) == b"location" else []


def _checked(file: Path, location: str) -> Path:
    pure = PurePosixPath(location)
    found = file.parent / pure
    if not location or pure.is_absolute() or ".." in pure.parts or "\0" in location:
        raise InvalidArtifactError(
            f"'{file.name}' keeps data in {quoted(location)}, outside its folder: export it again."
        )
    if not os.path.isfile(found):  # noqa: PTH113  false, not an error, for a name that is too long
        raise InvalidArtifactError(
            f"'{file.name}' keeps data in {quoted(location)}, which is missing: add it beside the model."
        )
    return found
