"""What a model's small configuration adds, whichever file it comes from.

`wharf_toml` and `config_pbtxt` read their file into this value; where a folder has both, wharf.toml's word goes first
and config.pbtxt fills what it leaves open. None means: left to the model, or to the layout of the folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from serving.errors import InvalidArtifactError
from serving.repository.scheduling import Scheduling
from serving.repository.versions import VersionPolicy
from serving.repository.warmup import WarmupSample
from serving.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Format, file (a path below the model's folder) and what the backend may want to know.

    `triton` is the whole of a config.pbtxt as JSON would have it; `idle` are its fields that nobody acts on, and
    `idle_in_python` those where the model is one of Triton's Python backend.
    """

    format: str | None = None
    file: str | None = None
    threads: int | None = None
    optimize: bool | None = None
    device: str | None = None
    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None
    triton: Mapping[str, Any] | None = None
    scheduling: Scheduling | None = None
    versions: VersionPolicy | None = None
    warmup: tuple[WarmupSample, ...] | None = None
    idle: tuple[str, ...] | None = None
    idle_in_python: tuple[str, ...] | None = None
    labels: Mapping[str, int] | None = None

    def over(self, other: ModelConfig) -> ModelConfig:
        """Return this configuration, filled from `other` where it leaves something open."""
        return ModelConfig(*(_first(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)))


def checked_specs(specs: Iterable[TensorSpec], source: str) -> tuple[TensorSpec, ...]:
    """Return `specs` as a tuple. Raises `InvalidArtifactError` for a wrong dimension or a name twice."""
    found = tuple(specs)
    for spec in found:
        if not spec.name:
            raise InvalidArtifactError(f"{source} has a tensor without a name: give it one.")
        if [each.name for each in found].count(spec.name) > 1:
            raise InvalidArtifactError(f"{source} names the tensor '{spec.name}' twice: give each its own name.")
        for dim in spec.dims or ():
            if dim != -1 and not 0 < dim < 1 << 63:
                raise InvalidArtifactError(
                    f"{source} gives '{spec.name}' the dims {list(spec.dims or ())}: use numbers above 0, -1 for free."
                )
    return found


def _first(mine: object, others: object) -> Any:
    return others if mine is None else mine
