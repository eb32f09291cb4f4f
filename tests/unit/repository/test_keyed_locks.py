"""One at a time for each key."""

from __future__ import annotations

import threading

import pytest

from serving.errors import UnavailableError
from serving.repository.keyed_locks import KeyedLocks
from tests.unit.house import others

_TOO_LATE = UnavailableError("too long")


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


def test_who_waits_too_long_is_told_so() -> None:
    """With the error of its own, and is forgotten; after that the key is free as ever."""
    locks = KeyedLocks()
    with locks.hold("a"), pytest.raises(UnavailableError, match="too long"), locks.hold("a", 0.01, _TOO_LATE):
        pass
    with locks.hold("a", 0.01, _TOO_LATE):
        assert locks._held

    assert not locks._held
