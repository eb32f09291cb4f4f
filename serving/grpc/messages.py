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
from serving.repository.overrides import Override
from serving.tensors import DTYPES, Array

_FILE = "file:"
FINAL = "triton_final_response"
WANTS_FINAL = "triton_enable_empty_final_response"

# More classes than any network has (Triton's own limit).
_CLASSES_MAX = 1_000_000
_RANK_MAX = MAX_RANK
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


def read_load(entries: Mapping[str, Any]) -> Override | None:
    """Return what came with a load as ModelRepositoryParameters, None for nothing; raises `BadRequestError`."""
    kinds = {"config": "string_param"} | {name: "bytes_param" for name in entries if name.startswith(_FILE)}
    for name, value in entries.items():
        if name not in kinds:
            raise BadRequestError(f"unrecognized load parameter '{name}'.")
        if value.WhichOneof("parameter_choice") != kinds[name]:
            raise BadRequestError(f"invalid value type for load parameter '{name}', expected {kinds[name]}.")
    found = read_parameters(entries)
    config = found.pop("config", None)
    files = {name.removeprefix(_FILE): content for name, content in found.items()}
    return Override(config, files) if entries else None


def read_unload(entries: Mapping[str, Any]) -> bool:
    """Say whether an ensemble's members are to go, too; raises `BadRequestError`."""
    if "unload_dependents" not in entries:
        return False
    if entries["unload_dependents"].WhichOneof("parameter_choice") != "bool_param":
        raise BadRequestError("invalid value type for 'unload_dependents' parameter, expected bool_param.")
    return bool(entries["unload_dependents"].bool_param)


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


def read(request: Any) -> tuple[Question, int]:
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
    if raw:
        _read_raw(request, raw, question)
    else:
        for each in request.inputs:
            question.inputs[each.name] = (each.datatype, _typed(each, _shape(each)))
    return question, sum(map(len, raw)) if raw else request.ByteSize()


def _count(parameters: Mapping[str, Any], name: str) -> int:
    found = parameters.get(name, 0)
    if type(found) is not int or found < 0:
        raise BadRequestError(f"parameter '{name}' is {ascii(found)[:40]}: a number of 0 or more is wanted.")
    return found


def _wanted(output: Any) -> Wanted:
    parameters = read_parameters(output.parameters) if output.parameters else {}
    if "shared_memory_region" in parameters:
        raise BadRequestError(f"output '{output.name}': shared memory is off over gRPC: ask for the data itself.")
    classes = _count(parameters, "classification")
    if classes > _CLASSES_MAX:
        raise BadRequestError(f"'classification' of output '{output.name}' is {classes}: at most {_CLASSES_MAX}.")
    return Wanted(output.name, is_binary=True, classes=classes)


def _shape(tensor: Any) -> list[int]:
    """Check an input's description; return its shape."""
    name, shape = tensor.name, list(tensor.shape)
    if tensor.datatype not in DTYPES:
        raise BadRequestError(f"inference input '{name}' has datatype '{tensor.datatype}': one of {', '.join(DTYPES)}.")
    if len(shape) > _RANK_MAX or any(not 0 <= dim < 2**31 for dim in shape):
        raise BadRequestError(f"input '{name}' has the shape {shape[:8]}: dimensions are 0 to 2**31 - 1.")
    if tensor.parameters and "shared_memory_region" in tensor.parameters:
        raise BadRequestError(f"input '{name}': shared memory is off over gRPC: send the data itself.")
    return shape


def _read_raw(request: Any, raw: Sequence[bytes], question: Question) -> None:
    """Read inputs from raw contents, which are there for all of them or for none."""
    if len(raw) != len(request.inputs):
        raise BadRequestError(
            f"expected {len(request.inputs)} raw_input_contents for model '{request.model_name}', got {len(raw)}: one "
            "for each input, in their order."
        )
    for each, data in zip(request.inputs, raw, strict=True):
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


def write(answer: Answer) -> Any:
    """Return an answer as a ModelInferResponse, tensors raw."""
    response = pb.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=answer.id)
    if answer.parameters:
        write_parameters(response.parameters, answer.parameters)
    for name, array in answer.outputs.items():
        response.outputs.add(name=name, datatype=json.datatype_of(array), shape=array.shape)
        response.raw_output_contents.append(v2.to_bytes(array))
    return response
