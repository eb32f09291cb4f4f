"""The core budget."""

from __future__ import annotations

import threading

import pytest

from serving.cores import CoreBudget
from serving.errors import UnavailableError


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
