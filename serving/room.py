"""Making room in the budgets: reserve, evict, wait.

Platform mode reserves or refuses at once. Standalone mode evicts the least recently used idle models, on a device those
that hold bytes there, and waits, first come first served, while everything that could go is busy. A load is behind
those alone that wait for something it wants too. Who goes is `eviction`'s answer, what fits and on which device is that
of `books`; how a victim leaves is the manager's business, passed in as `finish_unload`. Called by `manager` alone.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

from serving import eviction
from serving.books import Books, Demand
from serving.devices import Placement
from serving.errors import InsufficientMemoryError, UnavailableError
from serving.ledger import Ledger, format_bytes
from serving.lifecycle import Event, State
from serving.logs import quoted
from serving.metrics import Metrics
from serving.residents import Resident, Residents

log = logging.getLogger("wharf.room")

# Told of each victim and of all idle candidates at that moment; for tests and logs.
OnEvict = Callable[[eviction.Candidate, Sequence[eviction.Candidate]], None]


class _Waiter:
    """A load in the queue; `short` are the ledgers that were too full for it: all, before it has looked."""

    def __init__(self, resident: Resident, demand: Demand, short: Collection[Ledger]) -> None:
        self.resident = resident
        self.demand = demand
        self.short = frozenset(short)


class Room:
    """The way into the budgets."""

    def __init__(  # noqa: PLR0913  the manager is the one caller
        self,
        residents: Residents,
        books: Books,
        metrics: Metrics,
        finish_unload: Callable[[Resident], None],
        *,
        may_evict: bool,
        on_evict: OnEvict | None = None,
    ) -> None:
        self._residents = residents
        self._books = books
        self._metrics = metrics
        self._finish_unload = finish_unload
        self._may_evict = may_evict
        self._on_evict = on_evict
        self._queue: deque[_Waiter] = deque()
        self.is_closed = False

    @property
    def queue(self) -> int:
        """How many loads wait for room."""
        return len(self._queue)

    def reserve(self, resident: Resident, demand: Demand, deadline: float) -> Placement:
        """Reserve what a load wants, all of it or nothing, and return the devices that it has room on.

        Raises `InsufficientMemoryError` where it cannot fit (platform: does not fit now) and `UnavailableError` when
        all that could make room stays busy until `deadline` (of the monotonic clock).
        """
        if not self._may_evict:
            with self._residents.lock:
                return self._books.reserve(resident.name, demand)
        waiter = _Waiter(resident, demand, self._books.all)
        with self._residents.lock:
            self._queue.append(waiter)
        try:
            while not isinstance(found := self._try(waiter, deadline), Placement):
                self._evict(found)
            return found
        finally:
            with self._residents.lock:
                self._queue.remove(waiter)
                self._residents.wake()

    def keep(self, name: str, held_bytes: int) -> None:
        """Raise the reservation of a load to what it turned out to hold.

        Raises `InsufficientMemoryError`, and then nothing has changed, for more than is free (platform), or than there
        is at all (standalone, where idle models make room afterwards).
        """
        with self._residents.lock:
            host = self._books.host
            reserved_bytes = host.reservations[name]
            if held_bytes <= reserved_bytes:
                return
            room_bytes = host.budget_bytes if self._may_evict else host.free_bytes + reserved_bytes
            if held_bytes > room_bytes:
                raise InsufficientMemoryError(
                    f"Model '{name}' holds {format_bytes(held_bytes)} after its load and the budget of "
                    f"{format_bytes(host.budget_bytes)} has {format_bytes(max(0, room_bytes))} for it: unload a model "
                    "or raise WHARF_MEMORY_BUDGET."
                )
            host.correct(name, held_bytes)

    def settle(self, newcomer: Resident | None = None) -> None:
        """Get back under the budgets after a correction passed one, as far as idle models suffice; the newcomer stays.

        Of those that hold bytes where it was passed.
        """
        if not self._may_evict:
            return
        with self._residents.lock:
            over = {each: -each.free_bytes - self._leaving_bytes(each) for each in self._books.all}
            victims = self._choose(over, keep=newcomer, as_far_as_possible=True)
        self._evict(victims)

    def _try(self, waiter: _Waiter, deadline: float) -> Placement | list[Resident]:
        """Return where it is reserved, else the victims to evict before the next try.

        1. Where somebody before it waits for the same: not there. 2. It fits: reserve, on the device with the most
        room. 3. Idle models suffice: they go. 4. Else wait for a change.
        """
        name, demand = waiter.resident.name, waiter.demand
        with self._residents.lock:
            if self.is_closed:
                raise UnavailableError("The server is shutting down: send the request to another one.")
            possible = self._books.check_possible(name, demand)
            taken = {each: self._taken(waiter, each) for each in possible}
            open_to_it = [each for each in possible if not taken[each]]  # (1)
            missing = {each: self._books.missing(demand, each) for each in open_to_it}
            for placement in open_to_it:  # (2)
                if not missing[placement]:
                    self._books.put(name, demand, placement)
                    return placement
            short = frozenset(ledger for each in (*taken.values(), *missing.values()) for ledger in each)
            if short != waiter.short:  # somebody behind it may go on
                waiter.short = short
                self._residents.wake()
            for placement in open_to_it:  # (3)
                wanted = {each: count - self._leaving_bytes(each) for each, count in missing[placement].items()}
                if victims := self._choose(wanted):
                    return victims
            self._residents.wait(deadline, _no_room(name, demand))  # (4)
            return []

    def _taken(self, waiter: _Waiter, placement: Placement) -> frozenset[Ledger]:
        """Return the ledgers that this load wants of and where one before it waits for room."""
        wanted = self._books.wanted(waiter.demand, placement)
        before = itertools.takewhile(lambda each: each is not waiter, self._queue)
        return frozenset(ledger for each in before for ledger in each.short if ledger in wanted)

    def _leaving_bytes(self, ledger: Ledger) -> int:
        """Bytes that unloads under way will free."""
        leaving = (each.name for each in self._residents.by_name.values() if each.state is State.UNLOADING)
        return sum(ledger.reservations.get(name, 0) for name in leaving)

    def _choose(
        self, wanted: Mapping[Ledger, int], keep: Resident | None = None, *, as_far_as_possible: bool = False
    ) -> list[Resident]:
        """Pick the victims for all ledgers, or none, and mark them UNLOADING; under the lock."""
        chosen: dict[str, eviction.Candidate] = {}
        seen: list[tuple[eviction.Candidate, list[eviction.Candidate]]] = []
        for ledger, count in wanted.items():
            short_bytes = count - sum(ledger.reservations.get(name, 0) for name in chosen)
            if short_bytes <= 0:
                continue
            idle = [each for each in self._idle(ledger, keep) if each.name not in chosen]
            if as_far_as_possible:  # the memory is in use already: what can go goes, though it may not suffice
                short_bytes = min(short_bytes, sum(each.bytes for each in idle))
            victims = eviction.lru(idle, short_bytes)
            if victims is None:
                return []
            chosen |= {each.name: each for each in victims}
            seen += [(each, idle) for each in victims]
        for victim, idle in seen:
            if self._on_evict is not None:
                self._on_evict(victim, idle)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("event=choosing model=%s idle=%s", quoted(victim.name), _shown(idle))
            self._residents.move(self._residents.by_name[victim.name], Event.UNLOAD)
        return [self._residents.by_name[name] for name in chosen]

    def _idle(self, ledger: Ledger, keep: Resident | None) -> list[eviction.Candidate]:
        """Return who may go of those that hold bytes in a ledger."""
        return [
            eviction.Candidate(each.name, ledger.reservations[each.name], each.last_used)
            for each in self._residents.by_name.values()
            if each.state is State.READY
            and not each.in_flight
            and each is not keep
            and ledger.reservations.get(each.name)
        ]

    def _evict(self, victims: list[Resident]) -> None:
        for victim in victims:
            self._metrics.count("Evictions")
            log.info("event=evicted model=%s last_used=%d", quoted(victim.name), victim.last_used)
            self._finish_unload(victim)


def _shown(candidates: Sequence[eviction.Candidate]) -> str:
    return ",".join(f"{each.name}:{each.last_used}" for each in candidates)


def _no_room(name: str, demand: Demand) -> UnavailableError:
    device = f" and {format_bytes(demand.device_bytes)} of a device" if demand.device_bytes else ""
    remedy = "lower WHARF_DEVICE_HEADROOM" if demand.device_bytes else "raise WHARF_MEMORY_BUDGET"
    return UnavailableError(
        f"Model '{name}' needs {format_bytes(demand.host_bytes)}{device} and every model that could make room is busy: "
        f"try again or {remedy}."
    )
