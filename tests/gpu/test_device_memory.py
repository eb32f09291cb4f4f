"""A device's memory: reserved before it is used, measured afterwards, and back before an unload is answered."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from serving.errors import InsufficientMemoryError, InvalidArtifactError, UnavailableError
from serving.ledger import Ledger
from serving.residents import Limits
from serving.scales import Weight
from tests.gpu.cards import CONTEXT, UNIT, CardHouse, Cards, FakeCards
from tests.unit.house import KIB, OVERHEAD_BYTES, others
from tests.waiting import until

NEAR = pytest.approx
# What is rounded on a real GPU.
LITTLE = 0.4


def ready(house: CardHouse) -> int:
    """Have the context made and told apart; return how many whole units there is room for."""
    house.bring("warm", 1)
    house.manager.unload("warm")
    return house.scales.ledgers[0].free_bytes // UNIT


# ---- capacity, reservations, 507 -------------------------------------------------------------------------------------


def test_the_budget_is_the_capacity_without_headroom_and_what_was_in_use(tmp_path: Path) -> None:
    """32 units, a quarter left for batches, one in use by the driver."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, 1, 32, reserved_bytes=UNIT))
    assert house.scales.ledgers[0].budget_bytes == 32 * UNIT - 8 * UNIT - UNIT


def test_on_the_platform_a_load_fits_or_is_refused(tmp_path: Path, cards: Cards) -> None:
    """As many as there is room for; the next is 507 with both figures, and leaves no trace in any book."""
    house = CardHouse(tmp_path, cards, is_platform=True)
    count = (ready(house) - 1) // 3
    for number in range(count):
        house.bring(f"m{number}", 3)
    before = (house.ledger.used_bytes, house.units())

    with pytest.raises(
        InsufficientMemoryError,
        match=r"'more' needs 256\.0 MiB of cuda:0 while it loads and the budget of .* or lower WHARF_DEVICE_HEADROOM",
    ):
        house.bring("more", 4)
    assert (house.ledger.used_bytes, house.units()) == before
    assert len(house.names()) == count >= 4
    assert house.backend.overflows == []
    house.manager.unload("m0")
    house.bring("again", 3)


def test_what_is_larger_than_the_whole_device_is_refused_in_both_modes(tmp_path: Path, cards: Cards) -> None:
    """Whoever is idle."""
    house = CardHouse(tmp_path, cards)
    house.bring("small", 1)
    with pytest.raises(InsufficientMemoryError, match="whole budget is .*: lower WHARF_DEVICE_HEADROOM or use"):
        house.bring("huge", 40)
    assert house.names() == ["small"]


@pytest.mark.parametrize("is_platform", [False, True])
def test_a_load_never_holds_half(tmp_path: Path, is_platform: bool) -> None:
    """No room in memory: nothing on the device either; and the other way round."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, context_bytes=0), is_platform=is_platform, budget_bytes=1000 * KIB)
    house.bring("a", 20)
    host_bytes = house.ledger.used_bytes
    with house.manager.ready("a"):
        house.manager._limits = Limits(load_timeout_s=0.05)
        with pytest.raises((InsufficientMemoryError, UnavailableError)):
            house.bring("b", 5)  # the device is full
        assert (house.units(), house.ledger.used_bytes) == ({"a": 20}, host_bytes)
        with pytest.raises((InsufficientMemoryError, UnavailableError)):
            house.manager.load("c", house.put("c", 1, bytes=980 * KIB))  # memory is
        assert (house.units(), house.ledger.used_bytes) == ({"a": 20}, host_bytes)


def test_a_model_without_bytes_on_a_device_is_in_no_devices_book(tmp_path: Path) -> None:
    """Nor is it evicted for one."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, context_bytes=0))
    house.load("plain")
    house.bring("a", 20)
    house.bring("b", 20)
    assert house.names() == ["b", "plain"]
    assert house.units() == {"b": 20}


# ---- eviction --------------------------------------------------------------------------------------------------------


