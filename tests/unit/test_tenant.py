"""What a model that is ready may ask for: more memory, a corrected figure, its own end with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import manager as manager_room
from serving.errors import ModelNotFoundError, UnavailableError
from serving.lifecycle import Event
from serving.tenant import Tenant
from tests.unit.house import KIB, OVERHEAD_BYTES, House, others
from tests.waiting import until

ONE = 100 * KIB + OVERHEAD_BYTES


def with_model(folder: Path, *, is_platform: bool = False) -> tuple[House, Tenant]:
    """A house whose model holds half of the budget, and that model's word."""
    house = House(folder, budget_bytes=2 * ONE, is_platform=is_platform)
    house.load("a", bytes=100 * KIB)
    host = house.backend.hosts["a"]
    assert isinstance(host, Tenant)
    return house, host


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_more_memory_is_granted_while_there_is_some(tmp_path: Path) -> None:
    """To the last byte, and not one more."""
    house, host = with_model(tmp_path)
    assert host.grow(ONE - 1)
    assert not host.grow(2)
    assert host.grow(1)
    assert house.ledger.reservations["a"] == 2 * ONE == house.ledger.used_bytes


def test_memory_that_is_given_back_is_free_for_others(tmp_path: Path) -> None:
    """Who waits for room in it comes in."""
    house, host = with_model(tmp_path, is_platform=False)
    assert host.grow(ONE)
    house.make("b", bytes=100 * KIB)
    with house.manager.ready("a"), others() as pool:  # in use: no victim
        waiting = pool.submit(house.use, "b")
        until(lambda: "b" in house.manager._by_name)
        assert host.grow(-ONE)
        waiting.result(5)
    assert house.names() == ["a", "b"]


def test_memory_is_given_back_also_past_the_budget(tmp_path: Path) -> None:
    """Then most of all."""
    house, host = with_model(tmp_path)
    house.ledger.correct("a", 5 * ONE)
    assert host.grow(-ONE)
    assert house.ledger.reservations["a"] == 4 * ONE


def test_nobody_is_evicted_for_a_worker_more(tmp_path: Path) -> None:
    """A busy model does not push out its neighbours."""
    house, host = with_model(tmp_path)
    house.load("b", bytes=100 * KIB)
    assert not host.grow(1)
    assert house.names() == ["a", "b"]


def test_a_model_on_its_way_out_gets_nothing(tmp_path: Path) -> None:
    """Its reservation ends with it; a late word must not bring it back."""
    house, host = with_model(tmp_path)
    house.manager.unload("a")
    assert not host.grow(1)
    assert not host.grow(-1)
    host.correct(5)
    assert house.ledger.used_bytes == 0


def test_a_name_that_came_back_is_not_the_old_ones(tmp_path: Path) -> None:
    """A pool that has not ended yet speaks of a model that is no more."""
    house, old = with_model(tmp_path)
    house.manager.unload("a")
    house.load("a", bytes=100 * KIB)
    assert not old.grow(1)
    old.withdraw("it died")
    assert house.names() == ["a"]
    assert house.ledger.reservations["a"] == ONE


def test_what_was_measured_anew_replaces_the_reservation(tmp_path: Path) -> None:
    """Past the budget idle models go; the one that grew is theirs too."""
    house, host = with_model(tmp_path)
    house.load("b", bytes=100 * KIB)
    house.use("a")
    host.correct(ONE + 1)
    assert house.names() == ["a"]
    assert dict(house.ledger.reservations) == {"a": ONE + 1}


# ---- withdrawal ------------------------------------------------------------------------------------------------------


def test_a_model_that_is_withdrawn_is_gone_with_its_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Closed, unlisted, logged and counted."""
    house, host = with_model(tmp_path)
    host.withdraw("its workers died")
    assert (house.names(), house.ledger.used_bytes, house.backend.closed) == ([], 0, ["a"])
    assert house.metrics.value("Withdrawn") == 1
    assert "event=withdrawn model=a reason='its workers died'" in caplog.text


def test_standalone_requests_hear_why_and_later_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 for half a minute, as it would only die again; then the first request loads it."""
    house, host = with_model(tmp_path)
    host.withdraw("its workers died")
    for _ in range(2):
        with pytest.raises(UnavailableError, match="its workers died"):
            house.use("a")
    monkeypatch.setattr(manager_room, "_WITHDRAWN_S", 0.0)
    house.use("a")
    assert house.backend.loads["a"] == 2


def test_on_the_platform_it_is_404_with_the_reason_until_it_is_loaded_again(tmp_path: Path) -> None:
    """The platform loads what it misses; nothing stands in its way."""
    house, host = with_model(tmp_path, is_platform=True)
    host.withdraw("its workers died")
    with pytest.raises(ModelNotFoundError, match=r"not loaded \(withdrawn: its workers died\)"):
        house.use("a")
    house.load("a")
    house.use("a")
    house.manager.unload("a")
    with pytest.raises(ModelNotFoundError) as caught:
        house.use("a")
    assert "withdrawn" not in caught.value.message


def test_a_load_by_name_needs_no_patience(tmp_path: Path) -> None:
    """Who mends the model loads it and goes on."""
    house, host = with_model(tmp_path)
    host.withdraw("its workers died")
    house.load("a")
    house.use("a")


def test_a_withdrawal_waits_for_requests_in_flight(tmp_path: Path) -> None:
    """They have their answer, or their error, from the model; new ones hear why."""
    house, host = with_model(tmp_path)
    with others() as pool:
        with house.manager.ready("a"):
            going = pool.submit(host.withdraw, "its workers died")
            until(lambda: house.names() == [])
            late = pool.submit(house.use, "a")
            assert house.backend.closed == []
        with pytest.raises(UnavailableError, match="its workers died"):
            late.result(5)
        going.result(5)
    assert house.backend.closed == ["a"]


def test_a_withdrawal_that_drains_past_its_limit_goes_on_by_itself(tmp_path: Path) -> None:
    """The thread that asked for it is nobody who could hear an error."""
    house, host = with_model(tmp_path)
    house.manager._unloader._drain_timeout_s = 0.01
    with house.manager.ready("a"):
        host.withdraw("its workers died")
        assert house.backend.closed == []
    until(lambda: house.backend.closed == ["a"])


def test_withdrawing_twice_is_withdrawing_once(tmp_path: Path) -> None:
    """And a model that is being unloaded anyway is left to that."""
    house, host = with_model(tmp_path)
    host.withdraw("first")
    host.withdraw("second")
    assert house.metrics.value("Withdrawn") == 1
    house.load("b")
    resident = house.manager._by_name["b"]
    with house.manager._lock:
        house.manager._residents.move(resident, Event.UNLOAD)
    house.backend.hosts["b"].withdraw("third")
    assert house.metrics.value("Withdrawn") == 1
    house.manager._unloader.finish(resident)


def test_a_lease_that_is_kept_holds_the_model_beyond_its_block(tmp_path: Path) -> None:
    """A stream's; given back once it is over."""
    house, _ = with_model(tmp_path)
    lease = house.manager.ready("a")
    with lease:
        release = lease.keep()
    assert house.in_flight("a") == 1
    release()
    assert house.in_flight("a") == 0
