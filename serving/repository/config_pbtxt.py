"""Reads Triton's `config.pbtxt` with the vendor's own schema, and says what of it is not acted on.

The schema comes with tritonclient; its module is loaded by its file, because the package around it wants grpc. Used are
backend or platform, max_batch_size (as a free first dimension), input, output and default_model_filename; `name` is
Triton's own check on the folder, here the caller names the model. Fields that change what a model means are refused by
name; others that this version does not act on are warned about, once a model. `layouts` calls it, only where there is
such a file.

Triton's Python backend acts on more: dynamic_batching, instance_group, parameters, decoupled; its models read the whole
configuration themselves, so that `ModelConfig.triton` has all of it.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from serving.errors import InvalidArtifactError
from serving.repository.model_config import ModelConfig, checked_specs
from serving.tensors import DTYPES, TensorSpec

_log = logging.getLogger(__name__)

PYTHON = "triton_python"

# Triton's `platform`, or its `backend`; None leaves torch's two formats to the file.
_FORMATS = {
    "onnxruntime_onnx": "onnx",
    "onnxruntime": "onnx",
    "pytorch_libtorch": "torchscript",
    "pytorch": None,
    "torch_aoti": "torch_export",
    "python": PYTHON,
}

_USED = frozenset(("name", "platform", "backend", "max_batch_size", "input", "output", "default_model_filename"))

# What a worker is started by, besides: the batcher's delay, the number of instances, the environment.
_USED_BY_PYTHON = frozenset(("dynamic_batching", "instance_group", "parameters"))
_USED_OF_BATCHING = frozenset(("max_queue_delay_microseconds",))
_USED_OF_GROUP = frozenset(("name", "count"))
# The others leave it to the server, or to the model.
_USED_KINDS = frozenset(("KIND_AUTO", "KIND_CPU", "KIND_MODEL"))

_REFUSED = {
    "ensemble_scheduling": "it is an ensemble of other models; serve them one by one",
    "sequence_batching": "it keeps state between requests, which this version cannot",
    "batch_input": "its inputs are made by Triton's batcher",
    "batch_output": "its outputs are split by Triton's batcher",
    "model_operations": "it needs libraries of custom operators",
    "model_repository_agents": "it wants an agent to check or change the model's files",
}

_REFUSED_TENSOR = {
    "reshape": "give the shape that the model itself takes",
    "is_shape_tensor": "that is TensorRT's",
    "is_non_linear_format_io": "that is TensorRT's",
}

_USED_TENSOR = frozenset(("name", "data_type", "dims"))


def read_config_pbtxt(model: str, file: Path) -> ModelConfig:
    """Read `file`, the configuration of `model`.

    Raises `InvalidArtifactError` for what cannot be parsed, is refused, or when tritonclient is not installed.
    """
    config = _parse(file)
    format_ = _format(config)
    _check_fields(model, config, is_python=format_ == PYTHON)
    return ModelConfig(
        format=format_,
        file=config.default_model_filename or None,
        inputs=_specs(config.input, config.max_batch_size, "config.pbtxt input"),
        outputs=_specs(config.output, config.max_batch_size, "config.pbtxt output"),
        # Without a backend a model.py beside it may still make it Triton's Python.
        triton=as_json(config) if format_ == PYTHON or not (config.backend or config.platform) else None,
    )


def as_json(message: Any) -> dict[str, Any]:
    """Return a message of Triton's schema as its `/config` route writes it.

    Field names are the schema's, enums are names, integers of 64 bits numbers, and what has no presence of its own is
    there with its default; a message that is not set is left out.
    """
    return {
        field.name: _json_value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _json_value(field: Any, value: Any) -> Any:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        each = inner.fields_by_name["value"]
        return {str(key): _json_single(each, member) for key, member in value.items()}
    return [_json_single(field, each) for each in value] if _is_repeated(field) else _json_single(field, value)


def _json_single(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return as_json(value)
    return value if field.enum_type is None else _enum_name(field, value)


def _enum_name(field: Any, number: int) -> str:
    found = field.enum_type.values_by_number.get(number)  # none for a number that the schema does not know
    return str(number) if found is None else str(found.name)


def _is_repeated(field: Any) -> bool:
    # `is_repeated` came with protobuf 6.31, which deprecates `label`.
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)


def _parse(file: Path) -> Any:
    schema, text_format = _schema()
    try:
        return text_format.Parse(file.read_text("utf-8"), schema.ModelConfig())
    except (OSError, ValueError, RecursionError, text_format.ParseError) as error:
        raise InvalidArtifactError(f"config.pbtxt cannot be parsed ({error}): correct it.") from error


@functools.cache
def _schema() -> tuple[ModuleType, ModuleType]:
    spec = importlib.util.find_spec("tritonclient")
    try:
        from google.protobuf import text_format

        if spec is None or not spec.submodule_search_locations:
            raise ImportError("tritonclient")
        file = Path(spec.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
        loader = importlib.util.spec_from_file_location("tritonclient_model_config_pb2", file)
        if loader is None or loader.loader is None:
            raise ImportError(str(file))
        schema = importlib.util.module_from_spec(loader)
        loader.loader.exec_module(schema)
    except (ImportError, OSError) as error:
        raise InvalidArtifactError(
            "config.pbtxt is read with Triton's own schema, which is not installed: "
            "`pip install wharf-serving[triton]` or write a wharf.toml."
        ) from error
    return schema, text_format


def _check_fields(model: str, config: Any, is_python: bool) -> None:
    fields = [field.name for field, _ in config.ListFields()]
    for name in fields:
        if name in _REFUSED:
            raise InvalidArtifactError(f"config.pbtxt of '{model}' sets {name}: {_REFUSED[name]}.")
    if config.max_batch_size < 0:
        raise InvalidArtifactError(f"config.pbtxt has max_batch_size {config.max_batch_size}: use 0 or more.")
    if config.model_transaction_policy.decoupled and not is_python:
        raise InvalidArtifactError(
            f"config.pbtxt of '{model}' sets decoupled: that is for the Python backend, others answer a request once."
        )
    for tensor in (*config.input, *config.output):
        fields += _check_tensor(model, tensor)
    if is_python:
        fields = [name for name in fields if name not in _USED_BY_PYTHON] + _idle_for_python(config)
    idle = sorted(set(fields) - _USED - {"model_transaction_policy"})
    if idle:
        _warn(model, ", ".join(idle))


def _idle_for_python(config: Any) -> list[str]:
    idle = [f"dynamic_batching.{name}" for name in _set_beside(config.dynamic_batching, _USED_OF_BATCHING)]
    for group in config.instance_group:
        idle += [f"instance_group.{name}" for name in _set_beside(group, _USED_OF_GROUP) if name != "kind"]
        idle += ["instance_group.kind"] if as_json(group)["kind"] not in _USED_KINDS else []
    return idle


def _set_beside(message: Any, used: frozenset[str]) -> list[str]:
    return [field.name for field, _ in message.ListFields() if field.name not in used]


def _check_tensor(model: str, tensor: Any) -> list[str]:
    names = [field.name for field, _ in tensor.ListFields()]
    for name in names:
        if name in _REFUSED_TENSOR:
            raise InvalidArtifactError(
                f"config.pbtxt of '{model}' sets {name} for '{tensor.name}': {_REFUSED_TENSOR[name]}."
            )
    kind = "input" if "Input" in tensor.DESCRIPTOR.name else "output"
    return [f"{kind}.{name}" for name in names if name not in _USED_TENSOR]


@functools.lru_cache(maxsize=4096)  # a model may be loaded a hundred times a day; it says this once
def _warn(model: str, fields: str) -> None:
    _log.warning(
        "config.pbtxt of '%s' sets %s, which this version does not act on: the model is served without.", model, fields
    )


def _format(config: Any) -> str | None:
    for value in (config.platform, config.backend):
        if value and value not in _FORMATS:
            raise InvalidArtifactError(
                f"config.pbtxt asks for '{value}', which this version does not serve: served are {', '.join(_FORMATS)}."
            )
    if config.runtime.endswith(".py"):
        raise InvalidArtifactError(
            f"config.pbtxt sets runtime '{config.runtime}', which this version does not run: use backend 'python' "
            "with a TritonPythonModel in model.py."
        )
    return _FORMATS.get(config.platform) or _FORMATS.get(config.backend)


def _specs(tensors: Any, max_batch_size: int, source: str) -> tuple[TensorSpec, ...] | None:
    return checked_specs((_spec(each, max_batch_size) for each in tensors), source) if tensors else None


def _spec(tensor: Any, max_batch_size: int) -> TensorSpec:
    dtype = _enum_name(tensor.DESCRIPTOR.fields_by_name["data_type"], tensor.data_type).removeprefix("TYPE_")
    dtype = "BYTES" if dtype == "STRING" else dtype
    if dtype not in DTYPES:
        raise InvalidArtifactError(
            f"config.pbtxt gives '{tensor.name}' the data_type TYPE_{dtype}: served are {', '.join(DTYPES)}."
        )
    return TensorSpec(tensor.name, dtype, ((-1,) if max_batch_size else ()) + tuple(tensor.dims))