def test_idle_models_make_room_least_recently_used_first(tmp_path: Path, cards: Cards) -> None:
    """No more of them than needed, and never one that is in flight."""
    house = CardHouse(tmp_path, cards)
    each = (ready(house) - 1) // 4
    for name in ("busy", "old", "middle", "new"):
        house.bring(name, each)
    for name in ("busy", "old", "new", "middle"):
        house.use(name)
    with house.manager.ready("busy"):
        house.bring("x", 2 * each)
    assert [victim.name for victim in house.evicted] == ["old", "new"]
    assert house.names() == ["busy", "middle", "x"]
    assert house.backend.overflows == []


def test_who_holds_nothing_on_the_device_stays_though_it_is_older(tmp_path: Path) -> None:
    """Two devices: room on the one is not made on the other."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, 2, context_bytes=0))
    house.bring("elsewhere", 10, 1)
    house.bring("older", 10, 0)
    house.bring("newer", 10, 0)
    house.bring("x", 10, 0)
    assert [victim.name for victim in house.evicted] == ["older"]
    assert house.names() == ["elsewhere", "newer", "x"]


def test_room_in_memory_and_on_a_device_is_made_at_once(tmp_path: Path) -> None:
    """Who goes for the device counts for memory; what is missing then is made by the oldest of the others."""
    one = 100 * KIB + OVERHEAD_BYTES
    house = CardHouse(tmp_path, FakeCards(tmp_path, context_bytes=0), budget_bytes=3 * one)
    house.load("oldest", bytes=100 * KIB)
    house.load("old", bytes=100 * KIB)
    house.manager.load("on", house.put("on", 20, bytes=100 * KIB))
    house.manager.load("x", house.put("x", 20, bytes=200 * KIB))
    assert [victim.name for victim in house.evicted] == ["on", "oldest"]
    assert house.names() == ["old", "x"]


def test_a_load_waits_for_a_busy_device_and_others_pass_it(tmp_path: Path) -> None:
    """Who wants memory alone does not stand in the line for the device; who wants the device does."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, context_bytes=0))
    house.bring("busy", 20)
    house.put("large", 20)
    house.put("small", 1)
    house.make("plain")
    with others() as pool:
        with house.manager.ready("busy"):
            large = pool.submit(house.use, "large")
            until(lambda: house.manager._room.queue == 1)
            small = pool.submit(house.use, "small")
            until(lambda: house.manager._room.queue == 2)
            pool.submit(house.use, "plain").result(5)
            assert not small.done()
        large.result(5)
        small.result(5)
    assert house.backend.overflows == []


# ---- measured --------------------------------------------------------------------------------------------------------


def test_a_reservation_becomes_what_was_measured(tmp_path: Path, cards: Cards) -> None:
    """More than was predicted, or less; far less is not believed."""
    house = CardHouse(tmp_path, cards)
    ready(house)
    house.bring("first", 2, predicted=2)
    house.bring("more", 4, predicted=2)
    house.bring("less", 7, predicted=8)
    house.bring("none", 0, predicted=4)
    units = house.units()
    assert units["more"] == NEAR(4, abs=LITTLE)
    assert units["less"] == NEAR(7, abs=LITTLE)
    assert units["none"] == NEAR(3, abs=LITTLE)


def test_what_a_models_allocator_counted_goes_before_a_prediction(tmp_path: Path, cards: Cards) -> None:
    """So the context is known with the first model."""
    house = CardHouse(tmp_path, cards)
    house.backend.is_counting = True
    house.bring("a", 2, predicted=6)
    assert house.units()["a"] == NEAR(2, abs=LITTLE)
    if isinstance(cards, FakeCards):
        assert house.context_units() == NEAR(CONTEXT / UNIT)


