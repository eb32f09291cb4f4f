"""Whose turn it is on a device: loads may go together, an unload goes alone.

While a load is on its way the use of a device says nothing of an unload's bytes, and a load that began before they are
back would find less than it was promised. An unload that waits goes before loads that have not begun. Knows no model
and no device; `watch` has one of these for each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """The turns on one device."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._loads = 0
        self._unloads = 0  # that wait or go
        self._is_alone = False

    @contextmanager
    def together(self, deadline: float | None = None) -> Iterator[bool]:
        """Take a load's turn for the length of a `with`; False where none came until `deadline`, and it has none."""
        with self._changed:
            has_turn = self._changed.wait_for(lambda: not self._unloads, _left_s(deadline))
            self._loads += has_turn
        try:
            yield has_turn
        finally:
            with self._changed:
                self._loads -= has_turn
                self._changed.notify_all()

    @contextmanager
    def alone(self, timeout_s: float) -> Iterator[bool]:
        """Take an unload's turn for the length of a `with`; False where it has to go beside others after all."""
        with self._changed:
            self._unloads += 1
            has_turn = self._changed.wait_for(lambda: not self._loads and not self._is_alone, timeout_s)
            self._is_alone |= has_turn
        try:
            yield has_turn
        finally:
            with self._changed:
                self._unloads -= 1
                self._is_alone &= not has_turn
                self._changed.notify_all()


def _left_s(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
