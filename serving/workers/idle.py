"""The free workers of one model: who was used last is used next, so that one too many is idle for long enough to end.

Knows when each was last used and last heard of, and calls none. Holds no lock: `pool` calls it under its own.
"""

from __future__ import annotations

import bisect
import time

from serving.workers.member import Member


class Idle:
    """Those that wait for work, the one used last at the end."""

    def __init__(self) -> None:
        self._members: list[Member] = []

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: Member) -> None:
        """Note one that comes from its work."""
        member.idle_since = member.heard_at = time.monotonic()
        self._members.append(member)

    def put_back(self, member: Member) -> None:
        """Note one that has said that it lives: it is idle as long as before."""
        member.heard_at = time.monotonic()
        bisect.insort(self._members, member, key=lambda each: each.idle_since)

    def take(self) -> Member:
        """Take out the one that was used last."""
        return self._members.pop()

    def discard(self, member: Member) -> bool:
        """Take out this one; return whether it was there."""
        is_there = member in self._members
        if is_there:
            self._members.remove(member)
        return is_there

    def take_unused(self, seconds: float) -> Member | None:
        """Take out one that nobody has used for so long."""
        if self._members and self._members[0].idle_since <= time.monotonic() - seconds:
            return self._members.pop(0)
        return None

    def take_unheard(self, seconds: float) -> list[Member]:
        """Take out all that have not said anything for so long."""
        long_ago = time.monotonic() - seconds
        unheard = [each for each in self._members if each.heard_at <= long_ago]
        self._members = [each for each in self._members if each.heard_at > long_ago]
        return unheard

    def clear(self) -> None:
        """Forget all."""
        self._members.clear()