def test_a_context_is_told_apart_from_the_models(tmp_path: Path) -> None:
    """a + b*n: after the second load it is known, and the first model is booked with the rest of what grew."""
    house = CardHouse(tmp_path, FakeCards(tmp_path))
    house.bring("m1", 3, predicted=2)
    assert house.context_units() == NEAR(6)  # of 8 units that grew, 2 were expected
    house.bring("m2", 3, predicted=2)
    assert house.context_units() == NEAR(5)
    assert house.units() == {"m1": NEAR(3), "m2": NEAR(3)}
    house.manager.unload("m1")
    house.manager.unload("m2")
    assert house.context_units() == NEAR(5)
    assert (house.lost_units(), house.units()) == (0, {})


def test_a_guess_of_a_context_ends_with_the_models(tmp_path: Path) -> None:
    """A card without contexts and a model larger than predicted: with nothing there, nothing is taken out."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, 1, 32, context_bytes=0, headroom_bytes=0), is_platform=True)
    house.bring("m1", 16, predicted=6)
    assert (house.context_units(), house.units()) == (10, {"m1": 6})
    house.manager.unload("m1")
    house.bring("m2", 31)
    assert (house.context_units(), house.units()) == (0, {"m2": 31})


def test_a_guess_of_a_context_is_no_more_than_what_is_in_use(tmp_path: Path) -> None:
    """Two loads bring it side by side while another runtime's batch holds bytes; later they are back."""
    cards = FakeCards(tmp_path, 1, 32, headroom_bytes=0)
    house = CardHouse(tmp_path, cards, is_platform=True)
    urls = {name: house.put(name, 2) for name in ("a", "b")}
    gates = [house.backend.hold(name) for name in urls]
    with others() as pool:
        loads = [pool.submit(house.manager.load, *each) for each in urls.items()]
        for gate in gates:
            assert gate.reached.wait(5)
        batch_ends = cards.take(0, 6 * UNIT)
        for gate in gates:
            gate.go()
        for load in loads:
            load.result(5)
    assert house.context_units() == 11
    batch_ends()
    house.bring("c", 1)
    assert (house.context_units(), house.units()) == (5, {"a": 2, "b": 2, "c": 1})
    for name in ("a", "b", "c"):
        house.manager.unload(name)
    house.bring("d", 26)
    assert (house.context_units(), house.units()) == (5, {"d": 26})


def test_models_that_are_processes_leave_no_context(tmp_path: Path) -> None:
    """It is in what they hold, and goes with them."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, context_bytes=0))
    house.backend.is_apart = True
    house.bring("m1", 7, predicted=2)
    house.bring("m2", 7, predicted=2)
    assert (house.context_units(), house.units()) == (0, {"m1": 7, "m2": 7})


def test_a_model_that_counts_its_bytes_keeps_them_whatever_later_loads_show(tmp_path: Path) -> None:
    """A cache that was warm is trimmed before the second load: its growth is hidden, and the first is no context."""
    cards = FakeCards(tmp_path)
    house = CardHouse(tmp_path, cards, is_platform=True)
    house.backend.is_counting = True
    house.bring("m0", 5)
    caches = cards.take(0, 3 * UNIT)
    url = house.put("m1", 1)
    gate = house.backend.hold("m1")
    with others() as pool:
        load = pool.submit(house.manager.load, "m1", url)
        assert gate.reached.wait(5)
        caches()
        gate.go()
        load.result(5)
    assert (house.context_units(), house.units()) == (5, {"m0": 5, "m1": 1})
    cards.is_kept.set()
    cards.was_given.clear()
    with others() as pool:
        unloading = pool.submit(house.manager.unload, "m1")
        assert cards.was_given.wait(5)
        assert not unloading.done()
        cards.let_go()
        unloading.result(5)
    assert (house.context_units(), house.lost_units(), house.units()) == (5, 0, {"m0": 5})


def test_a_real_or_fake_context_stays_when_its_model_goes(tmp_path: Path, cards: Cards) -> None:
    """It is no loss: nothing is reported, and what is reserved and taken out is what is in use."""
    house = CardHouse(tmp_path, cards, give_back_s=2)
    used_bytes = cards.meter.used_bytes(0) or 0
    for name in ("m1", "m2", "m3"):
        house.bring(name, 3)
    house.manager.unload("m2")
    ledger = house.scales.ledgers[0]
    grown = (cards.meter.used_bytes(0) or 0) - used_bytes
    assert house.lost_units() == 0
    assert (ledger.used_bytes + house.context_units() * UNIT) / UNIT == NEAR(grown / UNIT, abs=2 * LITTLE)
    assert house.metrics.value("DeviceGiveBackTimeouts") == 0


def test_what_a_runtimes_start_takes_is_nobodys_model(tmp_path: Path) -> None:
    """A context that is made before the first model is measured before it."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, 2))
    house.backend.at_start = (0, 1)
    house.bring("a", 3)
    assert (house.context_units(0), house.context_units(1)) == (5, 5)
    assert house.units(0) | house.units(1) == {"a": 3}


