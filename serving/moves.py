"""Whether memory that grew is one's own: who else loaded or unloaded meanwhile.

A growth is believed only where no other move ran beside it. `residents` has one for this process, `backends.triton` one
for tritonserver's, `scales` one for each device. Knows no model and measures nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Moves:
    """The loads and unloads of one process' memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = 0
        self._running = 0

    @contextmanager
    def move(self) -> Iterator[int]:
        """Be a move for the length of a `with`; the number is for `stood_still`."""
        with self._lock:
            self._begun += 1
            self._running += 1
            number = self._begun if self._running == 1 else 0
        try:
            yield number
        finally:
            with self._lock:
                self._running -= 1

    @property
    def begun(self) -> int:
        """How many moves have begun until now."""
        return self._begun

    @property
    def is_still(self) -> bool:
        """Whether nobody moves at this moment."""
        return self._running == 0

    def stood_still(self, number: int) -> bool:
        """Say whether no other move ran beside the one that got `number`, as long as that one runs."""
        return number == self._begun
