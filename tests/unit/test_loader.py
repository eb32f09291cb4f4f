"""Bringing a model in: one turn, one reservation, one measurement."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from serving.backends.base import Footprint
from serving.errors import InsufficientMemoryError, ModelNotFoundError, UnavailableError
from serving.loader import _believed, _warn
from serving.residents import Resident
from tests.unit.house import OVERHEAD_BYTES, House, others

MIB = 1 << 20
PREDICTED = Footprint(peak_bytes=12 * MIB, resident_bytes=10 * MIB)


def test_a_model_comes_with_its_reservation_and_its_files(tmp_path: Path) -> None:
    """The peak stays reserved until the manager corrects it."""
    house = House(tmp_path)
    resident = Resident("a", house.make("a"))
    brought = house.manager._loader.bring_in(resident, time.monotonic() + 5)

    assert (brought.resident_bytes, brought.predicted_bytes) == (OVERHEAD_BYTES, OVERHEAD_BYTES)
    assert dict(house.ledger.reservations) == {"a": OVERHEAD_BYTES}
    assert resident.artifact is not None
    assert resident.artifact.spec.format == "fake"


def test_a_url_that_is_gone_is_not_found(tmp_path: Path) -> None:
    """Before anything is reserved."""
    house = House(tmp_path)
    with pytest.raises(ModelNotFoundError):
        house.manager._loader.bring_in(Resident("a", f"{house.root}/a"), time.monotonic() + 5)

    assert house.ledger.used_bytes == 0


def test_what_can_never_fit_is_refused_before_the_runtime_is_imported(tmp_path: Path) -> None:
    """A refusal costs nothing."""
    house = House(tmp_path, budget_bytes=MIB)
    house.backend.runtime_bytes = 1
    with pytest.raises(InsufficientMemoryError):
        house.manager._loader.bring_in(Resident("a", house.make("a", bytes=2 * MIB)), time.monotonic() + 5)

    assert house.backend.runtime is None


def test_who_gets_no_turn_in_time_is_refused_and_takes_none_from_others(tmp_path: Path) -> None:
    """Four slow loads, a fifth gives up, a sixth comes in later."""
    house = House(tmp_path)
    loader, gates = house.manager._loader, [house.backend.hold(name) for name in "abcd"]
    slow = [Resident(name, house.make(name)) for name in "abcd"]
    with others() as pool:
        pending = [pool.submit(loader.bring_in, each, time.monotonic() + 5) for each in slow]
        assert all(gate.reached.wait(5) for gate in gates)
        with pytest.raises(UnavailableError, match="'late' waits for other loads"):
            loader.bring_in(Resident("late", house.make("late")), time.monotonic() + 0.01)
        for gate in gates:
            gate.go()
        for each in pending:
            each.result(5)
    loader.bring_in(Resident("later", house.make("later")), time.monotonic())


@pytest.mark.parametrize(
    ("grown", "is_alone", "believed"),
    [(11 * MIB, True, 11 * MIB), (MIB, True, 7.5 * MIB), (99 * MIB, False, 10 * MIB), (-MIB, True, 7.5 * MIB)],
)
def test_a_measurement_is_believed_when_nothing_else_moved(grown: int, is_alone: bool, believed: float) -> None:
    """Never less than three quarters of what was predicted."""
    assert _believed(grown, PREDICTED, is_alone=is_alone) == believed


def test_a_small_model_is_not_measured() -> None:
    """The kernel's counting is coarser than it is."""
    assert _believed(50 * MIB, Footprint(MIB, MIB), is_alone=True) == MIB


def test_what_a_configuration_sets_in_vain_is_said_once_a_model(caplog: pytest.LogCaptureFixture) -> None:
    """However often it is loaded; another model's is another."""
    for name in ("first-of-two", "first-of-two", "second-of-two"):
        _warn(name, "it sets x in vain")
    assert len(caplog.records) == 2
    assert "event=configuration model=first-of-two" in caplog.text