def test_loads_side_by_side_on_one_device_are_booked_as_predicted(tmp_path: Path) -> None:
    """The growth is both of theirs."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, context_bytes=0))
    urls = {name: house.put(name, 2, predicted=3) for name in ("a", "b")}
    gates = [house.backend.hold(name) for name in urls]
    with others() as pool:
        loads = [pool.submit(house.manager.load, *each) for each in urls.items()]
        for gate in gates:
            assert gate.reached.wait(5)
        for gate in gates:
            gate.go()
        for load in loads:
            load.result(5)
    assert house.units() == {"a": 3, "b": 3}
    for name in urls:
        house.manager.unload(name)
    assert (house.units(), house.lost_units()) == ({}, 0)


def test_a_context_that_two_loads_bring_together_is_in_the_books(tmp_path: Path) -> None:
    """Whose it was is not known; that it is nobody's model is."""
    house = CardHouse(tmp_path, FakeCards(tmp_path))
    urls = {name: house.put(name, 2) for name in ("a", "b")}
    gates = [house.backend.hold(name) for name in urls]
    with others() as pool:
        loads = [pool.submit(house.manager.load, *each) for each in urls.items()]
        for gate in gates:
            assert gate.reached.wait(5)
        for gate in gates:
            gate.go()
        for load in loads:
            load.result(5)
    assert (house.units(), house.context_units()) == ({"a": 2, "b": 2}, 5)


def test_a_correction_past_the_budget_makes_idle_models_of_that_device_go(tmp_path: Path) -> None:
    """What is in use is in use; the newcomer stays."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, 2, context_bytes=0))
    house.bring("elsewhere", 1, 1)
    house.bring("old", 10, 0)
    house.bring("x", 14, 0, predicted=10)
    assert house.names() == ["elsewhere", "x"]


# ---- back again ------------------------------------------------------------------------------------------------------


def test_an_unload_gives_the_bytes_back_before_it_is_answered(tmp_path: Path, cards: Cards) -> None:
    """As the device has it."""
    house = CardHouse(tmp_path, cards)
    ready(house)
    before = cards.meter.used_bytes(0) or 0
    house.bring("a", 4)
    house.manager.unload("a")
    assert ((cards.meter.used_bytes(0) or 0) - before) / UNIT == NEAR(0, abs=LITTLE)
    assert (house.units(), house.lost_units()) == ({}, 0)


def test_bytes_that_come_back_late_are_waited_for(tmp_path: Path) -> None:
    """The name and its reservation are there until then: nobody is given what is not free."""
    cards = FakeCards(tmp_path)
    house = CardHouse(tmp_path, cards, is_platform=True, give_back_s=30)
    ready(house)
    house.bring("a", 10)
    cards.is_kept.set()
    cards.was_given.clear()
    with others() as pool:
        unloading = pool.submit(house.manager.unload, "a")
        assert cards.was_given.wait(5)
        with pytest.raises(InsufficientMemoryError):
            house.bring("b", 15)
        assert not unloading.done()
        assert house.units() == {"a": 10}
        cards.let_go()
        unloading.result(5)
    assert (house.units(), house.lost_units()) == ({}, 0)
    house.bring("b", 15)


def test_bytes_that_never_come_back_are_reported_and_out_of_the_budget(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The wait is bounded; when they are found back at last, they are room again."""
    cards = FakeCards(tmp_path)
    house = CardHouse(tmp_path, cards, is_platform=True, give_back_s=0.05)
    room = ready(house)
    house.bring("a", 10)
    cards.is_kept.set()
    house.manager.unload("a")
    assert house.metrics.value("DeviceGiveBackTimeouts") == 1
    assert "event=device_bytes_not_back model=a device=cuda:0 bytes=671088640" in caplog.text
    assert (house.names(), house.units(), house.lost_units()) == ([], {}, 10)
    with pytest.raises(InsufficientMemoryError):
        house.bring("b", room - 9)
    cards.let_go()
    house.bring("b", room - 9)
    assert house.lost_units() == 0


