"""The life of many models on two cards in random order, both modes; then the same rules from 8 threads."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from serving.errors import (
    InsufficientMemoryError,
    ModelConflictError,
    ModelNotFoundError,
    ServingError,
    UnavailableError,
)
from serving.lease import Lease
from serving.residents import Limits
from tests.gpu.cards import CONTEXT, UNIT, CardHouse, FakeCards

CARDS = (0, 1)
# Of 24 units, 1 is the driver's and 5 the context's. Each name wants so many, and some want cards of their own choice.
ROOM = 18
SIZES = {"a": 3, "b": 5, "c": 8, "d": 8, "e": 10, "f": 17, "g": 1, "huge": 19, "on0": 6, "both": 4, "plain": 0}
NAMED = {"on0": (0,), "both": (0, 1)}
names = st.sampled_from(sorted(SIZES))


def make_house(folder: Path, *, is_platform: bool, limits: Limits) -> CardHouse:
    """Two cards without headroom: a byte too many is one that the card has not."""
    cards = FakeCards(folder, 2, units=24, headroom_bytes=0)
    house = CardHouse(folder, cards, is_platform=is_platform, limits=limits)
    house.backend.is_counting = True
    house.backend.at_start = CARDS
    for name, units in SIZES.items():
        if units:
            house.put(name, units, *NAMED.get(name, ()))
        else:
            house.make(name)
    house.put("bad", 1)
    house.backend.fails_after.add("bad")
    house.load("first")  # brings the contexts along
    house.manager.unload("first")
    return house


class Machine(RuleBasedStateMachine):
    """A model of what must be: who is loaded, on which cards, who is in flight, in which order they were last used."""

    is_platform = False

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        limits = Limits(0.001, 0.001, 5.0, 4)
        self.house = make_house(Path(self.folder.name), is_platform=self.is_platform, limits=limits)
        self.where: dict[str, tuple[int, ...]] = {}  # loaded models, least recently used first
        self.held: list[tuple[str, Lease]] = []

    def free(self, card: int) -> int:
        return ROOM - sum(SIZES[name] for name, cards in self.where.items() if card in cards)

    def choices(self, name: str) -> list[tuple[int, ...]]:
        """Where a model can be, the card with the most room first."""
        if not SIZES[name]:
            return [()]
        if name in NAMED:
            return [NAMED[name]]
        return [(card,) for card in sorted(CARDS, key=lambda each: -self.free(each))]

    def victims(self, name: str, cards: tuple[int, ...]) -> list[str] | None:
        """Who must go for a model to be there, None where all that may does not suffice."""
        busy = {each for each, _ in self.held}
        gone: list[str] = []
        for card in cards:
            idle = [each for each, on in self.where.items() if card in on and each not in busy | set(gone)]
            free = self.free(card) + sum(SIZES[each] for each in gone if card in self.where[each])
            while free < SIZES[name]:
                if not idle:
                    return None
                gone.append(idle.pop(0))
                free += SIZES[gone[-1]]
        return gone

    def expect_load(self, name: str) -> type[ServingError] | None:
        """Say how a load must end, and bring the model up to date with where it goes and the victims it costs."""
        if SIZES[name] > ROOM:
            return InsufficientMemoryError
        costs = [(cards, self.victims(name, cards)) for cards in self.choices(name)]
        fitting = [(cards, gone) for cards, gone in costs if gone == []]
        if self.is_platform and not fitting:
            return InsufficientMemoryError
        for cards, gone in fitting or costs:
            if gone is not None:
                for each in gone:
                    del self.where[each]
                self.where[name] = cards
                return None
        return UnavailableError

    def use(self, name: str) -> None:
        self.where[name] = self.where.pop(name)

    @rule(name=names)
    def load(self, name: str) -> None:
        expected = ModelConflictError if name in self.where else self.expect_load(name)
        self.attempt(expected, lambda: self.house.manager.load(name, str(self.house.root / name)))
        if expected is None:
            self.use(name)

    @rule(name=names)
    def invoke(self, name: str) -> None:
        expected = None
        if name not in self.where:
            expected = ModelNotFoundError if self.is_platform else self.expect_load(name)
        self.attempt(expected, lambda: self.house.use(name))
        if expected is None:
            self.use(name)

    @rule(name=names)
    def begin(self, name: str) -> None:
        """A request starts and stays in flight."""
        if name in self.where:
            lease = self.house.manager.ready(name)
            lease.__enter__()
            self.held.append((name, lease))

    @rule()
    def end(self) -> None:
        if self.held:
            name, lease = self.held.pop(0)
            lease.__exit__(None, None, None)
            self.use(name)

    @rule(name=names)
    def unload(self, name: str) -> None:
        if name in {each for each, _ in self.held}:
            return  # it would drain; the threads below do that
        expected = None if name in self.where else ModelNotFoundError
        self.attempt(expected, lambda: self.house.manager.unload(name))
        self.where.pop(name, None)

    @rule()
    def fail(self) -> None:
        """A load that takes its bytes and fails leaves none of them."""
        if max(map(self.free, CARDS)) >= 1:
            self.attempt(InsufficientMemoryError, lambda: self.house.manager.load("bad", str(self.house.root / "bad")))

    def attempt(self, expected: type[ServingError] | None, call: Callable[[], object]) -> None:
        try:
            call()
        except ServingError as error:
            assert expected is not None, f"unexpected {error!r}"
            assert type(error) is expected, f"expected {expected.__name__}, got {error!r}"
        else:
            assert expected is None, f"expected {expected}"

    @invariant()
    def every_card_holds_what_its_book_says(self) -> None:
        house = self.house
        assert [name for name, _ in house.manager.loaded()] == sorted(self.where)
        for card in CARDS:
            expected = {name: SIZES[name] for name, cards in self.where.items() if card in cards}
            assert house.units(card) == expected
            assert isinstance(house.cards, FakeCards)
            assert house.cards.held_bytes(card) == CONTEXT + UNIT * sum(expected.values())
            assert house.scales.ledgers[card].free_bytes == UNIT * self.free(card) >= 0
            assert (house.context_units(card), house.lost_units(card)) == (5, 0)
        assert house.backend.overflows == []

    def teardown(self) -> None:
        while self.held:
            self.end()
        assert self.house.manager.close(1.0)
        assert [self.house.units(card) for card in CARDS] == [{}, {}]
        self.folder.cleanup()


class PlatformMachine(Machine):
    """The same life where the platform decides."""

    is_platform = True


@pytest.mark.parametrize("machine", [Machine, PlatformMachine])
def test_every_order_of_events_keeps_every_cards_budget(machine: type[Machine]) -> None:
    """Over 1,000 steps a mode: exact books, exact LRU on the card, most room first, nothing left behind."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize("is_platform", [False, True])
