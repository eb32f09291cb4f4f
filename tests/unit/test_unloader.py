"""The way out of memory: drain first, let go, and end the reservation whatever happens."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from serving.errors import UnavailableError
from serving.lifecycle import Event, State
from serving.residents import Resident
from tests.unit.house import KIB, House
from tests.unit.repository.packs import tar_gz
from tests.waiting import until


def leaving(house: House, name: str = "a") -> Resident:
    """Load a model and mark it UNLOADING."""
    house.load(name, bytes=100 * KIB)
    resident = house.manager._by_name[name]
    with house.manager._lock:
        house.manager._residents.move(resident, Event.UNLOAD)
    return resident


def test_what_is_taken_out_leaves_nothing(tmp_path: Path) -> None:
    """Closed once, no reservation, no name, one observation of its time."""
    house = House(tmp_path)
    resident = leaving(house)
    house.manager._unloader.finish(resident)
    assert (house.backend.closed, house.ledger.used_bytes, house.manager._by_name) == (["a"], 0, {})
    assert resident.state is State.UNAVAILABLE
    assert not hasattr(resident, "model")
    assert b"ModelUnloadingTime_count 1.0" in house.metrics.render()


def test_requests_in_flight_are_waited_for(tmp_path: Path) -> None:
    """The model is closed after the last of them."""
    house = House(tmp_path)
    with house.manager.ready(_made(house)):
        thread = threading.Thread(target=house.manager.unload, args=("a",))
        thread.start()
        until(lambda: house.names() == [])
        assert house.backend.closed == []
    thread.join(5)
    assert house.backend.closed == ["a"]


def _made(house: House) -> str:
    house.load("a")
    return "a"


def test_past_its_limit_the_drain_goes_on_by_itself(tmp_path: Path) -> None:
    """The caller hears how many there are; the unload happens all the same, when they end."""
    house = House(tmp_path)
    resident = leaving(house)
    resident.in_flight = 2
    with pytest.raises(UnavailableError, match=r"'a' still has 2 requests in flight after 0.05 s"):
        house.manager._unloader.finish(resident, 0.05)
    assert house.backend.closed == []
    for _ in range(2):
        house.manager._release(resident)
    until(lambda: house.backend.closed == ["a"])
    until(lambda: house.ledger.used_bytes == 0)


def test_a_model_that_fails_to_close_is_gone_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its memory may be lost; its name and its reservation are not."""
    house = House(tmp_path)
    resident = leaving(house)
    house.backend.fails_close.add("a")
    house.manager._unloader.finish(resident)
    assert (house.ledger.used_bytes, house.manager._by_name) == (0, {})
    assert "event=close_failed model=a" in caplog.text


def test_its_unpacked_files_are_let_go(tmp_path: Path) -> None:
    """The cache may then make room with them."""
    house = House(tmp_path)
    (house.root / "a.tar.gz").write_bytes(tar_gz({"fake.json": b"{}"}))
    house.manager.load("a", str(house.root / "a.tar.gz"))
    resident = house.manager._by_name["a"]
    assert resident.artifact is not None
    with house.manager._lock:
        house.manager._residents.move(resident, Event.UNLOAD)
    house.manager._unloader.finish(resident)
    house.load("b")
    assert house.names() == ["b"]


def test_the_journal_forgets_it_before_it_is_gone(tmp_path: Path) -> None:
    """A server that is killed in the middle of a drain does not bring it back."""
    house = House(tmp_path)
    house.load("b")
    resident = leaving(house)
    resident.in_flight = 1
    with pytest.raises(UnavailableError):
        house.manager._unloader.finish(resident, 0.01)
    assert set(house.journal.read()) == {"b"}
    house.manager._release(resident)
    until(lambda: house.backend.closed == ["a"])
