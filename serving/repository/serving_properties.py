"""Reads `serving.properties`, DJL's configuration of one model, with everything that overrides it.

For each key, first found wins:
1. SAGEMAKER_NUM_MODEL_WORKERS, SAGEMAKER_STARTUP_TIMEOUT, SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS
2. the file; there, `gpu.` or `cpu.` before minWorkers and maxWorkers wins over the bare key
3. OPTION_<KEY>, and DJL_ENTRY_POINT, TENSOR_PARALLEL_DEGREE, PREDICT_TIMEOUT and MODEL_LOADING_TIMEOUT
4. SERVING_<KEY>, the server's own defaults

`properties_syntax` reads the text. Pure: text and environment come as arguments; `djl_layout` calls it, and what it
finds goes into a `HandlerSpec` and a `MemoryWish`. A key that nobody here acts on is a warning that names it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from serving.errors import InvalidArtifactError
from serving.repository.memory_wish import NO_WISH, MemoryWish
from serving.repository.properties_keys import (
    ENGINES,
    GROUP_ENGINES,
    PYTHON_ENGINES,
    WORKERS,
    option_name,
    warnings,
)
from serving.repository.properties_syntax import parse_properties

FILE_NAME = "serving.properties"

# A batch is told by three digits of its keys.
MAX_BATCH = 999
_MIB = 1 << 20

_MEMORY = ("required_memory_mb", "reserved_memory_mb")

_ALIASES = {"max_dynamic_batch_size": "batch_size", "min_worker": "minWorkers", "max_worker": "maxWorkers"}
_OPTION_ALIASES = {"s3url": "model_id"}

# What of the environment has a name of its own, by the key that it stands for.
_OVERRIDES = {
    "minWorkers": "SAGEMAKER_NUM_MODEL_WORKERS",
    "maxWorkers": "SAGEMAKER_NUM_MODEL_WORKERS",
    "option.model_loading_timeout": "SAGEMAKER_STARTUP_TIMEOUT",
    "option.predict_timeout": "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS",
}
_DEFAULTS = {
    "option.entryPoint": "DJL_ENTRY_POINT",
    "option.tensor_parallel_degree": "TENSOR_PARALLEL_DEGREE",
    "option.predict_timeout": "PREDICT_TIMEOUT",
    "option.model_loading_timeout": "MODEL_LOADING_TIMEOUT",
    "minWorkers": "SERVING_MIN_WORKERS",
    "maxWorkers": "SERVING_MAX_WORKERS",
    "batch_size": "SERVING_BATCH_SIZE",
    "max_batch_delay": "SERVING_MAX_BATCH_DELAY",
    "job_queue_size": "SERVING_JOB_QUEUE_SIZE",
    "max_idle_time": "SERVING_MAX_IDLE_TIME",
    "reserved_memory_mb": "SERVING_RESERVED_MEMORY_MB",
    "retry_threshold": "SERVING_RETRY_THRESHOLD",
}


@dataclass(frozen=True, slots=True)
class Properties:
    """One model's configuration; None where nothing says a figure, which is then the settings'.

    `keys` are all that were given, `options` what the handler's warm-up gets of them: `option.` cut off. `devices` are
    `cpu` or `cuda:N`, empty for the server's choice. `tensor_parallel` may be `max`: as many ranks as there are
    devices. `is_group` is True where the engine's name or `mpi_mode` asks for a process a rank, whatever their number.
    `max_deaths` are one more than DJL's retry_threshold allows.
    """

    engine: str = ""
    is_group: bool = False
    keys: frozenset[str] = frozenset()
    options: Mapping[str, str] = field(default_factory=dict)
    entry_point: str = ""
    handler: str = "handle"
    python: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    batch_size: int = 1
    max_batch_delay_s: float = 0.1
    queue_size: int | None = None
    idle_s: float | None = None
    min_workers: int | None = None
    max_workers: int | None = None
    devices: tuple[str, ...] = ()
    wish: MemoryWish = NO_WISH
    max_deaths: int | None = None
    tensor_parallel: int | Literal["max"] | None = None
    pipeline_parallel: int = 1
    predict_timeout_s: float | None = None
    load_timeout_s: float | None = None
    max_reply_bytes: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def is_python(self) -> bool:
        """True unless the engine is one of Java's that runs a model file by itself."""
        return self.engine in ("", *PYTHON_ENGINES)


