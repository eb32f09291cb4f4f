"""How the workers of one model are to run, and whom they ask for memory.

Values and a seam only: the worker backend makes a `Plan`, `pool` acts on it, and the owner of the memory is its `Host`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from serving.workers.device_slices import Slices
from serving.workers.handler import Launch
from serving.workers.supervisor import Wish


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model runs. Times in seconds; `max_deaths` in a row, without an answer between them, give it up.

    With `launch.ranks` each worker is a group of that many processes; `slices` are their GPUs, where they have some.
    """

    launch: Launch
    wish: Wish
    min_workers: int = 1
    max_workers: int = 1
    max_batch_delay_s: float = 0.1
    queue_size: int = 1000
    idle_s: float = 60.0
    predict_timeout_s: float = 60.0
    load_timeout_s: float = 360.0
    max_deaths: int = 5
    ping_s: float = 10.0
    ping_timeout_s: float = 30.0
    slices: Slices | None = None


class Host(Protocol):
    """What the owner of the memory says to a pool."""

    def grow(self, count: int) -> bool:
        """Take `count` more bytes (fewer when negative) if there is room; return whether they are ours."""

    def correct(self, count: int) -> None:
        """Note that the model holds `count` bytes by now."""

    def withdraw(self, reason: str) -> None:
        """Note that this model is beyond repair."""


class Alone:
    """Nobody yet: a model that is not attached gets nothing more."""

    def grow(self, count: int) -> bool:  # noqa: ARG002
        """Grant nothing."""
        return False

    def correct(self, count: int) -> None:
        """Take no notice."""

    def withdraw(self, reason: str) -> None:
        """Take no notice."""