def test_eight_threads_never_take_a_byte_too_many(tmp_path: Path, is_platform: bool) -> None:
    """Bytes come back late all the time, and nobody is promised them before; every call is answered."""
    house = make_house(tmp_path, is_platform=is_platform, limits=Limits(5.0, 5.0, 5.0, 4))
    assert isinstance(house.cards, FakeCards)
    cards, is_over, surprises = house.cards, threading.Event(), []
    cards.is_kept.set()

    def reap() -> None:
        while not is_over.wait(0.002):
            cards.reap()

    def act(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            name = chance.choice(sorted(SIZES))
            try:
                if (verb := chance.choice(("load", "invoke", "invoke", "unload", "fail"))) == "load":
                    house.manager.load(name, str(house.root / name))
                elif verb == "unload":
                    house.manager.unload(name)
                elif verb == "fail":
                    house.manager.load("bad", str(house.root / "bad"))
                else:
                    house.use(name)
                for ledger in house.scales.ledgers.values():
                    assert ledger.used_bytes <= ROOM * UNIT
            except (InsufficientMemoryError, ModelConflictError, ModelNotFoundError, UnavailableError):
                pass
            except BaseException as error:
                surprises.append(error)
                raise

    reaper = threading.Thread(target=reap)
    threads = [threading.Thread(target=act, args=(seed,)) for seed in range(8)]
    for thread in (reaper, *threads):
        thread.start()
    for thread in threads:
        thread.join(60)
    is_over.set()
    reaper.join(5)
    cards.let_go()

    assert (surprises, house.backend.overflows) == ([], [])
    assert not any(thread.is_alive() for thread in threads)
    assert house.metrics.value("DeviceGiveBackTimeouts") == 0
    assert house.manager.close(5.0)
    for card in CARDS:
        assert (house.units(card), cards.held_bytes(card)) == ({}, CONTEXT)
