"""Our requests as tritonserver's messages, its answers as tensors, and its errors as ours.

Texts that come back bear the name that people know, not the `key` that a model has in the server. Words about memory
are 507, whatever code they come with; a model's name that looks like them is not. `triton` calls it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from serving.codecs import json
from serving.codecs.packed import Unread, to_bytes
from serving.errors import (
    BadRequestError,
    DeadlineExceededError,
    InsufficientMemoryError,
    LoadFailedError,
    ModelFailedError,
    ServingError,
    UnavailableError,
    UnsupportedError,
)
from serving.tensors import DTYPES, Tensors, TensorSpec
from serving.workers.handler import Request

# What tritonserver answers, with the code of a broken connection, for requests that it has dropped from its line.
DROPPED = ("Exceeds maximum queue size", "Request timeout expired")
# And for those that never came to a model: it is not loaded (again yet), or nobody listens.
_NOT_THERE = ("has no available versions", "is not ready", "failed to connect")
AGAIN = "tritonserver is being started again: try again."

# What the server says of an output that had no room in shared memory.
_NO_ROOM = "shared memory size specified with the request for output"
# What a load that failed says around the model's own words.
_REASON = re.compile(r"^load failed for model .*? is at UNAVAILABLE state: Internal: (.*?);\n?$", re.DOTALL)
# Foreign words for memory that was not had; only where the server's own code does not say it by type.
_MEMORY = re.compile(
    r"CUDA[ _]out[ _]of[ _]memory|\bout of memory\b|\bMemoryError\b|\bOutOfMemory\b|\bOOM\b|failed to allocate memory"
    r"|unable to create TensorRT context|memory limit set for GPU|CUDNN_STATUS_NOT_INITIALIZED|CUBLAS_STATUS_ALLOC",
    re.IGNORECASE,
)


def without_name(text: str) -> str:
    """Return a config.pbtxt without its own name, which people's folders had and ours has not."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    config.ClearField("name")
    return str(text_format.MessageToString(config))


def specs_of(tensors: Any) -> tuple[TensorSpec, ...]:
    """Return what the server says of a model's inputs or outputs."""
    return tuple(TensorSpec(each.name, each.datatype, tuple(each.shape)) for each in tensors)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in memory that the server shares with us: a region by its name, and bytes in it."""

    region: str
    offset: int
    size: int


def message_of(
    key: str,
    request: Request,
    inputs: Mapping[str, Place] = MappingProxyType({}),
    outputs: Mapping[str, Place | None] = MappingProxyType({}),
) -> Any:
    """Return a request as a ModelInferRequest: tensors raw, and all that a client said besides.

    Those of `inputs` lie where that says; `outputs` are all that are wanted, where some are to lie somewhere.
    """
    from tritonclient.grpc import service_pb2 as pb

    about = request.about
    message = pb.ModelInferRequest(model_name=key, id=str(about.get("id", "")))
    for name, array in (request.tensors or {}).items():
        said = message.inputs.add(name=name, datatype=json.datatype_of(array), shape=array.shape)
        if name in inputs:
            _say_place(said, inputs[name])
        else:
            message.raw_input_contents.append(to_bytes(array))
    for name in outputs or about.get("outputs", ()):
        said = message.outputs.add(name=name)
        if (place := outputs.get(name)) is not None:
            _say_place(said, place)
    _say_about(message, about)
    return message


def _say_place(tensor: Any, place: Place) -> None:
    tensor.parameters["shared_memory_region"].string_param = place.region
    tensor.parameters["shared_memory_offset"].int64_param = place.offset
    tensor.parameters["shared_memory_byte_size"].int64_param = place.size


def _say_about(message: Any, about: Mapping[str, Any]) -> None:
    """Say what a client said besides tensors, in the fields that Triton has for it."""
    flags = int(about.get("flags", 0))
    said = {
        **about.get("parameters", {}),
        **({"sequence_id": about["sequence_id"]} if about.get("sequence_id") else {}),
        **({"sequence_start": True} if flags & 1 else {}),
        **({"sequence_end": True} if flags & 2 else {}),
        **{
            ours: about[theirs]
            for ours, theirs in (("priority", "priority"), ("timeout", "timeout_us"))
            if about.get(theirs)
        },
    }
    for name, value in said.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param"}.get(type(value), "string_param")
        if kind == "int64_param" and not -(2**63) <= value < 2**64:
            raise BadRequestError(f"Parameter '{name}' is {value}, which no 64 bits hold: send it as text.")
        if kind == "int64_param" and value >= 2**63:
            kind = "uint64_param"
        setattr(message.parameters[name], kind, value if kind != "string_param" else str(value))


class OutputTooLargeError(Exception):
    """An output is another than the model's configuration says, and does not lie where it should."""


