"""Making room: reserve, evict, wait, in the order of arrival."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from serving.books import Books, Demand
from serving.devices import Placement
from serving.errors import InsufficientMemoryError, UnavailableError
from serving.ledger import Ledger
from serving.lifecycle import Event
from serving.metrics import Metrics
from serving.residents import Resident, Residents
from serving.room import Room
from tests.unit.house import others
from tests.waiting import until


class Hall:
    """A room over a table of residents; victims leave at once and in order."""

    def __init__(self, budget_bytes: int, *devices: int, may_evict: bool = True) -> None:
        self.residents = Residents()
        self.ledger = Ledger(budget_bytes)
        self.books = Books(self.ledger, {index: Ledger(count) for index, count in enumerate(devices)})
        self.metrics = Metrics()
        self.gone: list[str] = []
        self.room = Room(*(self.residents, self.books, self.metrics, self.leave), may_evict=may_evict)

    def resident(self, name: str, count: int = 0, *on: int, in_flight: int = 0) -> Resident:
        """Add a READY resident of `count` bytes, and as many on each device of `on`, or a LOADING one without any."""
        resident = Resident(name, f"/{name}")
        with self.residents.lock:
            self.residents.by_name[name] = resident
            if count:
                self.books.put(name, Demand(count, count if on else 0, on), Placement(on))
                self.residents.touch(resident)
                self.residents.move(resident, Event.LOADED)
                resident.in_flight = in_flight
        return resident

    def reserve(self, resident: Resident, count: int, timeout_s: float, device_bytes: int = 0) -> Placement:
        """Ask for room, for so long."""
        return self.room.reserve(resident, Demand(count, device_bytes), time.monotonic() + timeout_s)

    def leave(self, resident: Resident) -> None:
        """What the manager does with a victim, without the slow part."""
        with self.residents.lock:
            self.books.release(resident.name)
            self.residents.move(resident, Event.UNLOADED)
        self.gone.append(resident.name)

    def release(self, resident: Resident) -> None:
        """A request ends."""
        with self.residents.lock:
            resident.in_flight -= 1
            self.residents.wake()


def test_what_fits_is_reserved_without_a_victim() -> None:
    """Nobody goes in vain."""
    hall = Hall(100)
    hall.resident("a", 40)
    hall.reserve(hall.resident("b"), 60, 1)

    assert (hall.gone, dict(hall.ledger.reservations)) == ([], {"a": 40, "b": 60})


def test_the_least_recently_used_idle_ones_go_until_it_fits() -> None:
    """Oldest first, the busy one stays, no more than needed."""
    hall = Hall(100)
    for name, in_flight in (("busy", 1), ("old", 0), ("middle", 0), ("new", 0)):
        hall.resident(name, 25, in_flight=in_flight)
    hall.reserve(hall.resident("x"), 50, 1)

    assert hall.gone == ["old", "middle"]
    assert hall.metrics.value("Evictions") == 2


def test_a_load_waits_while_everything_is_busy_and_goes_on_when_something_ends() -> None:
    """The end of one request is enough."""
    hall = Hall(100)
    busy = hall.resident("busy", 80, in_flight=1)
    with others() as pool:
        waiting = pool.submit(hall.reserve, hall.resident("x"), 50, 5)
        until(lambda: hall.room.queue == 1)
        assert not waiting.done()
        hall.release(busy)
        waiting.result(5)
    assert (hall.gone, hall.room.queue) == (["busy"], 0)


def test_a_wait_past_its_limit_is_a_503_with_the_figure_and_leaves_the_queue() -> None:
    """Nothing was reserved, nobody evicted."""
    hall = Hall(100)
    hall.resident("busy", 80, in_flight=1)
    with pytest.raises(UnavailableError, match=r"'x' needs 50 B and every model that could make room is busy"):
        hall.reserve(hall.resident("x"), 50, 0.01)

    assert (hall.room.queue, hall.gone, dict(hall.ledger.reservations)) == (0, [], {"busy": 80})


def test_first_come_first_served() -> None:
    """A small load behind a large one does not take the room that the large one waits for."""
    hall = Hall(100)
    busy = hall.resident("busy", 80, in_flight=1)
    with others() as pool:
        large = pool.submit(hall.reserve, hall.resident("large"), 90, 5)
        until(lambda: hall.room.queue == 1)
        small = pool.submit(hall.reserve, hall.resident("small"), 10, 5)
        until(lambda: hall.room.queue == 2)
        assert not small.done()
        hall.release(busy)
        large.result(5)
        small.result(5)
    assert dict(hall.ledger.reservations) == {"large": 90, "small": 10}


def test_who_gives_up_lets_the_next_one_try() -> None:
    """The small load does not pay for the large one's patience."""
    hall = Hall(100)
    hall.resident("busy", 80, in_flight=1)
    with others() as pool:
        large = pool.submit(hall.reserve, hall.resident("large"), 90, 0.05)
        until(lambda: hall.room.queue == 1)
        small = pool.submit(hall.reserve, hall.resident("small"), 10, 5)
        assert isinstance(large.exception(5), UnavailableError)
        small.result(5)


