"""Triton's protobuf messages to questions and from answers.

Tensors come in `raw_input_contents`, of which arrays are views, or typed in `contents`; they always leave raw. Knows
the messages of `tritonclient.grpc.service_pb2` by their fields; what a model wants is `fitting`'s business. Texts of
errors are Triton's where clients know them. Called by `service`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from serving.codecs import json, v2
from serving.codecs.json_numbers import MAX_RANK
from serving.codecs.v2 import Question, Wanted
from serving.errors import BadRequestError
from serving.inference import Answer
from serving.tensors import DTYPES, Array

FINAL = "triton_final_response"
WANTS_FINAL = "triton_enable_empty_final_response"

# More classes than any network has (Triton's own limit).
_CLASSES_MAX = 1_000_000
_RANK_MAX = MAX_RANK
# Where a tensor lies in shared memory: each parameter, its type here and as the protocol calls it.
_PLACE = (
    ("shared_memory_region", str, "string"),
    ("shared_memory_offset", int, "int64"),
    ("shared_memory_byte_size", int, "int64"),
)
# The field of InferTensorContents that a datatype travels in (Open Inference protocol); FP16 and BF16 have none.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read_parameters(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return a map of InferParameter or ModelRepositoryParameter as Python values; one without a value is None."""
    found = {}
    for name, value in entries.items():
        kind = value.WhichOneof("parameter_choice")
        found[name] = getattr(value, kind) if kind else None
    return found


def write_parameters(entries: Any, parameters: Mapping[str, Any]) -> None:
    """Put Python values into a map of InferParameter; what is neither number nor text becomes one (JSON)."""
    for name, value in parameters.items():
        if isinstance(value, bool):
            entries[name].bool_param = value
        elif isinstance(value, int) and -(2**63) <= value < 2**63:
            entries[name].int64_param = value
        elif isinstance(value, float):
            entries[name].double_param = value
        else:
            is_plain = isinstance(value, (str, int))
            entries[name].string_param = str(value) if is_plain else json.dump(value).decode()


def read(request: Any, memory: v2.Memory | None = None) -> tuple[Question, int]:
    """Return a ModelInferRequest as a question, and its bytes; raise `BadRequestError` for what contradicts itself."""
    raw = list(request.raw_input_contents)  # each access would be a copy
    parameters = read_parameters(request.parameters)
    parameters.pop(WANTS_FINAL, None)
    for name in parameters:
        if name.startswith("triton_"):
            raise BadRequestError(f"parameter keys starting with 'triton_' are reserved for Triton usage: '{name}'")
    question = Question(id=request.id, parameters=parameters, is_binary=True)
    question.priority, question.timeout_us = _count(parameters, "priority"), _count(parameters, "timeout")
    question.outputs = [_wanted(each) for each in request.outputs]
    sent = [each for each in request.inputs if not (each.parameters and _read_shared(each, request, question, memory))]
    if raw:
        _read_raw(request, sent, raw, question)
    else:
        for each in sent:
            question.inputs[each.name] = (each.datatype, _typed(each, _shape(each)))
    v2.check_places(question, memory)
    return question, sum(map(len, raw)) if raw else request.ByteSize()


def _count(parameters: Mapping[str, Any], name: str) -> int:
    found = parameters.get(name, 0)
    if type(found) is not int or found < 0:
        raise BadRequestError(f"parameter '{name}' is {ascii(found)[:40]}: a number of 0 or more is wanted.")
    return found


def _wanted(output: Any) -> Wanted:
    parameters = read_parameters(output.parameters) if output.parameters else {}
    place = _place(output.name, parameters)
    classes = _count(parameters, "classification")
    if classes > _CLASSES_MAX:
        raise BadRequestError(f"'classification' of output '{output.name}' is {classes}: at most {_CLASSES_MAX}.")
    if place and classes:
        raise BadRequestError("output can't set both 'shared_memory_region' and 'classification'")
    return Wanted(output.name, True, classes, *place)


