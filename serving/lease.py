"""A hold on a model: it is ready for the length of a `with`, and beyond where somebody keeps it.

Knows how to take a model, to wait for one and to give it back only as functions: they are `manager`'s, which makes a
lease for each request. The callers of `manager` enter it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType

from serving.residents import Resident


class Lease:
    """`with` it and the model is ready, and stays so until the end of the block."""

    __slots__ = ("_acquire", "_is_kept", "_name", "_release", "_resident", "_take", "is_hit")

    def __init__(
        self,
        take: Callable[[str], Resident | None],
        acquire: Callable[[str], Resident],
        release: Callable[[Resident], None],
        name: str,
    ) -> None:
        self._take, self._acquire, self._release = take, acquire, release
        self._name = name
        self._is_kept = False

    def keep(self) -> Callable[[], None]:
        """Hold the model beyond the block; return what ends the hold, to be called once."""
        self._is_kept = True
        return functools.partial(self._release, self._resident)

    def __enter__(self) -> Resident:
        resident = self._take(self._name)
        self.is_hit = resident is not None
        self._resident = resident or self._acquire(self._name)
        return self._resident

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_kept:
            self._release(self._resident)