def test_unloads_of_one_device_go_one_after_the_other(tmp_path: Path) -> None:
    """What comes back is then one model's; a load that would fit beside waits for its turn."""
    cards = FakeCards(tmp_path)
    house = CardHouse(tmp_path, cards, give_back_s=30)
    ready(house)
    for name in ("a", "b", "stays"):
        house.bring(name, 4)
    cards.is_kept.set()
    cards.was_given.clear()
    with others() as pool:
        first = pool.submit(house.manager.unload, "a")
        assert cards.was_given.wait(5)
        second = pool.submit(house.manager.unload, "b")
        until(lambda: house.names() == ["stays"])
        third = pool.submit(house.bring, "small", 1)
        until(lambda: "small" in house.units())
        assert (house.backend.closed, house.backend.loads["small"]) == (["warm", "a"], 0)
        cards.let_go()
        for each in (first, second, third):
            each.result(5)
    assert (house.units(), house.lost_units()) == ({"stays": 4, "small": 1}, 0)


def test_a_load_that_hangs_does_not_hold_up_an_unload_for_ever(tmp_path: Path) -> None:
    """Past the limit it goes beside the load; what the load has reserved may be in use by then."""
    house = CardHouse(tmp_path, FakeCards(tmp_path), give_back_s=0.05)
    ready(house)
    house.bring("a", 4)
    url = house.put("slow", 4)
    gate = house.backend.hold("slow")
    with others() as pool:
        load = pool.submit(house.manager.load, "slow", url)
        assert gate.reached.wait(5)
        house.manager.unload("a")
        assert house.metrics.value("DeviceGiveBackTimeouts") == 0
        gate.go()
        load.result(5)
    assert (house.units(), house.lost_units()) == ({"slow": 4}, 0)


def test_a_load_waits_for_an_unload_no_longer_than_its_caller(tmp_path: Path) -> None:
    """503; nothing is left of it."""
    cards = FakeCards(tmp_path)
    house = CardHouse(tmp_path, cards, give_back_s=30)
    ready(house)
    house.bring("a", 4)
    cards.is_kept.set()
    cards.was_given.clear()
    house.manager._limits = Limits(load_timeout_s=0.05)
    with others() as pool:
        unloading = pool.submit(house.manager.unload, "a")
        assert cards.was_given.wait(5)
        with pytest.raises(UnavailableError, match="'b' waits for an unload on its device"):
            house.bring("b", 1)
        assert house.units() == {"a": 4}
        cards.let_go()
        unloading.result(5)


def test_the_end_of_the_server_waits_for_no_device(tmp_path: Path) -> None:
    """All of it comes back with the process."""
    cards = FakeCards(tmp_path)
    house = CardHouse(tmp_path, cards, give_back_s=600)
    house.bring("a", 4)
    cards.is_kept.set()
    assert house.manager.close(10)
    assert (house.lost_units(), house.metrics.value("DeviceGiveBackTimeouts")) == (0, 0)


def test_the_end_of_the_server_waits_for_no_load(tmp_path: Path) -> None:
    """One that hangs holds its turn: nobody waits for that."""
    house = CardHouse(tmp_path, FakeCards(tmp_path), give_back_s=600)
    for name in ("a", "b"):
        house.bring(name, 1)
    gate = house.backend.hold("slow")
    url = house.put("slow", 1)
    with others() as pool:
        load = pool.submit(house.manager.load, "slow", url)
        assert gate.reached.wait(5)
        assert pool.submit(house.manager.close, 10).result(20)
        gate.go()
        load.result(5)


