"""An eye on the use of devices while something comes to them or goes: what it added, what it still owes.

A `Watch` is a move of each of its devices for the length of a `with`; what it sees is somebody's alone where no other
move ran there meanwhile. Reads ledgers and changes none. Called by `scales`, which says what the figures mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Self

from serving.devices import DeviceMeter, NoDevices
from serving.ledger import Ledger
from serving.moves import Moves


class Watch:
    """What happens on the devices of `ledgers` on behalf of a runtime."""

    def __init__(
        self, runtime: str, meter: DeviceMeter, ledgers: Mapping[int, Ledger], moves: Mapping[int, Moves]
    ) -> None:
        self.runtime = runtime
        self.ledgers = ledgers
        self._meter = meter
        self._moves = moves
        self._stack = ExitStack()
        self._begun: dict[int, tuple[int, int]] = {}  # the move's number, and the use before it

    def __enter__(self) -> Self:
        for index in self.ledgers:
            number = self._stack.enter_context(self._moves[index].move())
            if (before_bytes := self.used_bytes(index)) is not None:
                self._begun[index] = (number, before_bytes)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def devices(self) -> tuple[int, ...]:
        """Which could be read when it began, by CUDA's numbers."""
        return tuple(self._begun)

    def used_bytes(self, index: int) -> int | None:
        """Return what is in use now, None for a device that cannot be read."""
        return self._meter.used_bytes(index)

    def before_bytes(self, index: int) -> int:
        """Return what was in use when it began."""
        return self._begun[index][1]

    def booked_bytes(self, index: int) -> int:
        """Return what is in the books now: models' reservations, and what was taken out of the budget."""
        return self.ledgers[index].taken_out_bytes + self.ledgers[index].used_bytes

    def is_alone(self, index: int) -> bool:
        """Say whether nothing else moved on a device since it began."""
        return self._moves[index].stood_still(self._begun[index][0])

    def grown(self) -> dict[int, int]:
        """Return by how many bytes each device's use has grown, where nothing else moved there since."""
        return {index: count for index, count in self._growths() if self.is_alone(index)}

    def grown_at_least(self) -> dict[int, int]:
        """Return by how many bytes each device's use has grown for sure: beside others, what is in no book."""
        found = {}
        for index, count in self._growths():
            unbooked_bytes = self.before_bytes(index) + count - self.booked_bytes(index)
            found[index] = count if self.is_alone(index) else max(0, min(count, unbooked_bytes))
        return found

    def _growths(self) -> Iterator[tuple[int, int]]:
        for index in self._begun:
            if (now := self.used_bytes(index)) is not None:
                yield index, now - self.before_bytes(index)


NOTHING = Watch("", NoDevices("nothing is watched"), {}, {})
"""The watch over no device."""


class Return:
    """What one device owes for a model that is on its way out."""

    def __init__(self, watch: Watch, index: int, name: str, returning_bytes: int | None) -> None:
        self.index = index
        self._watch = watch
        self._returning_bytes = returning_bytes
        self._own_bytes = watch.ledgers[index].reservations.get(name, 0)
        # In no book: what runs take (the headroom is for that).
        self._unbooked_bytes = max(0, watch.before_bytes(index) - watch.booked_bytes(index))

    def missing_bytes(self) -> int:
        """Return what is not back yet, negative for more than was owed.

        Alone, and measured when it came: use must fall by that. Beside others: all use must be somebody's who stays.
        """
        watch = self._watch
        now = watch.used_bytes(self.index)
        if now is None:  # the device is gone, and its memory with it
            return 0
        if self._returning_bytes is not None and watch.is_alone(self.index):
            return now - (watch.before_bytes(self.index) - self._returning_bytes)
        return now - (watch.booked_bytes(self.index) - self._own_bytes + self._unbooked_bytes)
