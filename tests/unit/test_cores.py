"""The core budget."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.cores import CoreBudget
from serving.errors import UnavailableError
from tests.waiting import until


def test_never_more_threads_run_than_there_are_cores() -> None:
    """Ten runs of one and two threads on two cores: the sum of running threads stays at two."""
    budget, lock, running, highest = CoreBudget(2), threading.Lock(), 0, 0
    barrier = threading.Barrier(10)

    def run(threads: int) -> None:
        nonlocal running, highest
        barrier.wait()
        for _ in range(200):
            with budget.lease(threads, 10):
                with lock:
                    running += threads
                    highest = max(highest, running)
                with lock:
                    running -= threads

    workers = [threading.Thread(target=run, args=(1 + number % 2,)) for number in range(10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert (running, highest <= 2, budget.waiting) == (0, True, 0)


def test_a_run_wider_than_the_budget_takes_all_of_it() -> None:
    """A model with 8 threads still runs on one core."""
    budget = CoreBudget(1)
    with budget.lease(8, 1):
        assert budget.waiting == 0


def test_a_run_of_no_threads_holds_nothing_and_never_waits() -> None:
    """It computes on a device: a core that is taken, and a line before it, are nothing to it."""
    budget = CoreBudget(1)
    with budget.lease(0, 0), budget.lease(1, 1), budget.lease(0, 0):
        assert budget.waiting == 0
    with budget.lease(1, 0):
        pass


def test_a_wait_past_its_limit_is_a_503_and_leaves_the_queue() -> None:
    """Nothing hangs, nothing is lost."""
    budget = CoreBudget(1)
    with budget.lease(1, 1), pytest.raises(UnavailableError, match="No CPU core was free"), budget.lease(1, 0.01):
        pass

    with budget.lease(1, 0.01):
        assert budget.waiting == 0


def test_a_wide_run_is_not_starved_by_narrow_ones() -> None:
    """First come, first served: a narrow run behind a wide one waits, although a core is free."""
    budget = CoreBudget(2)
    with budget.lease(1, 1):
        wide = threading.Thread(target=lambda: _run(budget, 2))
        wide.start()
        while not budget.waiting:
            pass
        with pytest.raises(UnavailableError), budget.lease(1, 0.01):
            pass
    wide.join()


def _run(budget: CoreBudget, threads: int) -> None:
    with budget.lease(threads, 10):
        pass


class Shop:
    """One core, a clock that only runs move, and the order in which runs got the core."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.now_s = 0.0
        self.order: list[str] = []
        self.budget = CoreBudget(1, clock=lambda: self.now_s)
        self._pool = pool

    def queue(self, flow: str, cost_s: float = 1, gate: threading.Event | None = None) -> None:
        """Have a run of `flow` wait behind those that wait."""
        before = self.budget.waiting
        self._pool.submit(self._run, flow, cost_s, gate)
        until(lambda: self.budget.waiting > before)

    def _run(self, flow: str, cost_s: float, gate: threading.Event | None) -> None:
        with self.budget.lease(1, 10, flow):
            self.order.append(flow)
            assert gate is None or gate.wait(10)
            self.now_s += cost_s


def test_the_flow_that_used_the_least_goes_first() -> None:
    """What was used before the others came to wait counts, where somebody waited meanwhile."""
    with ThreadPoolExecutor(4) as pool:
        shop = Shop(pool)
        with shop.budget.lease(1, 1, "hot"):
            for flow in ("hot", "hot", "cold", "cold"):
                shop.queue(flow)
            shop.now_s += 5

    assert shop.order == ["cold", "cold", "hot", "hot"]


def test_use_is_time_and_not_the_number_of_runs() -> None:
    """A flow of long runs gets as much time as one of short runs, and so fewer of them."""
    with ThreadPoolExecutor(8) as pool:
        shop = Shop(pool)
        with shop.budget.lease(1, 1):
            for _ in range(2):
                shop.queue("long", 3)
            for _ in range(6):
                shop.queue("short", 1)

    assert shop.order == ["long", *["short"] * 3, "long", *["short"] * 3]


def test_a_newcomer_starts_at_the_least_of_those_that_wait() -> None:
    """Idleness earns nothing: it takes turns, and does not first catch up."""
    gate = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        shop = Shop(pool)
        with shop.budget.lease(1, 1, "old"):
            shop.queue("old", 1, gate)
            for _ in range(3):
                shop.queue("old")
            shop.now_s += 10
        until(lambda: shop.order)
        for _ in range(3):
            shop.queue("new")
        gate.set()

    assert shop.order == ["old", "new", "old", "new", "old", "new", "old"]


def test_a_flow_that_was_idle_comes_back_without_credit() -> None:
    """It used little long ago, and takes turns now."""
    gate = threading.Event()
    with ThreadPoolExecutor(10) as pool:
        shop = Shop(pool)
        with shop.budget.lease(1, 1):
            shop.queue("idle", 0.5)
            shop.queue("busy", 20)
            shop.queue("busy", 1, gate)
            for _ in range(3):
                shop.queue("busy")
        until(lambda: len(shop.order) == 3)
        for _ in range(3):
            shop.queue("idle")
        gate.set()

    assert shop.order == ["idle", "busy", "busy", "idle", "busy", "idle", "busy", "idle", "busy"]


def test_within_a_flow_the_first_come_is_first_served() -> None:
    """Without names everything is one flow."""
    order: list[int] = []
    budget = CoreBudget(1)

    def run(number: int) -> None:
        with budget.lease(1, 10):
            order.append(number)

    with ThreadPoolExecutor(5) as pool, budget.lease(1, 1):
        for number in range(5):
            pool.submit(run, number)
            until(lambda: budget.waiting == number + 1)  # noqa: B023  called at once

    assert order == [0, 1, 2, 3, 4]


def test_a_wide_run_is_not_starved_by_narrow_ones_of_other_flows() -> None:
    """No flow, new or old, passes the run whose turn it is."""
    budget = CoreBudget(2)
    with ThreadPoolExecutor(1) as pool:
        with budget.lease(1, 1, "narrow"):
            wide = pool.submit(lambda: budget.lease(2, 10, "wide").__enter__())
            until(lambda: budget.waiting)
            for flow in ("narrow", "new"):
                with pytest.raises(UnavailableError), budget.lease(1, 0.01, flow):
                    pass
        wide.result(10)


def test_a_hot_model_leaves_a_cold_one_its_share() -> None:
    """16 clients against 1, runs of equal length: at least 40 % of the time while the one has work (real threads)."""
    budget, is_over = CoreBudget(1), threading.Event()
    used_s = {"hot": 0.0, "cold": 0.0}

    def run(flow: str) -> None:
        with budget.lease(1, 10, flow):
            started = time.perf_counter()
            while time.perf_counter() - started < 0.002:
                pass
            used_s[flow] += time.perf_counter() - started

    def client(flow: str) -> None:
        while not is_over.is_set():
            run(flow)

    with ThreadPoolExecutor(16) as pool:
        for _ in range(16):
            pool.submit(client, "hot")
        until(lambda: budget.waiting > 10)
        used_s["hot"] = 0.0
        for _ in itertools.repeat(None, 100):
            run("cold")
        is_over.set()

    assert used_s["cold"] / sum(used_s.values()) >= 0.4
