"""Turns on a device: loads together, an unload alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from serving.turns import Turns
from tests.unit.house import others
from tests.waiting import until


@contextmanager
def unloading(turns: Turns, timeout_s: float = 30) -> Iterator[None]:
    """Somebody else unloads, or waits for it, for the length of the block."""
    done = threading.Event()

    def unload() -> bool:
        with turns.alone(timeout_s) as is_alone:
            done.wait(30)
            return is_alone

    with others() as pool:
        going = pool.submit(unload)
        until(lambda: turns._unloads == 1)
        try:
            yield
        finally:
            done.set()
            assert going.result(30)


def test_loads_go_together() -> None:
    """None waits for another."""
    turns = Turns()
    with turns.together(time.monotonic()) as first, turns.together(time.monotonic()) as second:
        assert (first, second) == (True, True)


def test_a_load_waits_for_an_unload_until_its_deadline() -> None:
    """And hears that it has no turn."""
    turns = Turns()
    with unloading(turns), turns.together(time.monotonic() + 0.01) as has_turn:
        assert not has_turn
    with turns.together(time.monotonic()) as has_turn:
        assert has_turn


def test_an_unload_waits_for_loads_and_goes_before_those_that_come_later() -> None:
    """A stream of loads does not keep it away."""
    turns = Turns()
    order: list[str] = []

    def load() -> None:
        with turns.together():
            order.append("load")

    with others() as pool:
        with turns.together():

            def unload() -> None:
                with turns.alone(30) as is_alone:
                    order.append(f"unload {is_alone}")

            going = pool.submit(unload)
            until(lambda: turns._unloads == 1)
            late = pool.submit(load)
            assert not going.done()
        going.result(30)
        late.result(30)
    assert order == ["unload True", "load"]


def test_two_unloads_go_one_after_the_other() -> None:
    """The second hears when it has to go beside the first after all."""
    turns = Turns()
    with unloading(turns), turns.alone(0.01) as is_alone:
        assert not is_alone
    with turns.alone(0) as is_alone:
        assert is_alone


def test_an_unload_beside_a_load_that_hangs_says_so() -> None:
    """It waits no longer than it may, and leaves the load its turn."""
    turns = Turns()
    with turns.together(), turns.alone(0.01) as is_alone:
        assert not is_alone
    with turns.alone(0) as is_alone:
        assert is_alone