@pytest.mark.parametrize("may_evict", [True, False])
def test_what_can_never_fit_is_refused_at_once(may_evict: bool) -> None:
    """507 with both figures, whoever is idle."""
    hall = Hall(100, may_evict=may_evict)
    hall.resident("a", 40)
    with pytest.raises(InsufficientMemoryError, match="needs 101 B .*budget is 100 B"):
        hall.reserve(hall.resident("x"), 101, 5)

    assert (hall.gone, hall.room.queue) == ([], 0)


def test_without_eviction_a_load_fits_or_is_refused() -> None:
    """Platform: no queue, no victim."""
    hall = Hall(100, may_evict=False)
    hall.resident("a", 60)
    with pytest.raises(InsufficientMemoryError, match="unload a model"):
        hall.reserve(hall.resident("x"), 50, 5)
    hall.reserve(hall.resident("y"), 40, 5)

    assert hall.gone == []


def test_memory_that_is_on_its_way_out_is_waited_for_not_evicted_twice() -> None:
    """A second newcomer does not drive out more than both need."""
    hall = Hall(100)
    leaving = hall.resident("leaving", 50)
    hall.resident("stays", 50)
    with hall.residents.lock:
        hall.residents.move(leaving, Event.UNLOAD)
    with others() as pool:
        waiting = pool.submit(hall.reserve, hall.resident("x"), 50, 5)
        until(lambda: hall.room.queue == 1)
        hall.leave(leaving)
        waiting.result(5)
    assert hall.gone == ["leaving"]


def test_a_closed_room_lets_nobody_in() -> None:
    """503: the server is ending."""
    hall = Hall(100)
    hall.room.is_closed = True
    with pytest.raises(UnavailableError, match="shutting down"):
        hall.reserve(hall.resident("x"), 10, 5)
    assert hall.room.queue == 0


def test_settling_gets_back_under_the_budget_and_keeps_the_newcomer() -> None:
    """A correction past the budget makes the oldest others go, and no more than that."""
    hall = Hall(100)
    hall.resident("old", 30)
    hall.resident("new", 30)
    newcomer = hall.resident("newcomer", 40)
    hall.ledger.correct("newcomer", 60)
    hall.room.settle(newcomer)

    assert hall.gone == ["old"]


def test_settling_counts_what_is_leaving_already() -> None:
    """Two corrections at once do not make twice as many go."""
    hall = Hall(100)
    leaving = hall.resident("leaving", 30)
    hall.resident("stays", 30)
    newcomer = hall.resident("newcomer", 40)
    hall.ledger.correct("newcomer", 60)
    with hall.residents.lock:
        hall.residents.move(leaving, Event.UNLOAD)
    hall.room.settle(newcomer)

    assert hall.gone == []


def test_settling_frees_what_it_can_even_if_that_does_not_suffice() -> None:
    """The memory is in use: less over the budget is better than more."""
    hall = Hall(100)
    hall.resident("idle", 30)
    hall.resident("busy", 30, in_flight=1)
    newcomer = hall.resident("newcomer", 40)
    hall.ledger.correct("newcomer", 200)
    hall.room.settle(newcomer)

    assert hall.gone == ["idle"]


@pytest.mark.parametrize("may_evict", [True, False])
def test_settling_within_the_budget_or_on_a_platform_moves_nobody(may_evict: bool) -> None:
    """The platform decides who goes, whatever was measured."""
    hall = Hall(100, may_evict=may_evict)
    hall.resident("old", 30)
    newcomer = hall.resident("newcomer", 40)
    hall.ledger.correct("newcomer", 40 if may_evict else 400)
    hall.room.settle(newcomer)

    assert hall.gone == []


def test_the_log_says_who_went_and_at_debug_who_could_have(caplog: pytest.LogCaptureFixture) -> None:
    """So that exact LRU can be checked from outside."""
    caplog.set_level(logging.DEBUG)
    hall = Hall(100)
    hall.resident("old", 50)
    hall.resident("new", 50)
    hall.reserve(hall.resident("x"), 50, 1)

    assert "event=choosing model=old idle=old:1,new:2" in caplog.text
    assert "event=evicted model=old last_used=1" in caplog.text