def is_too_large(error: Exception) -> bool:
    """Say whether a call failed as an output had no room in the place that was given for it."""
    words = getattr(error, "details", str)
    return isinstance(error, OutputTooLargeError) or _NO_ROOM in str(words() or "")


def tensors_of(response: Any, shared: Mapping[str, memoryview] = MappingProxyType({})) -> Tensors:
    """Return the outputs of a ModelInferResponse; those that lie in `shared` memory are copied from it.

    Raises `UnsupportedError` for a type that arrays have not (BF16), `OutputTooLargeError`.
    """
    for each in response.outputs:
        if each.datatype not in DTYPES:
            raise UnsupportedError(
                f"output '{each.name}' is {each.datatype}, which is not had here: cast it in the model."
            )
    raw = list(response.raw_output_contents)  # each access would be a copy
    found = {}
    for each, data in zip(response.outputs, raw, strict=True):
        view = memoryview(data) if each.name not in shared else _part(each, shared[each.name])
        array = Unread(each.name, each.datatype, tuple(each.shape), view).read("", response.model_name)
        found[each.name] = array.copy() if each.name in shared else array
    return found


def _part(output: Any, place: memoryview) -> memoryview:
    size = math.prod(output.shape) * DTYPES[output.datatype].itemsize
    if output.datatype == "BYTES" or size > len(place):
        raise OutputTooLargeError(output.name)
    return place[:size]


def _text(error: Any, name: str, key: str) -> str:
    """Return the server's words with the name that people know, and paths as they are in the model's folder."""
    text = str(error.details() or "tritonserver gave no reason.")
    return re.sub(rf"/\S*/{re.escape(key)}/", "", text).replace(key, name)


def _is_memory(error: Any, key: str) -> bool:
    """Say whether the words are about memory; a model's name that looks like them is not."""
    return _MEMORY.search(str(error.details() or "").replace(key, "")) is not None


def call_error(error: Any, name: str, key: str) -> ServingError:
    """Return our error for a failed call of an inference; one that broke off counts as the model's."""
    import grpc

    found = _call_error(error, name, key)
    broke_off = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    found.has_run = broke_off and not any(words in str(error.details()) for words in DROPPED + _NOT_THERE)
    return found


def _call_error(error: Any, name: str, key: str) -> ServingError:
    import grpc

    text, code = _text(error, name, key), error.code()
    kinds: dict[Any, type[ServingError]] = {
        grpc.StatusCode.INVALID_ARGUMENT: BadRequestError,
        grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
        # The model is not there, as the server has just been started again and has not come to it.
        grpc.StatusCode.NOT_FOUND: UnavailableError,
        grpc.StatusCode.CANCELLED: UnavailableError,
    }
    if code is grpc.StatusCode.UNAVAILABLE:
        return UnavailableError(f"Model '{name}': tritonserver died or is busy ({text}): try again.")
    if code not in kinds and _is_memory(error, key):
        return InsufficientMemoryError(text)
    return kinds.get(code, ModelFailedError)(text)


def load_error(error: Any, name: str, key: str) -> ServingError:
    """Return our error for a failed load."""
    import grpc

    if isinstance(error, ServingError):
        return error
    if not isinstance(error, grpc.RpcError):
        return UnavailableError(AGAIN)
    codes = grpc.StatusCode
    if error.code() in (codes.UNAVAILABLE, codes.DEADLINE_EXCEEDED, codes.CANCELLED):  # cancelled: its server died
        return call_error(error, name, key)
    if _is_memory(error, key):
        return InsufficientMemoryError(_text(error, name, key))
    text = _text(error, name, key)
    found = _REASON.search(text)
    return LoadFailedError(text, found[1] if found else "")
