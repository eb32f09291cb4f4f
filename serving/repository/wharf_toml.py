"""Reads `wharf.toml`, our own small configuration of one model.

    format = "torchscript"     # or torch_export, onnx, or who handles it: sagemaker, djl, sklearn, ...
    file = "weights/net.bin"   # below this folder: the model, or the handler's Python
    threads = 2
    optimize = false           # keep TorchScript plain
    device = "cpu"             # or "cuda", "cuda:1"
    min_workers = 1            # from here on for models that run in workers
    max_workers = 4
    batch_size = 8
    predict_timeout_s = 30
    load_timeout_s = 600
    memory = "2GiB"
    tensor_parallel_degree = 2 # processes that hold one copy of the model together, or "max"
    python = "env/bin/python"  # an interpreter, or an environment (a folder, or packed), to run under
    task = "fill-mask"         # Hugging Face's name of what the model does
    environ = { LOG = "1" }
    options = { outputs = "predictions,probabilities" }  # the dialect's own
    labels = { stable = 1 }    # names of versions, for TensorFlow Serving's routes
    [[inputs]]
    name = "x"
    dtype = "FP32"             # Triton's names, or numpy's
    dims = [-1, 3, 224, 224]   # all dims, the batch included; -1 is free

Every key is optional. An unknown key or a wrong type is an error that names it. `layouts` calls it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serving.errors import InvalidArtifactError
from serving.repository.model_config import ModelConfig, checked_specs
from serving.repository.worker_config import WorkerConfig
from serving.setting_values import parse_bytes
from serving.tensors import DTYPES, TensorSpec

IN_PROCESS = ("torchscript", "torch_export", "onnx")
DIALECTS = (
    *("sagemaker", "tensorflow", "djl", "triton_python", "savedmodel", "engine"),
    *("sklearn", "trees", "keras", "huggingface"),
)
FORMATS = (*IN_PROCESS, *DIALECTS)
DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")

_Rule = tuple[str, Callable[[Any], bool]]  # what is wanted, and whether a value is that

_NUMPY_NAMES = {dtype.name: name for name, dtype in DTYPES.items() if dtype.name != "object"}


def _dtype(name: str) -> str | None:
    return name if name in DTYPES else _NUMPY_NAMES.get(name)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _is_texts(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    names = all(name != "" and "=" not in name and "\0" not in name for name in value)
    return names and all(isinstance(text, str) and "\0" not in text for text in value.values())


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_int(value) and 0 < value < 1 << 16


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1 << 31


def _is_bytes(value: object) -> bool:
    try:
        return isinstance(value, str) and parse_bytes(value) > 0
    except ValueError:
        return False


def _is_labels(value: object) -> bool:
    return isinstance(value, dict) and all(
        name != "" and not {"/", ":"} & set(name) and _is_int(version) and version >= 0
        for name, version in value.items()
    )


_KEYS: Mapping[str, _Rule] = {
    "format": ("one of " + ", ".join(FORMATS), lambda value: value in FORMATS),
    "file": ("a path below this folder", lambda value: isinstance(value, str) and value != ""),
    "threads": ("a whole number above 0", _is_count),
    "optimize": ("true or false", lambda value: isinstance(value, bool)),
    "device": ("cpu, cuda or cuda:N", lambda value: isinstance(value, str) and bool(DEVICE.fullmatch(value))),
    "min_workers": ("a whole number, 0 or more", lambda value: _is_int(value) and 0 <= value < 1 << 16),
    "max_workers": ("a whole number above 0", _is_count),
    "batch_size": ("a whole number above 0", _is_count),
    "predict_timeout_s": ("seconds above 0", _is_seconds),
    "load_timeout_s": ("seconds above 0", _is_seconds),
    "memory": ("bytes, such as '2GiB'", _is_bytes),
    "tensor_parallel_degree": ('a whole number above 0, or "max"', lambda value: value == "max" or _is_count(value)),
    "python": ("a path to an interpreter or an environment", _is_text),
    "task": ("a task's name", _is_text),
    "environ": ("a table of texts", _is_texts),
    "options": ("a table of texts", _is_texts),
    "labels": ("a table of versions by name, such as { stable = 1 }", _is_labels),
    "inputs": ("tables [[inputs]]", _is_tables),
    "outputs": ("tables [[outputs]]", _is_tables),
}

_MODEL_KEYS = ("format", "file", "threads", "optimize", "device", "labels", "inputs", "outputs")
_WORKER_KEYS = (
    *("min_workers", "max_workers", "batch_size", "predict_timeout_s", "load_timeout_s", "python"),
    *("environ", "options"),
)

_TENSOR_KEYS: Mapping[str, _Rule] = {
    "name": ("a name", lambda value: isinstance(value, str) and value != ""),
    "dtype": ("one of " + ", ".join(DTYPES), lambda value: isinstance(value, str) and _dtype(value) is not None),
    "dims": ("a list of whole numbers", lambda value: isinstance(value, list) and all(map(_is_int, value))),
}


def read_wharf_toml(file: Path) -> tuple[ModelConfig, WorkerConfig]:
    """Read `file`: what it says of the model, and of its workers.

    Raises `InvalidArtifactError` that names the key, the value found and what is allowed.
    """
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArtifactError(f"{file.name} cannot be read ({error}): correct it.") from error
    _check(table, _KEYS, file.name)
    for key in ("inputs", "outputs"):
        if key in table:
            table[key] = _specs(table[key], f"{file.name} [[{key}]]")
    return ModelConfig(**{key: table[key] for key in _MODEL_KEYS if key in table}), _worker_config(table)


def _worker_config(table: Mapping[str, Any]) -> WorkerConfig:
    found = {key: table[key] for key in _WORKER_KEYS if key in table}
    if "memory" in table:
        found["memory_bytes"] = parse_bytes(table["memory"])
    if "tensor_parallel_degree" in table:
        found["tensor_parallel"] = table["tensor_parallel_degree"]
    if "task" in table:
        found["options"] = {**table.get("options", {}), "task": table["task"]}
    return WorkerConfig(**found)


def _specs(tables: list[Mapping[str, Any]], source: str) -> tuple[TensorSpec, ...]:
    for table in tables:
        _check(table, _TENSOR_KEYS, source)
    return checked_specs(map(_spec, tables), source)


def _spec(table: Mapping[str, Any]) -> TensorSpec:
    dims = tuple(table["dims"]) if "dims" in table else None
    return TensorSpec(table.get("name", ""), _dtype(table["dtype"]) if "dtype" in table else None, dims)


def _check(table: Mapping[str, Any], keys: Mapping[str, _Rule], source: str) -> None:
    for key, value in table.items():
        if key not in keys:
            raise InvalidArtifactError(f"{source} has the unknown key '{key}': allowed are {', '.join(keys)}.")
        wanted, is_right = keys[key]
        if not is_right(value):
            raise InvalidArtifactError(f"{source} has {key} = {value!r:.80} and wants {wanted}.")