def test_many_loads_at_once_never_pass_the_budget(tmp_path: Path) -> None:
    """Eight threads, sizes that never fit together: reservations stay within the budget at every moment."""
    hall = Hall(100)
    highest = 0

    def come_and_go(seed: int) -> None:
        nonlocal highest
        for number in range(40):
            resident = hall.resident(f"{seed}-{number}")
            hall.reserve(resident, 20 + (seed * 7 + number) % 60, 10)
            highest = max(highest, hall.ledger.used_bytes)
            with hall.residents.lock:
                hall.residents.touch(resident)
                hall.residents.move(resident, Event.LOADED)

    started = time.monotonic()
    with others() as pool:
        list(pool.map(come_and_go, range(8)))

    assert highest <= 100
    assert hall.ledger.used_bytes <= 100
    assert time.monotonic() - started < 10


# ---- devices ---------------------------------------------------------------------------------------------------------


def test_only_who_holds_bytes_on_the_device_goes_for_it() -> None:
    """The least recently used of those; older ones stay."""
    hall = Hall(1000, 100, 50)
    hall.resident("plain", 40)
    hall.resident("small", 40, 1)
    hall.resident("old", 40, 0)
    hall.resident("new", 40, 0)
    assert hall.reserve(hall.resident("x"), 10, 1, 55) == Placement((0,))
    assert hall.gone == ["old"]


def test_the_next_device_is_tried_where_the_roomiest_is_busy() -> None:
    """It needs more to go there, but there it can."""
    hall = Hall(1000, 100, 100)
    hall.resident("busy", 50, 0, in_flight=1)
    hall.resident("idle", 60, 1)
    assert hall.reserve(hall.resident("x"), 10, 1, 90) == Placement((1,))
    assert hall.gone == ["idle"]


def test_who_cannot_have_a_device_evicts_nobody_for_its_memory() -> None:
    """All or nothing: a victim for half of a load would go in vain."""
    hall = Hall(100, 100)
    hall.resident("busy", 60, 0, in_flight=1)
    hall.resident("idle", 40)
    with pytest.raises(UnavailableError, match="needs 50 B and 80 B of a device and .* lower WHARF_DEVICE"):
        hall.reserve(hall.resident("x"), 50, 0.01, 80)
    assert hall.gone == []


def test_a_line_for_a_device_does_not_hold_up_those_who_want_none() -> None:
    """Not even behind two that wait there; who wants the device stands in line."""
    hall = Hall(1000, 100)
    busy = hall.resident("busy", 80, 0, in_flight=1)
    with others() as pool:
        large = pool.submit(hall.reserve, hall.resident("large"), 10, 5, 90)
        until(lambda: hall.room.queue == 1)
        small = pool.submit(hall.reserve, hall.resident("small"), 10, 5, 10)
        until(lambda: hall.room.queue == 2)
        assert pool.submit(hall.reserve, hall.resident("plain"), 10, 5).result(5) == Placement()
        assert not small.done()
        hall.release(busy)
        assert (large.result(5), small.result(5)) == (Placement((0,)), Placement((0,)))


def test_a_correction_on_a_device_makes_those_go_who_hold_bytes_there() -> None:
    """As far as needed; the newcomer stays."""
    hall = Hall(1000, 100)
    hall.resident("plain", 10)
    hall.resident("old", 40, 0)
    newcomer = hall.resident("newcomer", 50, 0)
    hall.books.devices[0].correct("newcomer", 70)
    hall.room.settle(newcomer)
    assert hall.gone == ["old"]


@pytest.mark.parametrize("may_evict", [False, True])
def test_a_load_that_turned_out_larger_keeps_what_fits(may_evict: bool) -> None:
    """Its reservation is raised at once, so that nobody takes the room meanwhile; a smaller one stays as it is."""
    hall = Hall(100, may_evict=may_evict)
    hall.resident("a", 40)
    hall.reserve(hall.resident("b"), 30, 1)
    hall.room.keep("b", 20)
    assert hall.ledger.reservations["b"] == 30
    hall.room.keep("b", 60)
    assert hall.ledger.reservations["b"] == 60


@pytest.mark.parametrize(("may_evict", "most"), [(False, 60), (True, 100)])
def test_a_load_that_outgrew_the_budget_is_refused(may_evict: bool, most: int) -> None:
    """Platform: what is free; standalone: all of it, as idle models make room. Nothing changes for the others."""
    hall = Hall(100, may_evict=may_evict)
    hall.resident("a", 40)
    hall.reserve(hall.resident("b"), 30, 1)
    with pytest.raises(InsufficientMemoryError, match=f"'b' holds {most + 1} B after its load .* has {most} B for it"):
        hall.room.keep("b", most + 1)
    assert (dict(hall.ledger.reservations), hall.gone) == ({"a": 40, "b": 30}, [])
