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
    def hold(self, key: Hashable, timeout_s: float = -1, too_late: Exception | None = None) -> Iterator[None]:
        """Wait until nobody else holds `key`, and hold it for the length of the block; raise `too_late` past the limit.

        Without a limit the wait is as long as the others take.
        """
        with self._lock:
            own, waiting = self._held.get(key, (threading.Lock(), 0))
            self._held[key] = own, waiting + 1
        try:
            if not own.acquire(timeout=timeout_s):
                raise too_late or TimeoutError(str(key))
            try:
                yield
            finally:
                own.release()
        finally:
            with self._lock:
                own, waiting = self._held[key]
                self._held[key] = own, waiting - 1
                if waiting == 1:
                    del self._held[key]
