"""Waiting for something to become true, without guessing how long it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def until(is_true: Callable[[], object], timeout_s: float = 15) -> None:
    """Return when `is_true()` holds; fail after `timeout_s`."""
    pause, deadline = threading.Event(), time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen"
        pause.wait(0.005)
