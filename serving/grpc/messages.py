"""Triton's protobuf messages to questions and from answers.

Tensors come in `raw_input_contents`, of which arrays are views, or typed in `contents`; they always leave raw. Knows
the messages of `tritonclient.grpc.service_pb2` by their fields; what a model wants is `fitting`'s business. Texts of
errors are Triton's where clients know them. Called by `service`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from serving.codecs import json, v2
from serving.codecs.json_numbers import MAX_RANK
from serving.codecs.packed import Unread, known_datatype, to_bytes
from serving.codecs.v2 import Question, Wanted
from serving.errors import BadRequestError
from serving.inference import Answer
from serving.repository.overrides import Override
from serving.tensors import DTYPES

_FILE = "file:"
FINAL = "triton_final_response"
WANTS_FINAL = "triton_enable_empty_final_response"

# More classes than any network has (Triton's own limit).
_CLASSES_MAX = 1_000_000
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
# What the protocol's own parameters may be; others may be anything but a uint64 (and nothing).
_TYPES = {
    "priority": ("int64_param", "uint64_param"),
    "timeout": ("int64_param",),
    "sequence_id": ("int64_param", "string_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
}
# What Triton calls the type of a field.
_KINDS = {
    "bool_contents": "BOOL",
    "int_contents": "INT32",
    "int64_contents": "INT64",
    "uint_contents": "UINT32",
    "uint64_contents": "UINT64",
    "fp32_contents": "FP32",
    "fp64_contents": "FP64",
    "bytes_contents": "BYTES",
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


def read(request: Any, memory: v2.Memory | None = None) -> tuple[Question, int]:
    """Return a ModelInferRequest as a question, and its bytes; raise `BadRequestError` for what contradicts itself."""
    raw = list(request.raw_input_contents)  # each access would be a copy
    _check_parameters(request.parameters)
    parameters = read_parameters(request.parameters)
    parameters.pop(WANTS_FINAL, None)
    question = Question(id=request.id, parameters=parameters, is_binary=True)
    question.priority, question.timeout_us = parameters.get("priority", 0), parameters.get("timeout", 0)
    question.outputs = [_wanted(each) for each in request.outputs]
    sent = [each for each in request.inputs if not (each.parameters and _read_shared(each, request, question, memory))]
    if raw:
        _read_raw(request, sent, raw, question)
    else:
        for each in sent:
            question.add(each.name, each.datatype, _typed(each, _shape(each), request.model_name))
    v2.check_places(question, memory)
    return question, sum(map(len, raw)) if raw else request.ByteSize()


def _check_parameters(entries: Mapping[str, Any]) -> None:
    """Refuse reserved names, and other types than the protocol has, with Triton's texts."""
    for name, value in entries.items():
        kind = value.WhichOneof("parameter_choice")
        if name.startswith("triton_") and name != WANTS_FINAL:
            raise BadRequestError(
                "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys "
                f"starting with 'triton_' are allowed: {WANTS_FINAL}"
            )
        wanted = _TYPES.get(name, ())
        if kind not in wanted if wanted else kind in (None, "uint64_param"):
            expected = " or ".join(wanted) or "int64_param, bool_param, or string_param"
            raise BadRequestError(f"invalid value type for '{name}' parameter, expected {expected}.")
        if name in ("priority", "timeout") and getattr(value, kind) < 0:
            raise BadRequestError(f"invalid value for '{name}', expected value >= 0.")


def _count(parameters: Mapping[str, Any], name: str) -> int:
    found = parameters.get(name, 0)
    if type(found) is not int:
        raise BadRequestError(f"invalid value type for '{name}' parameter, expected int64_param")
    if found < 0:
        raise BadRequestError(f"invalid value for '{name}' parameter, expected >= 0")
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
    if len(shape) > MAX_RANK:
        raise BadRequestError(f"input '{name}' has {len(shape)} dimensions: there are at most {MAX_RANK}.")
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
    unread = Unread(tensor.name, tensor.datatype, tuple(_shape(tensor)), v2.regions(memory).read(*place))
    question.add(tensor.name, tensor.datatype, unread)
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
        unread = Unread(each.name, each.datatype, tuple(_shape(each)), memoryview(data))
        question.add(each.name, each.datatype, unread)


def _typed(tensor: Any, shape: list[int], model: str) -> Unread:
    """Read an input from the field of its datatype; how many values are wanted is not known here."""
    field = _CONTENTS.get(tensor.datatype)
    for other, kind in _KINDS.items():
        if other != field and getattr(tensor.contents, other):
            raise BadRequestError(
                f"unexpected explicit tensor data for input tensor '{tensor.name}' for model '{model}' of type "
                f"'{kind}', expected datatype '{tensor.datatype if tensor.datatype in DTYPES else '<invalid>'}'"
            )
    values = list(getattr(tensor.contents, field)) if field else []
    if not values and 0 not in shape:
        raise BadRequestError(f"unable to find data for input tensor '{tensor.name}' for model '{model}' in request.")
    try:
        array = np.array(values, DTYPES[known_datatype(tensor.name, tensor.datatype)])
    except OverflowError:
        raise BadRequestError(f"input '{tensor.name}' has values that {tensor.datatype} does not hold.") from None
    return Unread(tensor.name, tensor.datatype, tuple(shape), memoryview(to_bytes(array)))


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
        response.raw_output_contents.append(b"" if name in placed else to_bytes(array))
    return response
