"""Who makes room: eviction policies, pure functions of values.

A policy sees candidates and how many bytes are wanted and names the victims; it never acts, never logs and may be
asked as often as one likes. `manager` asks it under its lock and does the rest. The default and only policy is exact
LRU by last completed use; a model in flight is never a candidate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A resident model that may go: idle, READY, `bytes` reserved, `last_used` a counter that only grows."""

    name: str
    bytes: int
    last_used: int


def lru(candidates: Iterable[Candidate], wanted_bytes: int) -> tuple[Candidate, ...] | None:
    """Return the shortest run of least recently used candidates that frees `wanted_bytes`, oldest first.

    Returns `()` when nothing is wanted and None when all of them together do not suffice: then nobody is evicted in
    vain.
    """
    victims: list[Candidate] = []
    freed_bytes = 0
    for candidate in sorted(candidates, key=lambda each: each.last_used):
        if freed_bytes >= wanted_bytes:
            break
        victims.append(candidate)
        freed_bytes += candidate.bytes
    return tuple(victims) if freed_bytes >= wanted_bytes else None