def test_a_runtime_starts_beside_an_unload_that_hangs(tmp_path: Path) -> None:
    """One for the CPU, say, on every device: it waits no longer than an unload may."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, 2), give_back_s=0.05)
    has_begun, ends = threading.Event(), threading.Event()

    def unload() -> None:
        with house.scales.unload("x", {0: Weight(1, 1)}):
            has_begun.set()
            assert ends.wait(30)

    with others() as pool:
        unloading = pool.submit(unload)
        assert has_begun.wait(5)
        pool.submit(house.load, "plain").result(5)
        ends.set()
        unloading.result(5)


def test_a_load_that_fails_leaves_a_context_and_no_more(tmp_path: Path) -> None:
    """Its own bytes are free for the next one."""
    house = CardHouse(tmp_path, FakeCards(tmp_path))
    house.backend.fails_after.add("bad")
    with pytest.raises(InsufficientMemoryError, match="was told"):
        house.bring("bad", 4)
    assert (house.context_units(), house.units(), house.lost_units()) == (5, {}, 0)
    house.bring("good", 4)
    assert (house.context_units(), house.units()) == (5, {"good": 4})


def test_what_a_failed_load_leaks_is_out_of_the_budget(tmp_path: Path) -> None:
    """Nobody is promised it, until it is back."""
    cards = FakeCards(tmp_path)
    house = CardHouse(tmp_path, cards, give_back_s=0.05)
    room = ready(house)
    house.backend.fails_after.add("bad")
    cards.is_kept.set()
    with pytest.raises(InsufficientMemoryError, match="was told"):
        house.bring("bad", 4)
    assert (house.lost_units(), house.scales.ledgers[0].free_bytes // UNIT) == (4, room - 4)
    cards.let_go()
    house.bring("good", room)
    assert house.lost_units() == 0


def test_a_load_that_fails_beside_a_slow_one_loses_nothing_of_that(tmp_path: Path) -> None:
    """What is reserved for the slow one may be in use by then."""
    cards = FakeCards(tmp_path, 1, 64)
    house = CardHouse(tmp_path, cards, is_platform=True, give_back_s=0.05)
    ready(house)
    house.backend.fails_after.add("bad")
    urls = {name: house.put(name, 20) for name in ("slow", "bad")}
    gates = {name: house.backend.hold(name) for name in urls}
    with others() as pool:
        slow, bad = (pool.submit(house.manager.load, *each) for each in urls.items())
        for gate in gates.values():
            assert gate.reached.wait(5)
        held = cards.take(0, 20 * UNIT)  # the slow one has its bytes and is not done
        gates["bad"].go()
        with pytest.raises(InsufficientMemoryError, match="was told"):
            bad.result(5)
        assert (house.lost_units(), house.units()) == (0, {"slow": 20})
        held()
        gates["slow"].go()
        slow.result(5)
    assert (house.lost_units(), house.units()) == (0, {"slow": 20})


def test_a_load_that_fails_loses_nothing_of_batches(tmp_path: Path) -> None:
    """Their bytes are in no book, and were there before; another load came and stayed meanwhile."""
    cards = FakeCards(tmp_path)
    house = CardHouse(tmp_path, cards, is_platform=True, give_back_s=0.05)
    ready(house)
    cards.take(0, 2 * UNIT)
    house.backend.fails_after.add("bad")
    url = house.put("bad", 3)
    gate = house.backend.hold("bad")
    with others() as pool:
        bad = pool.submit(house.manager.load, "bad", url)
        assert gate.reached.wait(5)
        house.bring("quick", 3)
        gate.go()
        with pytest.raises(InsufficientMemoryError, match="was told"):
            bad.result(5)
    assert (house.lost_units(), house.units()) == (0, {"quick": 3})


def test_two_first_loads_that_fail_leave_one_context(tmp_path: Path) -> None:
    """The second finds in the books what the first has left."""
    house = CardHouse(tmp_path, FakeCards(tmp_path))
    house.backend.fails_after |= {"bad", "worse"}
    urls = {name: house.put(name, 2) for name in ("bad", "worse")}
    gates = [house.backend.hold(name) for name in urls]
    with others() as pool:
        loads = [pool.submit(house.manager.load, *each) for each in urls.items()]
        for gate in gates:
            assert gate.reached.wait(5)
        for gate in gates:
            gate.go()
        for load in loads:
            with pytest.raises(InsufficientMemoryError, match="was told"):
                load.result(5)
    assert (house.context_units(), house.lost_units(), house.units()) == (5, 0, {})


# ---- several devices -------------------------------------------------------------------------------------------------


def test_the_device_with_the_most_room_is_chosen(tmp_path: Path) -> None:
    """Models spread out; where none has room, the oldest of the roomiest go."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, 2, context_bytes=0))
    for name, units in (("a", 10), ("b", 6), ("c", 6), ("d", 8)):
        house.bring(name, units)
    assert (house.units(0), house.units(1)) == ({"a": 10, "d": 8}, {"b": 6, "c": 6})
    house.bring("x", 13)
    assert (house.units(0), house.units(1)) == ({"a": 10, "d": 8}, {"c": 6, "x": 13})


