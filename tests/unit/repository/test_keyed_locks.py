"""One at a time for each key."""

from __future__ import annotations

import threading

from serving.repository.keyed_locks import KeyedLocks
from tests.unit.house import others


def test_of_two_who_want_the_same_one_waits() -> None:
    """Others are not kept; a key is forgotten after its last."""
    locks, came, is_second = KeyedLocks(), threading.Event(), []

    def second() -> None:
        came.set()
        with locks.hold("a"):
            is_second.append(True)

    with others(1) as pool:
        with locks.hold("a"):
            waiting = pool.submit(second)
            assert came.wait(10)
            with locks.hold("b"):
                assert not is_second
        waiting.result(10)

    assert is_second
    assert not locks._held
