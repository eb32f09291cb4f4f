"""The table of residents and the waits on its lock."""

from __future__ import annotations

import time

import pytest

from serving.errors import UnavailableError
from serving.lifecycle import Event, IllegalMoveError, State
from serving.residents import Resident, Residents
from tests.unit.house import others
from tests.waiting import until


def _table(name: str = "a") -> tuple[Residents, Resident]:
    residents = Residents()
    residents.by_name[name] = resident = Resident(name, "/a")
    return residents, resident


def test_a_resident_begins_loading_and_leaves_the_table_at_its_end() -> None:
    """UNAVAILABLE is not in the table."""
    residents, resident = _table()
    with residents.lock:
        seen = [resident.state]
        for event in (Event.LOADED, Event.UNLOAD, Event.UNLOADED):
            residents.move(resident, event)
            seen.append(resident.state)

    assert seen == [State.LOADING, State.READY, State.UNLOADING, State.UNAVAILABLE]
    assert residents.by_name == {}


def test_an_illegal_move_changes_nothing() -> None:
    """The table of `lifecycle` decides."""
    residents, resident = _table()
    with residents.lock, pytest.raises(IllegalMoveError):
        residents.move(resident, Event.UNLOADED)

    assert (resident.state, residents.by_name) == (State.LOADING, {"a": resident})


def test_uses_are_ordered_by_a_counter_that_only_grows() -> None:
    """No clock, so no two uses at the same time."""
    residents, resident = _table()
    seen = []
    for _ in range(3):
        residents.touch(resident)
        seen.append(resident.last_used)

    assert seen == sorted(set(seen))


def test_a_change_wakes_everyone_who_waits() -> None:
    """Waiters look again, each for its own reason."""
    residents, resident = _table()

    def wait() -> State:
        with residents.lock:
            while resident.state is State.LOADING:
                residents.wait(time.monotonic() + 5, UnavailableError("late"))
            return resident.state

    with others() as pool:
        waiting = [pool.submit(wait) for _ in range(3)]
        until(lambda: residents._waiters == 3)
        with residents.lock:
            residents.move(resident, Event.LOADED)
        assert {each.result(5) for each in waiting} == {State.READY}
    assert residents._waiters == 0


def test_a_wait_past_its_deadline_raises_what_it_was_given() -> None:
    """At once when the deadline has passed before."""
    residents, _ = _table()
    with residents.lock, pytest.raises(UnavailableError, match="late"):
        residents.wait(time.monotonic() - 1, UnavailableError("late"))


def test_a_wait_that_ends_at_its_deadline_lets_the_caller_look_again() -> None:
    """A change in the last moment counts: only the next wait raises."""
    residents, _ = _table()
    deadline = time.monotonic() + 0.02
    with residents.lock:
        residents.wait(deadline, UnavailableError("late"))
        assert time.monotonic() >= deadline
        with pytest.raises(UnavailableError):
            residents.wait(deadline, UnavailableError("late"))


@pytest.mark.parametrize(("is_listed", "is_visible"), [(False, False), (True, True)])
def test_a_loading_model_is_visible_only_when_restored(is_listed: bool, is_visible: bool) -> None:
    """The platform believes what it was told before the crash."""
    assert Resident("a", "/a", is_listed=is_listed).is_visible is is_visible
