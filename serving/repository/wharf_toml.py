"""Reads `wharf.toml`, our own small configuration of one model.

    format = "torchscript"     # torchscript, torch_export or onnx
    file = "weights/net.bin"   # below this folder
    threads = 2
    optimize = false           # keep TorchScript plain
    device = "cpu"             # or "cuda"
    [[inputs]]
    name = "x"
    dtype = "FP32"             # Triton's names, or numpy's
    dims = [-1, 3, 224, 224]   # all dims, the batch included; -1 is free

Every key is optional. An unknown key or a wrong type is an error that names it. `layouts` calls it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serving.errors import InvalidArtifactError
from serving.repository.model_config import ModelConfig, checked_specs
from serving.tensors import DTYPES, TensorSpec

FORMATS = ("torchscript", "torch_export", "onnx")
DEVICES = ("cpu", "cuda")

_Rule = tuple[str, Callable[[Any], bool]]  # what is wanted, and whether a value is that

_NUMPY_NAMES = {dtype.name: name for name, dtype in DTYPES.items() if dtype.name != "object"}


def _dtype(name: str) -> str | None:
    return name if name in DTYPES else _NUMPY_NAMES.get(name)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


_KEYS: Mapping[str, _Rule] = {
    "format": ("one of " + ", ".join(FORMATS), lambda value: value in FORMATS),
    "file": ("a path below this folder", lambda value: isinstance(value, str) and value != ""),
    "threads": ("a whole number above 0", lambda value: _is_int(value) and 0 < value < 1 << 16),
    "optimize": ("true or false", lambda value: isinstance(value, bool)),
    "device": ("one of " + ", ".join(DEVICES), lambda value: value in DEVICES),
    "inputs": ("tables [[inputs]]", _is_tables),
    "outputs": ("tables [[outputs]]", _is_tables),
}

_TENSOR_KEYS: Mapping[str, _Rule] = {
    "name": ("a name", lambda value: isinstance(value, str) and value != ""),
    "dtype": ("one of " + ", ".join(DTYPES), lambda value: isinstance(value, str) and _dtype(value) is not None),
    "dims": ("a list of whole numbers", lambda value: isinstance(value, list) and all(map(_is_int, value))),
}


def read_wharf_toml(file: Path) -> ModelConfig:
    """Read `file`. Raises `InvalidArtifactError` that names the key, the value found and what is allowed."""
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArtifactError(f"{file.name} cannot be read ({error}): correct it.") from error
    _check(table, _KEYS, file.name)
    for key in ("inputs", "outputs"):
        if key in table:
            table[key] = _specs(table[key], f"{file.name} [[{key}]]")
    return ModelConfig(**table)


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
