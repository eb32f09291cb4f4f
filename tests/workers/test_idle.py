"""Free workers: who is used next, who has been idle for too long, who has not been heard of."""

from __future__ import annotations

from typing import Any, cast

from serving.workers.idle import Idle
from serving.workers.member import Member


class Named:
    """As much of a member as idle ones need."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.idle_since = self.heard_at = 0.0


def idle(*names: str) -> tuple[Idle, list[Member]]:
    made = Idle()
    members: list[Any] = [Named(name) for name in names]
    for each in members:
        made.add(cast("Member", each))
    return made, members


def test_who_was_used_last_is_used_next() -> None:
    """Its caches are warm."""
    made, (first, second) = idle("a", "b")
    assert [made.take(), made.take()] == [second, first]
    assert not made


def test_who_was_used_first_is_one_too_many_first() -> None:
    """When it was idle for long enough."""
    made, (first, _) = idle("a", "b")
    assert made.take_unused(60) is None
    assert made.take_unused(0) is first


def test_who_said_that_it_lives_is_as_idle_as_before() -> None:
    """In whatever order they say so."""
    made, members = idle("a", "b", "c")
    since = [each.idle_since for each in members]
    assert made.take_unheard(60) == []
    assert made.take_unheard(0) == members
    for each in (members[1], members[2], members[0]):
        made.put_back(each)
    assert made.take_unheard(1) == []
    assert [each.idle_since for each in members] == since
    assert [made.take() for _ in members] == members[::-1]


def test_who_ended_is_taken_out_once() -> None:
    """Whether it was idle or not."""
    made, (first, second) = idle("a", "b")
    assert made.discard(first)
    assert not made.discard(first)
    made.clear()
    assert not made.discard(second)
