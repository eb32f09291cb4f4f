"""What a pool holds: one worker (`instance`), or a group of ranks that answers as one (`group`).

A seam only: the least that `pool` needs to start, ask, measure and end either. One thread at a time calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from serving.workers.handler import Reply, Request


class Member(Protocol):
    """One copy of a model, in one process or in several that live and die together."""

    name: str
    number: int
    ready: dict[str, Any]
    """What the model said of itself when it was ready."""
    idle_since: float
    """When it was last used."""
    heard_at: float
    """When it last said something."""
    is_stopped: bool
    """Whether it was ended by us: that is no death."""

    @property
    def is_ended(self) -> bool:
        """Whether it can answer no more."""

    @property
    def pids(self) -> list[int]:
        """Its processes, by rank."""

    @property
    def end(self) -> str:
        """How it ended: "was killed by signal 9 (Killed)"."""

    def load(self, deadline: float) -> None:
        """Wait until the model is ready; raise a `ServingError` and leave no process when it is not by `deadline`."""

    def call(self, requests: Sequence[Request], deadline: float) -> list[Reply]:
        """Have requests answered; a reply's `chunks` must be read to the end or closed before the next call."""

    def ping(self, deadline: float) -> None:
        """Have it say that it lives; raise a `ServingError` and leave no process when it does not by `deadline`."""

    def stop(self) -> None:
        """End it with its farewell, then by SIGKILL; return when its memory is back."""

    def kill(self) -> None:
        """End it by SIGKILL, with all that it started; return when its memory is back."""

    def let_go(self) -> None:
        """Close our ends of its channels; it has ended."""

    def measured_bytes(self) -> int:
        """Return what it added to the machine's memory, in bytes, and note what it has touched."""

    def has_changed(self) -> bool:
        """Whether it has grown or shrunk noticeably since it was measured; cheap."""
