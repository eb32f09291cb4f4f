"""The core budget: who may compute now.

A run of a model holds as many tokens as it has threads, and there are as many tokens as cores (the cgroup's quota,
which `os.cpu_count()` ignores): ten models at once never have more runnable threads than cores. First come, first
served, so that a wide run is not starved by narrow ones. Knows neither models nor backends; the HTTP rooms hold it
around `run`.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType

from serving.errors import UnavailableError


class CoreBudget:
    """`cores` tokens for runs; `lease(threads, timeout_s)` is a context manager."""

    def __init__(self, cores: int) -> None:
        self.cores = max(1, cores)
        self._free = self.cores
        self._lock = threading.Lock()
        self._waiting: deque[_Lease] = deque()

    @property
    def waiting(self) -> int:
        """How many runs wait for cores."""
        return len(self._waiting)

    def lease(self, threads: int, timeout_s: float) -> _Lease:
        """Hold `min(threads, cores)` tokens for the length of a `with`.

        Raises `UnavailableError` (503) when they are not granted within `timeout_s` seconds.
        """
        return _Lease(self, min(max(1, threads), self.cores), timeout_s)

    def _take(self, lease: _Lease) -> None:
        with self._lock:
            if not self._waiting and self._free >= lease.tokens:
                self._free -= lease.tokens
                return
            lease.granted = threading.Event()
            self._waiting.append(lease)
        if not lease.granted.wait(lease.timeout_s):
            self._give_up(lease)

    def _give_up(self, lease: _Lease) -> None:
        with self._lock:
            if lease not in self._waiting:  # granted between the time-out and here
                return
            self._waiting.remove(lease)
            self._grant()
        raise UnavailableError(f"No CPU core was free within {lease.timeout_s:g} s: try again or add cores.")

    def _give(self, tokens: int) -> None:
        with self._lock:
            self._free += tokens
            self._grant()

    def _grant(self) -> None:
        while self._waiting and self._free >= self._waiting[0].tokens:
            lease = self._waiting.popleft()
            self._free -= lease.tokens
            if lease.granted is not None:
                lease.granted.set()


class _Lease:
    __slots__ = ("_budget", "granted", "timeout_s", "tokens")

    def __init__(self, budget: CoreBudget, tokens: int, timeout_s: float) -> None:
        self._budget = budget
        self.tokens = tokens
        self.timeout_s = timeout_s
        self.granted: threading.Event | None = None

    def __enter__(self) -> None:
        self._budget._take(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget._give(self.tokens)
