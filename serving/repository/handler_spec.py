"""What a model that needs Python is, as far as its files tell: who handles it and how it wants to run.

A value only: `handlers` finds it out from a folder, the worker backend acts on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """How a model runs in workers; None leaves a figure to the settings.

    `dialect` names a module of `workers.dialects`. `folder` is the model's folder, the working directory. `file` is the
    Python file, or the model file of a plain model. `paths` go to the front of sys.path, in order. `python` is an
    interpreter, or an environment (folder or packed archive), to run under instead of ours. `tensor_parallel` is the
    number of processes that are one worker, a group of ranks: `max` as many as there are devices, None no group; it
    uses the GPUs `devices`, by CUDA's numbers, () for all.
    """

    dialect: str
    folder: Path
    file: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    paths: tuple[Path, ...] = ()
    requirements: Path | None = None
    python: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int = 1
    max_batch_delay_s: float = 0.1
    queue_size: int | None = None
    idle_s: float | None = None
    predict_timeout_s: float | None = None
    load_timeout_s: float | None = None
    memory_bytes: int | None = None
    max_deaths: int | None = None
    max_reply_bytes: int | None = None
    tensor_parallel: int | Literal["max"] | None = None
    devices: tuple[int, ...] = ()
