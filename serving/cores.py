"""The core budget: who may compute now.

A run of a model holds as many tokens as it has threads, and there are as many tokens as cores (the cgroup's quota,
which `os.cpu_count()` ignores): ten models at once never have more runnable threads than cores. Runs belong to flows
(one a model). Where runs wait, the flow that used the fewest core seconds since they began to wait goes next, the first
come within a flow; a flow that comes back starts at the least of those that wait, so that idleness earns nothing. The
chosen run waits for all its tokens and none passes it, so that a wide run is not starved by narrow ones. Knows neither
models nor backends; the HTTP rooms hold it around `run`, a batched model around its batch.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

from serving.errors import UnavailableError

NO_CORE = "No CPU core was free within {:g} s: try again or add cores."


class CoreBudget:
    """`cores` tokens for runs; `lease(threads, timeout_s, flow)` is a context manager.

    `lacking` is the message of a 503, with a place for seconds: a device's turns are tokens, too.
    """

    def __init__(self, cores: int, clock: Callable[[], float] = time.perf_counter, lacking: str = NO_CORE) -> None:
        self.cores = max(1, cores)
        self._clock = clock
        self._lacking = lacking
        self._free = self.cores
        self._lock = threading.Lock()
        self._waiting = 0
        # Only while somebody waits: without contention nobody's use is counted.
        self._flows: dict[str, _Flow] = {}
        self._numbers = itertools.count()

    @property
    def waiting(self) -> int:
        """How many runs wait for cores."""
        return self._waiting

    def lease(self, threads: int, timeout_s: float, flow: str = "") -> _Lease:
        """Hold `min(threads, cores)` tokens for the length of a `with`, on the account of `flow`.

        A run of 0 threads, which computes on a device, holds none and never waits. Raises `UnavailableError` (503) when
        they are not granted within `timeout_s` seconds.
        """
        return _Lease(self, min(max(0, threads), self.cores), timeout_s, flow)

    def _take(self, lease: _Lease) -> None:
        if not lease.tokens:
            return
        with self._lock:
            if not self._waiting and self._free >= lease.tokens:
                self._free -= lease.tokens
                lease.started = self._clock()
                return
            lease.granted = threading.Event()
            lease.number = next(self._numbers)
            self._flow_that_waits(lease.flow).append(lease)
            self._waiting += 1
        if not lease.granted.wait(lease.timeout_s):
            self._give_up(lease)

    def _give_up(self, lease: _Lease) -> None:
        with self._lock:
            flow = self._flows.get(lease.flow)
            if flow is None or lease not in flow.waiting:  # granted between the time-out and here
                return
            flow.waiting.remove(lease)
            self._waiting -= 1
            self._grant()
        raise UnavailableError(self._lacking.format(lease.timeout_s))

    def _give(self, lease: _Lease) -> None:
        if not lease.tokens:
            return
        with self._lock:
            self._free += lease.tokens
            if self._waiting:
                self._charge(lease)
                self._grant()

    def _grant(self) -> None:
        while self._waiting:
            flow = min((each for each in self._flows.values() if each.waiting), key=_Flow.rank)
            if self._free < flow.waiting[0].tokens:
                return
            lease = flow.waiting.popleft()
            self._waiting -= 1
            self._free -= lease.tokens
            lease.started = self._clock()
            if lease.granted is not None:
                lease.granted.set()
        self._flows.clear()

    def _charge(self, lease: _Lease) -> None:
        flow = self._flows.get(lease.flow)
        if flow is None:
            flow = self._flows[lease.flow] = _Flow(self._least())
        flow.used_s += lease.tokens * (self._clock() - lease.started)

    def _flow_that_waits(self, name: str) -> deque[_Lease]:
        flow = self._flows.get(name)
        if flow is None:
            flow = self._flows[name] = _Flow(self._least())
        elif not flow.waiting:
            flow.used_s = max(flow.used_s, self._least())
        return flow.waiting

    def _least(self) -> float:
        return min((each.used_s for each in self._flows.values() if each.waiting), default=0.0)


class _Flow:
    """The runs of one flow that wait, and the core seconds it used (`used_s`)."""

    __slots__ = ("used_s", "waiting")

    def __init__(self, used_s: float) -> None:
        self.used_s = used_s
        self.waiting: deque[_Lease] = deque()

    def rank(self) -> tuple[float, int]:
        return self.used_s, self.waiting[0].number


class _Lease:
    __slots__ = ("_budget", "flow", "granted", "number", "started", "timeout_s", "tokens")

    def __init__(self, budget: CoreBudget, tokens: int, timeout_s: float, flow: str) -> None:
        self._budget = budget
        self.tokens = tokens
        self.timeout_s = timeout_s
        self.flow = flow
        self.granted: threading.Event | None = None
        self.number = 0
        self.started = 0.0

    def __enter__(self) -> None:
        self._budget._take(self)

    def begin(self) -> None:
        """Count its use from now on: until here it held its tokens and used nothing."""
        self.started = self._budget._clock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget._give(self)
