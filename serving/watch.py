"""An eye on the use of devices while something comes to them or goes: what it added, what it still owes.

A `Watch` is a move of each of its devices for the length of a `with`; what it sees is somebody's alone where no other
move ran there meanwhile. Reads ledgers and changes none. Called by `scales`, which says what the figures mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Self

from serving.devices import DeviceMeter, NoDevices
from serving.ledger import Ledger
from serving.moves import Moves
from serving.turns import Turns


@dataclass(frozen=True, slots=True)
class _Start:
    """The number of a move on a device; what was in use before it, what was taken out of its budget, and reserved."""

    number: int
    used_bytes: int
    taken_out_bytes: int
    reserved: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Growth:
    """By how many bytes the use of a device grew, and to how many; `is_alone` where nothing else moved there."""

    bytes: int
    used_bytes: int
    is_alone: bool


class Lanes:
    """The devices as those who move there share them: who reads them, who moves, whose turn it is."""

    def __init__(self, meter: DeviceMeter, indices: Iterable[int] = ()) -> None:
        self.meter = meter
        self.moves = {index: Moves() for index in indices}
        self.turns = {index: Turns() for index in self.moves}


class Watch:
    """What happens on the devices of `ledgers` on behalf of a runtime; `turn` is how it takes its turn on each."""

    def __init__(
        self,
        runtime: str,
        lanes: Lanes,
        ledgers: Mapping[int, Ledger],
        turn: Callable[[Turns], AbstractContextManager[bool]],
    ) -> None:
        self.runtime = runtime
        self.ledgers = ledgers
        self._lanes = lanes
        self._turn = turn
        self._stack = ExitStack()
        self._begun: dict[int, _Start] = {}
        self.has_turn = True

    def __enter__(self) -> Self:
        for index in sorted(self.ledgers):  # in order: two that want several never wait for each other
            self.has_turn &= self._stack.enter_context(self._turn(self._lanes.turns[index]))
            number = self._stack.enter_context(self._lanes.moves[index].move())
            if (used_bytes := self.used_bytes(index)) is not None:
                ledger = self.ledgers[index]
                self._begun[index] = _Start(number, used_bytes, ledger.taken_out_bytes, dict(ledger.reservations))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def devices(self) -> tuple[int, ...]:
        """Which could be read when it began, by CUDA's numbers."""
        return tuple(self._begun)

    def used_bytes(self, index: int) -> int | None:
        """Return what is in use now, None for a device that cannot be read."""
        return self._lanes.meter.used_bytes(index)

    def before_bytes(self, index: int) -> int:
        """Return what was in use when it began."""
        return self._begun[index].used_bytes

    def unbooked_bytes(self, index: int, name: str) -> int:
        """Return what was in use when it began and in no book, but for `name`'s: what batches held, surely."""
        start = self._begun[index]
        booked_bytes = sum(count for each, count in start.reserved.items() if each != name)
        return max(0, start.used_bytes - start.taken_out_bytes - booked_bytes)

    def booked_bytes(self, index: int) -> int:
        """Return what is in the books now: models' reservations, and what was taken out of the budget."""
        return self.ledgers[index].taken_out_bytes + self.ledgers[index].used_bytes

    def is_alone(self, index: int) -> bool:
        """Say whether nothing else moved on a device since it began."""
        return self._lanes.moves[index].stood_still(self._begun[index].number)

    def growths(self) -> dict[int, Growth]:
        """Return by how much each device's use has grown; a device that cannot be read any more is left out."""
        found = {}
        for index in self._begun:
            if (now := self.used_bytes(index)) is not None:
                found[index] = Growth(now - self.before_bytes(index), now, self.is_alone(index))
        return found

    def grown_at_least(self) -> dict[int, int]:
        """Return by how many bytes each device's use has grown for sure: beside others, what is in no book."""
        found = {}
        for index, growth in self.growths().items():
            unbooked_bytes = growth.used_bytes - self.booked_bytes(index)
            found[index] = growth.bytes if growth.is_alone else max(0, min(growth.bytes, unbooked_bytes))
        return found


NOTHING = Watch("", Lanes(NoDevices("nothing is watched")), {}, Turns.together)
"""The watch over no device."""


class Return:
    """What one device owes for a model that is on its way out; `stays` says whether a model has come to stay."""

    def __init__(
        self, watch: Watch, index: int, name: str, returning_bytes: int | None, stays: Callable[[str], bool]
    ) -> None:
        self.index = index
        self._watch = watch
        self._name = name
        self._returning_bytes = returning_bytes
        self._stays = stays
        own_bytes = watch.ledgers[index].reservations.get(name, 0)
        # In no book: what runs take (the headroom is for that).
        self._unbooked_bytes = max(0, watch.before_bytes(index) - own_bytes - self._booked_bytes())

    def missing_bytes(self) -> int:
        """Return what is not back yet, negative for more than was owed.

        Alone, and measured when it came: use must fall by that. Else all use must be of those who stay.
        """
        now = self._watch.used_bytes(self.index)
        if now is None:  # the device is gone, and its memory with it
            return 0
        if self._returning_bytes is not None and self._watch.is_alone(self.index):
            return now - (self._watch.before_bytes(self.index) - self._returning_bytes)
        return now - (self._booked_bytes() + self._unbooked_bytes)

    def _booked_bytes(self) -> int:
        """Return what others have in the books.

        What is reserved for a load that has not begun is no use yet; beside one that has, nobody can tell.
        """
        stays = self._stays if self._watch.has_turn else lambda _: True
        return _booked_bytes(self._watch.ledgers[self.index], self._name, stays)


class Remains:
    """What a load that failed left on one device; `watch` saw it come.

    `stays` says whose reservation is in use: beside a load that has not ended nobody can tell, so all of them.
    """

    def __init__(self, watch: Watch, index: int, name: str, stays: Callable[[str], bool]) -> None:
        self.index = index
        self._watch = watch
        self._name = name
        self._stays = stays

    def missing_bytes(self) -> int:
        """Return what is not back yet: all that came with it where it came alone, else all that is in no book."""
        now = self._watch.used_bytes(self.index)
        if now is None:
            return 0
        if self._watch.is_alone(self.index):
            return now - self._watch.before_bytes(self.index)
        booked_bytes = _booked_bytes(self._watch.ledgers[self.index], self._name, self._stays)
        return now - booked_bytes - self._watch.unbooked_bytes(self.index, self._name)


def _booked_bytes(ledger: Ledger, name: str, stays: Callable[[str], bool]) -> int:
    """Return what was taken out of a budget, and what is reserved by those who stay, but for `name`."""
    reserved = dict(ledger.reservations).items()
    return ledger.taken_out_bytes + sum(count for each, count in reserved if each != name and stays(each))