def _place(name: str, parameters: Mapping[str, Any]) -> tuple[()] | tuple[str, int, int]:
    """Return the region, the offset and the size of a tensor in shared memory; nothing for one that is not there."""
    for key, kind, choice in _PLACE:
        if key in parameters and type(parameters[key]) is not kind:
            raise BadRequestError(
                f"invalid value type for '{key}' parameter for tensor '{name}', expected {choice}_param."
            )
    (region, *_), (offset, *_), (size, *_) = _PLACE
    if region not in parameters:
        for key in (key for key in (size, offset) if key in parameters):
            raise BadRequestError(f"'{key}' can not be specified without '{region}' parameter for tensor '{name}'")
        return ()
    if size not in parameters:
        raise BadRequestError(f"'{size}' must be specified along with '{region}' parameter for tensor '{name}'")
    return parameters[region], parameters.get(offset, 0), parameters[size]


def _shape(tensor: Any) -> list[int]:
    """Check an input's description; return its shape."""
    name, shape = tensor.name, list(tensor.shape)
    if tensor.datatype not in DTYPES:
        raise BadRequestError(f"inference input '{name}' has datatype '{tensor.datatype}': one of {', '.join(DTYPES)}.")
    if len(shape) > _RANK_MAX or any(not 0 <= dim < 2**31 for dim in shape):
        raise BadRequestError(f"input '{name}' has the shape {shape[:8]}: dimensions are 0 to 2**31 - 1.")
    return shape


def _read_shared(tensor: Any, request: Any, question: Question, memory: v2.Memory | None) -> bool:
    """Read an input that lies in shared memory; return whether it does."""
    place = _place(tensor.name, read_parameters(tensor.parameters))
    if not place:
        return False
    if tensor.HasField("contents"):
        raise BadRequestError(
            f"unexpected 'content' provided when using shared memory for input tensor '{tensor.name}' for model "
            f"'{request.model_name}'"
        )
    shape = _shape(tensor)
    array = v2.from_bytes(tensor.name, tensor.datatype, shape, v2.from_region(place, memory))
    question.inputs[tensor.name] = (tensor.datatype, array)
    return True


def _read_raw(request: Any, sent: Sequence[Any], raw: Sequence[bytes], question: Question) -> None:
    """Read inputs from raw contents, which are there for all that were `sent` or for none."""
    if len(raw) != len(sent):
        raise BadRequestError(
            f"expected {len(sent)} raw_input_contents for model '{request.model_name}', got {len(raw)}: one for each "
            "input that is not in shared memory, in their order."
        )
    for each, data in zip(sent, raw, strict=True):
        if each.HasField("contents"):
            raise BadRequestError(
                f"contents field must not be specified when using raw_input_contents for '{each.name}' for model "
                f"'{request.model_name}'"
            )
        array = v2.from_bytes(each.name, each.datatype, _shape(each), memoryview(data))
        question.inputs[each.name] = (each.datatype, array)


def _typed(tensor: Any, shape: list[int]) -> Array:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise BadRequestError(
            f"input '{tensor.name}' of datatype {tensor.datatype} has no typed contents: send raw_input_contents."
        )
    values = getattr(tensor.contents, field)
    if len(values) != math.prod(shape):
        raise BadRequestError(
            f"unexpected number of elements for input '{tensor.name}', expecting {math.prod(shape)} in {field}, got "
            f"{len(values)}"
        )
    try:
        return np.array(list(values), DTYPES[tensor.datatype]).reshape(shape)
    except OverflowError:
        raise BadRequestError(f"input '{tensor.name}' has values that {tensor.datatype} does not hold.") from None


def write(answer: Answer, question: Question, memory: v2.Memory | None = None) -> Any:
    """Return an answer as a ModelInferResponse, tensors raw, those that go to shared memory empty."""
    response = pb.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=answer.id)
    if answer.parameters:
        write_parameters(response.parameters, answer.parameters)
    placed = {each.name: each for each in question.outputs if each.region is not None}
    for name, array in answer.outputs.items():
        response.outputs.add(name=name, datatype=json.datatype_of(array), shape=array.shape)
        if name in placed:
            v2.to_region(placed[name], array, memory)
        response.raw_output_contents.append(b"" if name in placed else v2.to_bytes(array))
    return response
