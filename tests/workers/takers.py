"""Who is called back with the values of a `push`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def taking(found: list[Any], most: int = 0) -> Callable[[Any], bool]:
    """Return a taker that collects in `found`, and wants no more than `most` (0: all)."""

    def take(value: Any) -> bool:
        found.append(value)
        return len(found) != most

    return take
