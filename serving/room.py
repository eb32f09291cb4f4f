"""Making room in the budget: reserve, evict, wait.

Platform mode reserves or refuses at once. Standalone mode evicts the least recently used idle models, and waits, first
come first served, while everything that could go is busy. Who goes is `eviction`'s answer, what fits is the
`Ledger`'s; how a victim leaves is the manager's business, passed in as `finish_unload`. Called by `manager` alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

from serving import eviction
from serving.errors import UnavailableError
from serving.ledger import Ledger, format_bytes
from serving.lifecycle import Event, State
from serving.logs import quoted
from serving.metrics import Metrics
from serving.residents import Resident, Residents

log = logging.getLogger("wharf.room")

# Told of each victim and of all idle candidates at that moment; for tests and logs.
OnEvict = Callable[[eviction.Candidate, Sequence[eviction.Candidate]], None]


class Room:
    """The way into the budget."""

    def __init__(  # noqa: PLR0913  the manager is the one caller
        self,
        residents: Residents,
        ledger: Ledger,
        metrics: Metrics,
        finish_unload: Callable[[Resident], None],
        *,
        may_evict: bool,
        on_evict: OnEvict | None = None,
    ) -> None:
        self._residents = residents
        self._ledger = ledger
        self._metrics = metrics
        self._finish_unload = finish_unload
        self._may_evict = may_evict
        self._on_evict = on_evict
        self._queue: deque[Resident] = deque()
        self.is_closed = False

    @property
    def queue(self) -> int:
        """How many loads wait for room."""
        return len(self._queue)

    def reserve(self, resident: Resident, wanted_bytes: int, deadline: float) -> None:
        """Reserve `wanted_bytes` for a load.

        Raises `InsufficientMemoryError` where it cannot fit (platform: does not fit now) and `UnavailableError` when
        all that could make room stays busy until `deadline` (of the monotonic clock).
        """
        if not self._may_evict:
            with self._residents.lock:
                self._ledger.reserve(resident.name, wanted_bytes)
            return
        with self._residents.lock:
            self._queue.append(resident)
        try:
            while (victims := self._try(resident, wanted_bytes, deadline)) is not None:
                self._evict(victims)
        finally:
            with self._residents.lock:
                self._queue.remove(resident)
                self._residents.wake()

    def settle(self, newcomer: Resident | None = None) -> None:
        """Get back under the budget after a correction passed it, as far as idle models suffice; the newcomer stays."""
        if not self._may_evict:
            return
        with self._residents.lock:
            over_bytes = -self._ledger.free_bytes - self._leaving_bytes()
            victims = self._choose(over_bytes, keep=newcomer, as_far_as_possible=True)
        self._evict(victims)

    def _try(self, resident: Resident, wanted_bytes: int, deadline: float) -> list[Resident] | None:
        """Return None once reserved, else the victims to evict before the next try.

        1. Not the first in the queue: wait. 2. It fits: reserve. 3. Idle models suffice: they go. 4. Else wait for a
        change.
        """
        with self._residents.lock:
            if self.is_closed:
                raise UnavailableError("The server is shutting down: send the request to another one.")
            self._ledger.check_possible(resident.name, wanted_bytes)
            if self._queue[0] is resident:  # (1)
                missing_bytes = self._ledger.missing_bytes(wanted_bytes)
                if not missing_bytes:  # (2)
                    self._ledger.reserve(resident.name, wanted_bytes)
                    return None
                if victims := self._choose(missing_bytes - self._leaving_bytes()):  # (3)
                    return victims
            self._residents.wait(deadline, _no_room(resident.name, wanted_bytes))  # (4)
            return []

    def _leaving_bytes(self) -> int:
        """Bytes that unloads under way will free."""
        leaving = (each.name for each in self._residents.by_name.values() if each.state is State.UNLOADING)
        return sum(self._ledger.reservations.get(name, 0) for name in leaving)

    def _choose(
        self, wanted_bytes: int, keep: Resident | None = None, *, as_far_as_possible: bool = False
    ) -> list[Resident]:
        """Pick the victims and mark them UNLOADING; under the lock."""
        if wanted_bytes <= 0:
            return []
        idle = [
            eviction.Candidate(each.name, self._ledger.reservations[each.name], each.last_used)
            for each in self._residents.by_name.values()
            if each.state is State.READY and not each.in_flight and each is not keep
        ]
        if as_far_as_possible:  # the memory is in use already: what can go goes, though it may not suffice
            wanted_bytes = min(wanted_bytes, sum(each.bytes for each in idle))
        chosen = eviction.lru(idle, wanted_bytes) or ()
        for victim in chosen:
            if self._on_evict is not None:
                self._on_evict(victim, idle)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("event=choosing model=%s idle=%s", quoted(victim.name), _shown(idle))
            self._residents.move(self._residents.by_name[victim.name], Event.UNLOAD)
        return [self._residents.by_name[victim.name] for victim in chosen]

    def _evict(self, victims: list[Resident]) -> None:
        for victim in victims:
            self._metrics.count("Evictions")
            log.info("event=evicted model=%s last_used=%d", quoted(victim.name), victim.last_used)
            self._finish_unload(victim)


def _shown(candidates: Sequence[eviction.Candidate]) -> str:
    return ",".join(f"{each.name}:{each.last_used}" for each in candidates)


def _no_room(name: str, wanted_bytes: int) -> UnavailableError:
    return UnavailableError(
        f"Model '{name}' needs {format_bytes(wanted_bytes)} and every model that could make room is busy: "
        "try again or raise WHARF_MEMORY_BUDGET."
    )
