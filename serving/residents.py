"""The table of resident models, with the one lock of the house and the waits on it.

Holds who is resident and in which state; decides nothing and does no slow work. Only `manager` and `room` write to it,
always under its lock; nobody else ever sees a `Resident` that is not READY.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from serving.backends.base import LoadedModel
from serving.books import Books
from serving.errors import ServingError, UnavailableError
from serving.lifecycle import Event, State, advance
from serving.metrics import Gauges
from serving.moves import Moves
from serving.repository.source import Artifact
from serving.scales import Scales, Weight
from serving.watch import NOTHING


@dataclass(frozen=True, slots=True)
class Limits:
    """Longest waits in seconds, and how many may load, or wait for one load, at once."""

    request_timeout_s: float = 60.0
    load_timeout_s: float = 360.0
    drain_timeout_s: float = 300.0
    load_concurrency: int = 4
    waiters_per_load: int = 120


class Resident:
    """A model on its way in, in, or on its way out.

    `in_flight` counts the requests that hold the model or wait for its load: it is no victim while there are any.
    """

    __slots__ = (
        "artifact",
        "error",
        "in_flight",
        "is_claimed",
        "is_first",
        "is_listed",
        "last_used",
        "model",
        "name",
        "state",
        "url",
        "watch",
        "weights",
    )

    model: LoadedModel

    def __init__(self, name: str, url: str, *, is_first: bool = False, is_listed: bool = False) -> None:
        self.name = name
        self.url = url
        self.state = advance(State.UNAVAILABLE, Event.LOAD)
        self.in_flight = 0
        self.last_used = 0
        self.is_first = is_first  # this load alone knows its url: a failure forgets it
        self.is_listed = is_listed  # restored from the journal: the platform believes it to be loaded
        self.is_claimed = False  # a thread has taken on its load
        self.artifact: Artifact | None = None
        self.error: ServingError | None = None
        self.watch = NOTHING  # of its load on devices
        self.weights: Mapping[int, Weight] = {}  # what it holds on each of them

    @property
    def is_visible(self) -> bool:
        """Whether the platform sees it in its list."""
        return self.state is State.READY or (self.state is State.LOADING and self.is_listed)

    def still_busy(self, timeout_s: float) -> UnavailableError:
        """Return the error of an unload that gave up on the drain."""
        return UnavailableError(
            f"Model '{self.name}' still has {self.in_flight} requests in flight after {timeout_s:g} s: "
            "it is unloaded when they end."
        )


class Residents:
    """Residents by name, the lock, and what can be waited for under it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_name: dict[str, Resident] = {}
        self._changed = threading.Condition(self.lock)
        self._waiters = 0
        self._ticks = itertools.count(1)
        self.moves = Moves()

    def move(self, resident: Resident, event: Event) -> None:
        """Advance a resident's state and wake everyone; under the lock. UNAVAILABLE leaves the table."""
        resident.state = advance(resident.state, event)
        if resident.state is State.UNAVAILABLE:
            self.by_name.pop(resident.name, None)
        self.wake()

    def touch(self, resident: Resident) -> None:
        """Mark a completed use; under the lock."""
        resident.last_used = next(self._ticks)

    def wake(self) -> None:
        """Wake everyone who waits for a change; under the lock. Costs nothing while nobody waits."""
        if self._waiters:
            self._changed.notify_all()

    def wait(self, deadline: float, error: ServingError) -> None:
        """Wait for any change, under the lock; raise `error` past the deadline (of the monotonic clock).

        A wait that ends at the deadline returns: the change may have come at the last moment. The caller looks again,
        and the next call raises.
        """
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise error
        self._waiters += 1
        try:
            self._changed.wait(left_s)
        finally:
            self._waiters -= 1

    def gauges(self, books: Books, scales: Scales, queue: int) -> Gauges:
        """Return what `/metrics` shows of the present; `queue` is the number of loads that wait for room."""
        ledger = books.host
        with self.lock:
            residents = list(self.by_name.values())
            scalars = {
                "LoadedModelCount": ("Models loaded", float(sum(each.state is State.READY for each in residents))),
                "MemoryBudgetBytes": ("Memory that models may hold", float(ledger.budget_bytes)),
                "MemoryReservedBytes": ("Memory reserved by models", float(ledger.used_bytes)),
                "LoadQueue": ("Loads that wait for room", float(queue)),
            }
            return Gauges(
                scalars,
                dict(ledger.reservations),
                {each.name: each.in_flight for each in residents},
                scales.gauges(),
                {
                    (name, f"cuda:{index}"): count
                    for index, device in books.devices.items()
                    for name, count in device.reservations.items()
                },
            )
