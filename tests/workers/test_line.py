"""Who waits for a worker, and how often workers may die: the values that a pool decides by."""

from __future__ import annotations

import pytest

from serving.errors import CancelledError, UnavailableError
from serving.workers.deaths import Deaths
from serving.workers.handler import Reply, Request
from serving.workers.line import Line


def test_first_come_first_served_up_to_a_limit() -> None:
    """Who leaves makes room; whose turn has come does not leave any more."""
    line = Line("m", 2)
    first, second = line.join(Request()), line.join(Request())
    with pytest.raises(UnavailableError, match="'m' has 2 requests waiting, its limit"):
        line.join(Request())
    assert line.take() is first
    assert not line.leave(first)
    assert line.leave(second)
    assert (line.take(), len(line)) == (None, 0)


def test_whose_caller_has_left_is_not_served() -> None:
    """It hears so when its turn comes."""
    line = Line("m", 9)
    left, there = line.join(Request(is_left=lambda: True)), line.join(Request(is_left=lambda: False))
    assert line.take() is there
    assert isinstance(left.error, CancelledError)
    assert left.is_done.is_set()
    assert not there.is_done.is_set()


def test_requests_that_were_put_together_go_when_all_their_callers_have() -> None:
    """One that waits has its neighbours served too."""
    line = Line("m", 9)
    gone, there = Request(is_left=lambda: True), Request(is_left=lambda: False)
    mixed, left = line.join(gone, there), line.join(gone, gone)
    assert line.take() is mixed
    assert line.take() is None
    assert isinstance(left.error, CancelledError)


def test_a_job_ends_with_an_answer_or_an_error() -> None:
    """Of a line that fails all do."""
    line, reply, error = Line("m", 9), Reply(), UnavailableError("gone")
    answered, *others = [line.join(Request()) for _ in range(3)]
    line.leave(answered)
    answered.end(reply)
    line.fail(error)
    assert (answered.reply, answered.error) == (reply, None)
    assert [(each.reply, each.error) for each in others] == [(None, error)] * 2
    assert all(each.is_done.is_set() for each in (answered, *others))


def test_a_worker_is_replaced_at_once_then_later_and_later() -> None:
    """Until an answer; too many are the end."""
    deaths, pauses = Deaths(9), []
    for number in range(8):
        deaths.note(f"reason {number}")
        pauses.append(deaths.pause_s)
        assert not deaths.are_too_many
    assert pauses == [0, 0.5, 1, 2, 4, 8, 16, 30]
    deaths.note("the last")
    assert deaths.are_too_many
    assert deaths.told() == "its workers died 9 times without one answer, the last time: the last"
    deaths.forget()
    assert not deaths.are_too_many
    deaths.note("again")
    assert (deaths.pause_s, deaths.last) == (0, "again")
