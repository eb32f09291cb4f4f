"""The life of many models in random order: one machine, both modes, then the same rules from 8 threads."""

from __future__ import annotations

import random
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from serving.errors import (
    InsufficientMemoryError,
    LoadFailedError,
    ModelConflictError,
    ModelNotFoundError,
    ServingError,
    UnavailableError,
)
from serving.lease import Lease
from tests.state.rig import BUDGET_BYTES, KIB, OVERHEAD_BYTES, SIZES_KIB, Rig

names = st.sampled_from(sorted(SIZES_KIB))


class Machine(RuleBasedStateMachine):
    """A model of what must be: who is loaded, who is in flight, in which order they were last used."""

    is_platform = False

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.rig = Rig(Path(self.folder.name), is_platform=self.is_platform, timeout_s=0.001)
        self.order: list[str] = []  # loaded models, least recently used first
        self.held: list[tuple[str, Lease]] = []

    def size(self, name: str) -> int:
        return SIZES_KIB[name] * KIB + OVERHEAD_BYTES

    def free(self) -> int:
        return BUDGET_BYTES - sum(self.size(name) for name in self.order)

    def busy(self) -> set[str]:
        return {name for name, _ in self.held}

    def expect_load(self, name: str) -> type[ServingError] | None:
        """Say how a load of `name` must end, and bring the model up to date with the victims it costs."""
        if self.size(name) > BUDGET_BYTES:
            return InsufficientMemoryError
        if self.is_platform:
            return None if self.size(name) <= self.free() else InsufficientMemoryError
        idle = [each for each in self.order if each not in self.busy()]
        if self.size(name) > self.free() + sum(map(self.size, idle)):
            return UnavailableError
        while self.size(name) > self.free():
            self.order.remove(idle.pop(0))
        return None

    def use(self, name: str) -> None:
        self.order = [each for each in self.order if each != name] + [name]

    @rule(name=names)
    def load(self, name: str) -> None:
        if name in self.order:
            expected: type[ServingError] | None = ModelConflictError
        else:
            expected = self.expect_load(name)
        self.attempt(expected, lambda: self.rig.manager.load(name, self.rig.url(name)))
        if expected is None:
            self.use(name)

    @rule(name=names)
    def invoke(self, name: str) -> None:
        expected = None
        if name not in self.order:
            expected = ModelNotFoundError if self.is_platform else self.expect_load(name)

        def call() -> None:
            with self.rig.manager.ready(name) as resident:
                assert resident.model is not None

        self.attempt(expected, call)
        if expected is None:
            self.use(name)

    @rule(name=names)
    def begin(self, name: str) -> None:
        """A request starts and stays in flight."""
        if name in self.order:
            lease = self.rig.manager.ready(name)
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
        if name in self.busy():
            return  # it would drain; the threads below do that
        expected = None if name in self.order else ModelNotFoundError
        self.attempt(expected, lambda: self.rig.manager.unload(name))
        self.order = [each for each in self.order if each != name]

    @rule(name=st.sampled_from(["broken", "starved", "missing"]))
    def fail(self, name: str) -> None:
        """A failed load leaves nothing, and the next try gets the first answer again."""
        expected = {"broken": LoadFailedError, "starved": InsufficientMemoryError, "missing": ModelNotFoundError}[name]
        if name != "missing" and self.free() < 10 * KIB + OVERHEAD_BYTES:
            return
        self.attempt(expected, lambda: self.rig.manager.load(name, self.rig.url(name)))

    def attempt(self, expected: type[ServingError] | None, call: object) -> None:
        assert callable(call)
        try:
            call()
        except ServingError as error:
            assert expected is not None, f"unexpected {error!r}"
            assert type(error) is expected, f"expected {expected.__name__}, got {error!r}"
        else:
            assert expected is None, f"expected {expected}"

    @invariant()
    def what_is_loaded_is_what_the_model_says(self) -> None:
        self.rig.check_invariants()
        assert [name for name, _ in self.rig.manager.loaded()] == sorted(self.order)
        assert self.rig.ledger.used_bytes == sum(map(self.size, self.order))
        assert self.rig.journal.read() == dict(self.rig.manager.loaded())

    def teardown(self) -> None:
        while self.held:
            self.end()
        self.rig.check_evictions()
        assert all(each.in_flight == 0 for each in self.rig.manager._by_name.values())
        assert self.rig.manager.close(1.0)
        assert self.rig.ledger.used_bytes == 0
        self.folder.cleanup()


class PlatformMachine(Machine):
    """The same life where the platform decides."""

    is_platform = True


@pytest.mark.parametrize("machine", [Machine, PlatformMachine])
def test_every_order_of_events_keeps_the_invariants(machine: type[Machine]) -> None:
    """Over 2,000 steps a mode: budget kept, no busy victim, exact LRU, only legal moves, nothing left behind."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize("is_platform", [False, True])
def test_eight_threads_keep_the_invariants(tmp_path: Path, is_platform: bool) -> None:
    """2,400 random events from 8 threads: every call is answered, with a deliberate error or none."""
    rig = Rig(tmp_path, is_platform=is_platform, timeout_s=5.0)
    surprises: list[BaseException] = []

    def act(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(300):
            name = chance.choice(sorted(SIZES_KIB))
            verb = chance.choice(("load", "invoke", "invoke", "invoke", "unload", "fail"))
            try:
                if verb == "load":
                    rig.manager.load(name, rig.url(name))
                elif verb == "unload":
                    rig.manager.unload(name)
                elif verb == "fail":
                    rig.manager.load("broken", rig.url("broken"))
                else:
                    with rig.manager.ready(name) as resident:
                        assert resident.model.threads == 1
                rig.check_invariants()
            except (InsufficientMemoryError, LoadFailedError, ModelConflictError, ModelNotFoundError, UnavailableError):
                pass
            except BaseException as error:
                surprises.append(error)
                raise

    threads = [threading.Thread(target=act, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert surprises == []
    assert not any(thread.is_alive() for thread in threads)
    assert all(each.in_flight == 0 for each in rig.manager._by_name.values())
    assert rig.manager.close(5.0)
    assert rig.ledger.used_bytes == 0
