"""What cannot be had of a card in a test: a device's use that changes between two readings."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

import pytest

from serving import scales as room
from serving.devices import Device, Placement
from serving.ledger import RUNTIMES, Ledger
from serving.scales import LOST, OTHERS, Expected, Scales
from serving.watch import NOTHING, Growth


class Readings:
    """A meter of one device of 1,000 bytes with a use for each reading; the last one stays."""

    why_none = ""

    def __init__(self, *used_bytes: int | None) -> None:
        self._left = list(used_bytes)

    def devices(self) -> Sequence[Device]:
        return (Device(0, "T4", "GPU-0", 1000, self.used_bytes(0) or 0),)

    def used_bytes(self, index: int, pids: Collection[int] | None = None) -> int | None:
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again at once."""
    monkeypatch.setattr(room, "_STILL_S", 0.0)
    monkeypatch.setattr(room, "_POLL_S", 0.0)


def scales_of(*used_bytes: int | None, give_back_s: float = 30) -> tuple[Scales, Ledger]:
    """Scales that read so, without slack or headroom."""
    made = Scales(Readings(*used_bytes), give_back_s=give_back_s, slack_bytes=0)
    return made, made.ledgers[0]


def test_what_a_server_before_this_one_held_is_waited_for() -> None:
    """While it falls; what stays is others'."""
    scales, ledger = scales_of(900, 700, 400, 100, 100)
    assert ledger.taken_out(OTHERS) == 900
    scales.settle_in(threading.Lock())
    assert (ledger.taken_out(OTHERS), ledger.budget_bytes) == (100, 900)


@pytest.mark.parametrize("give_back_s", [0.0, 30.0])
def test_the_wait_ends_with_its_limit_or_where_nothing_falls(give_back_s: float) -> None:
    """And costs nothing where nothing is in use."""
    scales, ledger = scales_of(300, 300, give_back_s=give_back_s)
    scales.settle_in(threading.Lock())
    assert ledger.taken_out(OTHERS) == 300


def test_without_devices_there_is_nothing_to_wait_for() -> None:
    """Nor to look at."""
    scales = Scales()
    scales.settle_in(threading.Lock())
    with scales.prepare("torch") as watch:
        assert (watch.growths(), watch.grown_at_least(), watch.devices) == ({}, {}, ())
    assert scales.weigh("m", NOTHING, Expected(0, 0), {}) == {}


def test_a_device_that_cannot_be_read_when_a_load_begins_is_booked_as_predicted() -> None:
    """And its unload waits for nothing."""
    scales, ledger = scales_of(0, None)
    ledger.reserve("m", 100)
    watch = scales.load("onnx", Placement((0,)), 0)
    with watch:
        assert (watch.devices, watch.growths()) == ((), {})
    weights = scales.weigh("m", watch, Expected(100, 80), {})
    assert (ledger.reservations["m"], weights[0].returning_bytes) == (80, None)
    with scales.unload("m", weights) as missing:
        assert missing() == {}


def test_a_growth_beside_others_is_a_runtimes_as_far_as_it_is_in_no_book() -> None:
    """500 more are in use, 300 of them a load's that goes on."""
    scales, ledger = scales_of(0, 0, 0, 500)
    ledger.reserve("loading", 300)
    with scales.load("onnx", Placement((0,)), 0), scales.prepare("torch") as watch:
        grown = watch.grown_at_least()
    assert grown == {0: 200}
    scales.note_runtime("torch", grown)
    assert (ledger.budget_bytes, ledger.taken_out(RUNTIMES)) == (800, 0)


def test_a_growth_that_an_allocator_did_not_count_is_kept_within_the_predicted_peak() -> None:
    """What runs of others took meanwhile is not the model's."""
    scales, ledger = scales_of(0)
    for name, grown in (("first", 100), ("second", 700)):
        ledger.reserve(name, 150)
        watch = scales.load("torch", Placement((0,)), 0)
        scales.weigh(name, watch, Expected(150, 100, is_exact=True), {0: Growth(grown, 0, is_alone=True)})
    assert ledger.reservations["second"] == 150


def test_what_is_lost_is_found_again_only_while_nothing_moves() -> None:
    """Beside a load its reservation says more than what is in use."""
    scales, ledger = scales_of(500)
    scales.forget("gone", {0: 200})
    ledger.reserve("loading", 100)
    scales.look_again(threading.Lock())
    assert ledger.taken_out(LOST) == 200
    ledger.release("loading")
    ledger.take_out(OTHERS, 400)
    scales.look_again(threading.Lock())
    assert ledger.taken_out(LOST) == 100
