"""What a model's own configuration says about its workers; None leaves a figure to the dialect's file or the settings.

A value only: `wharf_toml` reads it, `model_folder` lays it over what the dialect's own files say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """How many workers, how long they may take, and what they run with.

    `python` is a path to an interpreter or an environment. `options` are the dialect's own.
    """

    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    predict_timeout_s: float | None = None
    load_timeout_s: float | None = None
    memory_bytes: int | None = None
    python: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    tensor_parallel: int | Literal["max"] | None = None
