"""What config.pbtxt wants to be run before a model is ready: `model_warmup` as values, and the tensors that they make.

Integers that are to be random are 0 or 1, which is a token, a mask and a class to any model. A file holds raw
little-endian values of one sample, or of the whole batch; strings are each preceded by their length (4 bytes). Files
lie in the folder `warmup` of the model. `config_pbtxt` reads the samples, `backends.warmed` runs them.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import InvalidArtifactError
from serving.repository.limits import quoted
from serving.repository.triton_schema import enum_name
from serving.tensors import DTYPES, Array, Tensors

FOLDER = "warmup"

# A warm-up is to take less than a load.
_MOST_RUNS = 10_000
_MOST_ELEMENTS = 1 << 28
# numpy's.
_MOST_RANK = 32


@dataclass(frozen=True, slots=True)
class WarmupInput:
    """One tensor: `dims` in full; of zeros, of noise (`is_random`), or what `file` holds."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    is_random: bool = False
    file: Path | None = None

    def array(self) -> Array:
        """Make the tensor. Raises `InvalidArtifactError` for a file that cannot be read or holds another number."""
        if self.file is not None:
            return self._of_file(self.file)
        noise = np.random.default_rng(0)
        if self.dtype == "BYTES":
            return np.full(self.dims, b"0" if self.is_random else b"", object)
        dtype = DTYPES[self.dtype]
        if not self.is_random:
            return np.zeros(self.dims, dtype)
        values = noise.standard_normal(self.dims) if dtype.kind == "f" else noise.integers(0, 2, self.dims)
        return values.astype(dtype)

    def _of_file(self, file: Path) -> Array:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise self._refused(f"cannot be read ({error.strerror})") from error
        if self.dtype == "BYTES":
            return self._strings(data)
        dtype, count = DTYPES[self.dtype].newbyteorder("<"), math.prod(self.dims)
        if len(data) < (count // self.dims[0] if self.dims else count) * dtype.itemsize:
            raise self._refused(f"has {len(data)} bytes, which are less than one sample of {list(self.dims)}")
        values = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
        return np.resize(values[:count], self.dims).astype(dtype.newbyteorder("="))

    def _strings(self, data: bytes) -> Array:
        found, at = [], 0
        while at + 4 <= len(data):
            length = int.from_bytes(data[at : at + 4], "little")
            found.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        count = math.prod(self.dims)
        if at != len(data) or not found or count % len(found):
            raise self._refused(f"has {len(found)} strings with their lengths and {list(self.dims)} wants {count}")
        array = np.empty(len(found), object)
        array[:] = found
        return np.resize(array, self.dims)

    def _refused(self, why: str) -> InvalidArtifactError:
        name = self.file.name if self.file else ""
        return InvalidArtifactError(f"input_data_file {quoted(name)} of the input '{self.name}' {why}: correct it.")


@dataclass(frozen=True, slots=True)
class WarmupSample:
    """One sample, to be run `count` times."""

    name: str
    count: int
    inputs: tuple[WarmupInput, ...]

    def tensors(self) -> Tensors:
        """Make the tensors of one run; raises what `WarmupInput.array` raises."""
        return {each.name: each.array() for each in self.inputs}


def read_warmup(model: str, config: Any, folder: Path) -> tuple[WarmupSample, ...]:
    """Return the samples of a `ModelConfig` message; raises `InvalidArtifactError` that names the sample and the field.

    A sample of batch_size 0 is left out, as Triton does.
    """
    return tuple(_sample(model, each, config.max_batch_size, folder) for each in config.model_warmup if each.batch_size)


def _sample(model: str, sample: Any, max_batch_size: int, folder: Path) -> WarmupSample:
    if sample.batch_size > max(1, max_batch_size):
        raise _refused(model, sample, "batch_size", f"{sample.batch_size}: use 1 to {max(1, max_batch_size)}")
    if sample.count > _MOST_RUNS:
        raise _refused(model, sample, "count", f"{sample.count}: use at most {_MOST_RUNS}")
    batch = (sample.batch_size,) if max_batch_size else ()
    inputs = tuple(_input(model, sample, name, batch, folder) for name in sorted(sample.inputs))
    if not inputs:
        raise _refused(model, sample, "inputs", "none: give one of each of the model's inputs")
    return WarmupSample(sample.name, max(1, sample.count), inputs)


def _input(model: str, sample: Any, name: str, batch: tuple[int, ...], folder: Path) -> WarmupInput:
    given = sample.inputs[name]
    dtype = enum_name(given, "data_type").removeprefix("TYPE_").replace("STRING", "BYTES")
    dims = (*batch, *given.dims)
    if dtype not in DTYPES:
        raise _refused(model, sample, "data_type", f"TYPE_{dtype} for '{name}': served are {', '.join(DTYPES)}")
    if any(dim < 1 for dim in dims) or math.prod(dims) > _MOST_ELEMENTS or len(dims) > _MOST_RANK:
        raise _refused(
            model,
            sample,
            "dims",
            f"{list(given.dims)} for '{name}': use numbers above 0, {_MOST_ELEMENTS} values in all",
        )
    kind = given.WhichOneof("input_data_type")
    if kind is None:
        raise _refused(
            model, sample, "inputs", f"'{name}' without its data: use zero_data, random_data or input_data_file"
        )
    file = _file(model, sample, given.input_data_file, folder) if kind == "input_data_file" else None
    return WarmupInput(name, dtype, dims, kind == "random_data", file)


def _file(model: str, sample: Any, name: str, folder: Path) -> Path:
    file, home = folder / FOLDER / name, os.path.realpath(folder)
    if "\0" in name or not os.path.realpath(file).startswith(home + "/"):
        raise _refused(model, sample, "input_data_file", f"{quoted(name)}, outside the model's folder: put it inside")
    if not os.path.isfile(file):  # noqa: PTH113  false, not an error, for a name that is too long
        raise _refused(model, sample, "input_data_file", f"{quoted(name)}, which is not in {FOLDER}/: add it")
    return file


def _refused(model: str, sample: Any, field: str, why: str) -> InvalidArtifactError:
    return InvalidArtifactError(
        f"config.pbtxt of '{model}' has in model_warmup {quoted(sample.name)} the {field} {why}."
    )
