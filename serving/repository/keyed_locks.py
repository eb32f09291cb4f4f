"""One at a time for each key: of several who want the same thing done, one does it and the others wait.

Keys are forgotten when nobody holds or awaits them. `store` unpacks under one, `catalog` loads under one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable, Iterator


class KeyedLocks:
    """One lock a key, there only while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Hashable, tuple[threading.Lock, int]] = {}

    @contextlib.contextmanager
    def hold(self, key: Hashable) -> Iterator[None]:
        """Wait until nobody else holds `key`, and hold it for the length of the block."""
        with self._lock:
            own, waiting = self._held.get(key, (threading.Lock(), 0))
            self._held[key] = own, waiting + 1
        try:
            with own:
                yield
        finally:
            with self._lock:
                own, waiting = self._held[key]
                self._held[key] = own, waiting - 1
                if waiting == 1:
                    del self._held[key]