def read_properties(
    text: str,
    environ: Mapping[str, str],
    device: Literal["cpu", "gpu"] = "cpu",
) -> Properties:
    """Return the configuration of the text of a file (empty without one), for a model that runs on `device`.

    Raises `InvalidArtifactError` that names the key, the value found and what is wanted.
    """
    file = {_canonical(key): value for key, value in parse_properties(text).items()}
    given = _Given(_merged(file, environ), device)
    engine = given.engine()
    least, most = given.workers(file)
    delay_ms, failures = given.count("max_batch_delay", 0), given.count("retry_threshold", 0)
    return Properties(
        engine=engine,
        is_group=engine in GROUP_ENGINES or given.is_true("option.mpi_mode"),
        keys=frozenset(given.values),
        options={key.removeprefix("option."): value for key, value in given.values.items()},
        entry_point=given.values.get("option.entryPoint", ""),
        handler=given.values.get("option.handler", "handle"),
        python=given.values.get("option.pythonExecutable", ""),
        environ=given.pairs("option.env"),
        batch_size=given.count("batch_size", 1, MAX_BATCH) or 1,
        max_batch_delay_s=0.1 if delay_ms is None else delay_ms / 1000,
        queue_size=given.count("job_queue_size", 1),
        idle_s=given.count("max_idle_time", 0),
        min_workers=least,
        max_workers=most,
        devices=given.devices(),
        wish=given.wish(),
        max_deaths=None if failures is None else failures + 1,
        tensor_parallel=given.degree(),
        pipeline_parallel=given.count("option.pipeline_parallel_degree", 1) or 1,
        predict_timeout_s=given.count("option.predict_timeout", 1),
        load_timeout_s=given.count("option.model_loading_timeout", 1),
        max_reply_bytes=given.count("option.max_output_size", 1),
        warnings=tuple(warnings(given.values, environ)),
    )


def _canonical(key: str) -> str:
    if key.startswith("option."):
        name = key.removeprefix("option.")
        return "option." + _OPTION_ALIASES.get(name, name)
    return _ALIASES.get(key, key)


def _merged(file: dict[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return one value a key, by the numbers of the module's docstring, last first."""
    found = {key: environ[name] for key, name in _DEFAULTS.items() if environ.get(name)}  # 4, and half of 3
    for name, value in environ.items():  # 3
        if name.startswith("OPTION_") and value:
            found[option_name(name.removeprefix("OPTION_"))] = value
    found |= file  # 2
    overrides = {key: environ[name] for key, name in _OVERRIDES.items() if environ.get(name)}  # 1
    for key, value in overrides.items():
        for prefix in ("cpu.", "gpu."):
            found.pop(prefix + key, None)
        found[key] = value
    return found


class _Given:
    """The merged values, read with their types; `device` chooses between `cpu.` and `gpu.` keys."""

    def __init__(self, values: dict[str, str], device: str) -> None:
        self.values = values
        self.device = device

    def _find(self, key: str) -> str | None:
        own = self.values.get(f"{self.device}.{key}") if key in WORKERS else None
        return self.values.get(key) if own is None else own

    def _wrong(self, key: str, value: str, wanted: str) -> InvalidArtifactError:
        return InvalidArtifactError(f"{FILE_NAME} or the environment has {key} = {value!r:.80} and wants {wanted}.")

    def count(self, key: str, least: int, most: int = (1 << 31) - 1) -> int | None:
        value = self._find(key)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and least <= int(value[:20]) <= most):
            raise self._wrong(key, value, f"a whole number from {least} to {most}")
        return int(value)

    def workers(self, file: Collection[str]) -> tuple[int | None, int | None]:
        """Read how many workers there are, least and most; a default of the environment gives way to the file."""
        least, most = self.count("minWorkers", 0), self.count("maxWorkers", 1)
        if least is None or most is None or least <= most:
            return least, most
        is_own = [key in file or f"{self.device}.{key}" in file for key in ("minWorkers", "maxWorkers")]
        if is_own == [False, True]:
            return most, most
        if is_own == [True, False]:
            return least, least
        raise InvalidArtifactError(
            f"{FILE_NAME} or the environment has minWorkers = {least} above maxWorkers = {most}: correct either."
        )

    def wish(self) -> MemoryWish:
        """Read what is wanted of memory: of a GPU by its own keys, else, as DJL has it, as much as of the host."""
        return MemoryWish(
            *(self.mebibytes(key) for key in _MEMORY),
            *(self.mebibytes(key if self.values.get(f"gpu.{key}") is None else f"gpu.{key}") for key in _MEMORY),
        )

    def mebibytes(self, key: str) -> int:
        return (self.count(key, 0) or 0) * _MIB

    def is_true(self, key: str) -> bool:
        return self.values.get(key, "").lower() == "true"

    def engine(self) -> str:
        value = self.values.get("engine", self.values.get("option.engine", ""))
        known = {name.lower(): name for name in ENGINES}
        if value and value.lower() not in known:
            raise self._wrong("engine", value, "one of " + ", ".join(ENGINES))
        return known.get(value.lower(), "")

    def degree(self) -> int | Literal["max"] | None:
        key = "option.tensor_parallel_degree"
        if self.values.get(key, "").lower() == "max":
            return "max"
        return self.count(key, 1)

    def pairs(self, key: str) -> dict[str, str]:
        value = self.values.get(key, "")
        parts = [part.partition("=") for part in value.split(",") if part.strip()]
        if any(not (name.strip() and equals) for name, equals, _ in parts):
            raise self._wrong(key, value, "pairs as in A=1,B=2")
        return {name.strip(): each.strip() for name, _, each in parts}

    def devices(self) -> tuple[str, ...]:
        value = self.values.get("load_on_devices", "*")
        return () if value == "*" else tuple(map(self._device, value.split(";")))

    def _device(self, text: str) -> str:
        name = text.strip().lower()
        if name in ("cpu", "-1"):
            return "cpu"
        number = name.removeprefix("gpu")
        if not (number.isascii() and number.isdigit()):
            raise self._wrong("load_on_devices", text, "*, or cpu, -1, 0, gpu0 and the like with ; between them")
        return f"cuda:{int(number)}"