def test_a_model_is_put_where_its_configuration_says(tmp_path: Path) -> None:
    """On all that it names, with as many bytes on each."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, 3, context_bytes=0))
    house.bring("both", 4, 0, 2)
    assert [house.units(index) for index in range(3)] == [{"both": 4}, {}, {"both": 4}]
    house.manager.unload("both")
    assert [house.units(index) for index in range(3)] == [{}, {}, {}]


def test_a_device_that_is_not_there_is_said(tmp_path: Path) -> None:
    """With those that are."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, 2))
    with pytest.raises(InvalidArtifactError, match=r"'a' is to run on device 7 and there are \[0, 1\]"):
        house.bring("a", 1, 7)
    assert house.names() == []


# ---- readings --------------------------------------------------------------------------------------------------------


def test_gauges_show_budgets_reservations_contexts_and_what_a_model_holds(tmp_path: Path) -> None:
    """By device, and by model and device."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, 2))
    house.metrics.gauges = house.manager.gauges
    house.backend.is_counting = True
    house.bring("a", 2)
    text = house.metrics.render().decode()
    assert 'ModelDeviceBytes{device="cuda:0",model="a"} 1.34217728e+08' in text
    assert 'DeviceContextBytes{device="cuda:0"} 3.3554432e+08' in text
    assert 'DeviceContextBytes{device="cuda:1"} 0.0' in text
    assert 'DeviceReservedBytes{device="cuda:1"} 0.0' in text
    assert 'DeviceLostBytes{device="cuda:0"} 0.0' in text
    assert "DeviceBudgetBytes" in text
    assert "DeviceGiveBackTimeouts_total 0.0" in text


def test_a_machine_without_devices_has_no_metrics_of_them(tmp_path: Path) -> None:
    """Not zeros, which somebody could take for a full or an empty one."""
    house = CardHouse(tmp_path, FakeCards(tmp_path, 0))
    house.metrics.gauges = house.manager.gauges
    house.bring("a", 2)  # unaccounted: the backend alone knows of devices
    text = house.metrics.render().decode()
    assert "DeviceBudgetBytes" not in text
    assert "ModelDeviceBytes" not in text


def test_a_device_that_is_lost_is_not_waited_for(tmp_path: Path) -> None:
    """Its memory is gone with it."""
    cards = FakeCards(tmp_path)
    house = CardHouse(tmp_path, cards, give_back_s=600)
    house.bring("a", 2)
    (cards.folder / "0" / "card.json").unlink()
    house.manager.unload("a")
    assert house.names() == []
    assert isinstance(house.scales.ledgers[0], Ledger)
