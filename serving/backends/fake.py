"""A small real backend with a byte meter, for load tests and drills.

A folder with a `fake.json` holds `bytes` of memory for real, takes `load_ms` to load and `delay_ms` to run, and
answers `y = scale * x`, of the first `take` numbers of each row where that is set. `dims` is the shape of a row. It
can be told to fail. Served only where WHARF_FAKE_BACKEND is set.
"""

from __future__ import annotations

import json
import time

import numpy as np

from serving.backends.base import Footprint, InProcessBackend, InProcessModel
from serving.errors import InsufficientMemoryError, InvalidArtifactError, LoadFailedError, ModelFailedError
from serving.repository.layouts import ModelSpec
from serving.tensors import Array, Signature, Tensors, TensorSpec

# What the objects around the bytes take.
_OVERHEAD_BYTES = 16 << 10

# More bytes or milliseconds than anybody means; what overflows a C number stays out.
_MOST = 1e15

_DEFAULTS: dict[str, object] = {
    "bytes": 0,
    "load_ms": 0,
    "delay_ms": 0,
    "scale": 4.0,
    "dims": [-1],
    "take": 0,
    "fail_load": "",
    "fail_run": "",
    "is_out_of_memory": False,
}


def _read(spec: ModelSpec) -> dict[str, object]:
    try:
        given = json.loads(spec.file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArtifactError(f"Model '{spec.name}': fake.json is not JSON ({error}).") from None
    if not isinstance(given, dict) or not given.keys() <= _DEFAULTS.keys():
        raise InvalidArtifactError(f"Model '{spec.name}': fake.json wants an object with keys of {sorted(_DEFAULTS)}.")
    for key, value in given.items():
        if not _is_legal(key, value):
            raise InvalidArtifactError(
                f"Model '{spec.name}': '{key}' of fake.json is {str(value)[:40]!r}: give one like {_DEFAULTS[key]!r}."
            )
    return _DEFAULTS | given


def _is_legal(key: str, value: object) -> bool:
    default = _DEFAULTS[key]
    if isinstance(default, list):
        return isinstance(value, list) and all(type(dim) is int and (dim == -1 or 0 < dim < _MOST) for dim in value)
    if isinstance(default, bool | str):
        return type(value) is type(default)
    least = -_MOST if key == "scale" else 0
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value < _MOST


def _number(config: dict[str, object], key: str) -> float:
    return float(config[key])  # type: ignore[arg-type]  # checked by _read


class FakeModel(InProcessModel):
    """Holds its bytes until `close`."""

    threads = 1

    def __init__(self, spec: ModelSpec, config: dict[str, object]) -> None:
        self._name = spec.name
        dims = tuple(int(dim) for dim in config["dims"])  # type: ignore[attr-defined]  # checked by _read
        self.signature = Signature((TensorSpec("x", "FP32", (-1, *dims)),), (TensorSpec("y", "FP32", (-1, *dims)),))
        self._take = int(_number(config, "take"))
        self._delay_s = _number(config, "delay_ms") / 1000
        self._scale = np.float32(_number(config, "scale"))
        self._fail_run = str(config["fail_run"])
        self._memory: Array | None = np.full(
            int(_number(config, "bytes")), 1, np.uint8
        )  # ones: zeros would stay unmapped

    def run(self, inputs: Tensors) -> Tensors:
        """Multiply."""
        if self._fail_run:
            raise ModelFailedError(f"Model '{self._name}' failed: {self._fail_run}")
        if self._delay_s:
            time.sleep(self._delay_s)
        x = inputs["x"]
        if self._take:
            x = x.reshape(len(x), -1)[:, : self._take]
        return {"y": x * self._scale}

    def close(self) -> None:
        """Let go of the bytes."""
        self._memory = None


class FakeBackend(InProcessBackend):
    """The backend of format "fake"."""

    name = "fake"

    def prepare(self) -> bool:
        """Nothing to import."""
        return False

    def footprint(self, spec: ModelSpec) -> Footprint:
        """Exactly the bytes asked for."""
        count = int(_number(_read(spec), "bytes")) + _OVERHEAD_BYTES
        return Footprint(count, count)

    def load(self, spec: ModelSpec) -> FakeModel:
        """Take the bytes, or fail as told."""
        config = _read(spec)
        time.sleep(_number(config, "load_ms") / 1000)
        if config["is_out_of_memory"]:
            raise InsufficientMemoryError(f"Model '{spec.name}' was told to run out of memory.")
        if config["fail_load"]:
            raise LoadFailedError(f"Model '{spec.name}' failed to load: {config['fail_load']}")
        try:
            return FakeModel(spec, config)
        except MemoryError:
            raise InsufficientMemoryError(f"Model '{spec.name}': the allocator has no memory left.") from None
