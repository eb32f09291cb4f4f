"""Weighs what loads and unloads do to devices: what a model was found to hold, and whether its bytes are back.

A device's use is read before and after; a growth is believed where no other load or unload ran there meanwhile. From it
a context's own cost is told apart (`contexts`) and taken out of that device's budget. An unload waits until the use has
fallen by what the load had added; what does not come back in time is taken out of the budget until it does. Called by
`manager`, `loader` and `unloader`; what says "under the lock" is called under the manager's, the rest outside.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from serving.contexts import Context
from serving.devices import DeviceMeter, NoDevices, Placement
from serving.ledger import Ledger, Wording
from serving.watch import Growth, Lanes, Remains, Return, Watch

log = logging.getLogger("wharf.scales")

OTHERS = "others"
"""In use before we came: the driver's reserve and other processes."""
LOST = "lost"
"""Of models that are gone, and not back."""
_CONTEXT = "context of "

# torch's allocator shares segments of 2 and 20 MiB among tensors of several models (CUDACachingAllocator:
# kSmallBuffer, kLargeBuffer): one of each may stay for a neighbour's sake.
SLACK_BYTES = 24 << 20
_POLL_S = 0.005
_STILL_S = 0.2


@dataclass(frozen=True, slots=True)
class Expected:
    """What a model on a device is expected to hold there, in bytes: at the peak of its load, and once it is ready.

    `is_exact` says that its own allocator counted `resident_bytes`; else they were predicted from its files. The
    context of one that `is_apart` goes with it.
    """

    peak_bytes: int
    resident_bytes: int
    is_exact: bool = False
    is_apart: bool = False


@dataclass(frozen=True, slots=True)
class Weight:
    """What a model holds on one device in bytes, as booked, and as far as its unload must see it come back.

    `returning_bytes` is None where nothing was measured: then all use must be in the books of those that stay.
    """

    booked_bytes: int
    returning_bytes: int | None = None


class Scales:
    """The devices' ledgers, with what measures for them. `headroom` gives what of a capacity models may not have."""

    def __init__(
        self,
        meter: DeviceMeter | None = None,
        headroom: Callable[[int], int] = lambda _: 0,
        *,
        give_back_s: float = 5.0,
        slack_bytes: int = SLACK_BYTES,
    ) -> None:
        meter = meter or NoDevices("nobody asked")
        self._give_back_s = give_back_s
        self._slack_bytes = slack_bytes
        self._contexts: dict[tuple[int, str], Context] = defaultdict(Context)
        self._first: dict[tuple[int, str], tuple[str, int]] = {}  # whose context is a guess, and all that grew
        self._weighed: set[str] = set()
        self._is_closing = threading.Event()
        self.ledgers: dict[int, Ledger] = {}
        for each in meter.devices():
            ledger = Ledger(max(0, each.capacity_bytes - headroom(each.capacity_bytes)), wording=_wording(each.index))
            ledger.take_out(OTHERS, each.used_bytes)
            self.ledgers[each.index] = ledger
        self._lanes = Lanes(meter, self.ledgers)

    def settle_in(self, lock: threading.Lock) -> None:
        """Wait, before anything is loaded, while the use of a device falls.

        Whatever a killed server process before this one held may still be on its way out: tritonserver's context and
        models most of all. What is in use then is others'.
        """
        last = {index: ledger.taken_out(OTHERS) for index, ledger in self.ledgers.items()}
        deadline = time.monotonic() + self._give_back_s
        while last and time.monotonic() < deadline and not self._is_closing.wait(_STILL_S):
            now = {index: self._lanes.meter.used_bytes(index) or 0 for index in last}
            if all(now[index] >= last[index] for index in last):
                break
            last = now
        self.look_again(lock)

    # ---- a runtime, a load ------------------------------------------------------------------------------------------

    def prepare(self, runtime: str) -> Watch:
        """Watch a runtime's start on all devices for the length of a `with`."""
        # Past that limit beside an unload that hangs: a start is weighed with care (`grown_at_least`) anyway.
        deadline = time.monotonic() + self._patience_s
        return Watch(runtime, self._lanes, self.ledgers, lambda turns: turns.together(deadline))

    def note_runtime(self, runtime: str, grown: Mapping[int, int]) -> None:
        """Take what a runtime took at its start out of the budgets; under the lock."""
        for index, count in grown.items():
            with self._changed(index, runtime) as context:
                context.counted_bytes += max(0, count)

    def _note_context(self, index: int, runtime: str, count: int) -> None:
        with self._changed(index, runtime) as context:
            context.noted_bytes += max(0, count)

    def load(self, runtime: str, placement: Placement, deadline: float) -> Watch:
        """Watch a load on its devices for the length of a `with`.

        Its `has_turn` is False where unloads left it no turn until `deadline` (of the monotonic clock).
        """
        return Watch(runtime, self._lanes, self._of(placement.devices), lambda turns: turns.together(deadline))

    def _of(self, indices: Iterable[int]) -> dict[int, Ledger]:
        return {index: self.ledgers[index] for index in indices}

    def settle_failure(self, name: str, watch: Watch, lock: threading.Lock) -> None:
        """Wait until a load that failed has left its devices; what is still there of it leaves the budgets.

        What a runtime's first load leaves is its context, which is not waited for; one that had no turn left nothing.
        """
        if not watch.has_turn:
            return
        with ExitStack() as stack:
            has_turn = True
            for index in sorted(watch.devices):
                has_turn &= stack.enter_context(self._lanes.turns[index].alone(self._patience_s))
            stays = self._weighed.__contains__ if has_turn else lambda _: True
            remains = [Remains(watch, index, name, stays) for index in watch.devices]
            brings_context = any(self._is_new(index, watch.runtime) for index in watch.devices)
            left = self._wait(remains, 0.0 if brings_context else self._give_back_s)
            with lock:  # in turn: the next one that failed finds it in the books
                for index, count in left.items():
                    if self._is_new(index, watch.runtime):
                        self._note_context(index, watch.runtime, count)
                    else:
                        self._lose(index, count)

    def _is_new(self, index: int, runtime: str) -> bool:
        context = self._contexts.get((index, runtime))
        return context is None or context.is_new

    def weigh(self, name: str, watch: Watch, expected: Expected, growths: Mapping[int, Growth]) -> dict[int, Weight]:
        """Correct a model's reservation on each device of `watch`, set the context apart, say what it holds.

        Under the lock. `growths` are what the watch saw. Where the context is a guess, the model that brought it along
        is booked anew when a later one tells more of it.
        """
        weights = {}
        for index in watch.ledgers:
            key, growth = (index, watch.runtime), growths.get(index)
            weight = Weight(expected.resident_bytes)
            if growth is not None and growth.is_alone:
                weight = self._weigh(name, key, expected, growth.bytes)
            self.ledgers[index].correct(name, weight.booked_bytes)
            if growth is not None and not growth.is_alone and self._contexts[key].is_new and not expected.is_apart:
                # Who brought it cannot be told; what is in use and in no book is nobody's model, or a batch's.
                self._note_context(*key, growth.used_bytes - watch.booked_bytes(index))
            weights[index] = weight
        self._weighed.add(name)
        return weights

    def _weigh(self, name: str, key: tuple[int, str], expected: Expected, grown_bytes: int) -> Weight:
        context = self._contexts[key]
        before_bytes = context.bytes
        if expected.is_exact:
            with self._changed(*key):
                context.count(expected.resident_bytes, grown_bytes)
            # What of its growth the end of a batch, or a trimmed cache, has hidden is its own all the same.
            booked_bytes = _believed(grown_bytes - (context.bytes - before_bytes), expected)
            return Weight(booked_bytes, expected.resident_bytes)
        is_first = context.is_new and not expected.is_apart
        with self._changed(*key):
            if expected.is_apart:
                context.is_new = False
            else:
                context.add(expected.resident_bytes, grown_bytes)
        if is_first:
            self._first[key] = (name, grown_bytes)
            own_bytes = grown_bytes - (context.bytes - before_bytes)
            # Half may be the context's: nobody can tell yet.
            return Weight(_believed(own_bytes, expected), min(own_bytes, expected.resident_bytes) // 2)
        self._book_first(key)
        booked_bytes = _believed(grown_bytes, expected)
        return Weight(booked_bytes, max(0, min(booked_bytes, grown_bytes, expected.peak_bytes)))

    def _book_first(self, key: tuple[int, str]) -> None:
        """Book who brought the context along with the rest of what grew then: the sum of both was measured."""
        name, grown_bytes = self._first.get(key, ("", 0))
        if name in self.ledgers[key[0]].reservations:
            self.ledgers[key[0]].correct(name, grown_bytes - self._contexts[key].brought_bytes)

    @contextmanager
    def _changed(self, index: int, runtime: str) -> Iterator[Context]:
        """Take out of a budget by how much a context grows in a `with`; what a look has cut of it stays cut."""
        ledger, context = self.ledgers[index], self._contexts[index, runtime]
        before_bytes = context.bytes
        yield context
        left_bytes = ledger.taken_out(_CONTEXT + runtime) + context.bytes - before_bytes
        ledger.take_out(_CONTEXT + runtime, max(0, left_bytes))

    def _take_out_whole(self, index: int, runtime: str) -> None:
        self.ledgers[index].take_out(_CONTEXT + runtime, self._contexts[index, runtime].bytes)

    def _contexts_of(self, index: int) -> dict[str, Context]:
        return {runtime: each for (where, runtime), each in self._contexts.items() if where == index}

    # ---- an unload --------------------------------------------------------------------------------------------------

    @contextmanager
    def unload(self, name: str, weights: Mapping[int, Weight]) -> Iterator[Callable[[], dict[int, int]]]:
        """Watch an unload; the function waits, inside the block, until the bytes are back on all devices.

        It returns what was still missing on each at the end of the wait, in bytes.
        """
        with Watch("", self._lanes, self._of(weights), lambda turns: turns.alone(self._patience_s)) as watch:
            stays = self._weighed.__contains__
            returns = [Return(watch, index, name, weights[index].returning_bytes, stays) for index in watch.devices]
            yield lambda: self._wait(returns, self._give_back_s)

    def _wait(self, owed: Sequence[Return | Remains], timeout_s: float) -> dict[int, int]:
        deadline = time.monotonic() + timeout_s
        while missing := {each.index: count for each in owed if (count := each.missing_bytes()) > self._slack_bytes}:
            if self._is_closing.wait(_POLL_S):
                return {}  # all of it comes back with the process
            if time.monotonic() >= deadline:
                return missing
        return {}

    @property
    def _patience_s(self) -> float:
        """How long to wait for a turn on a device where the caller has no deadline."""
        return 0.0 if self._is_closing.is_set() else self._give_back_s

    def forget(self, name: str, lost: Mapping[int, int]) -> None:
        """Note that a model is gone, and what it left on devices; under the lock, before its reservation ends."""
        self._weighed.discard(name)
        for key in [key for key, (first, _) in self._first.items() if first == name]:
            del self._first[key]
        for index, count in lost.items():
            self._lose(index, count)
        for index, runtime in self._contexts:  # the next look says what of them is in use without it
            self._take_out_whole(index, runtime)

    def look_again(self, lock: threading.Lock) -> None:
        """Give back to the budgets what is in the books and not in use; a device without anything of ours is read anew.

        Only where nothing moves, as a reservation says more than what is in use while its model is on the way in.
        """
        moves = self._lanes.moves
        due = {index: moves[index].begun for index in self.ledgers if self._is_still(index)}
        readings = {index: self._lanes.meter.used_bytes(index) for index in due}
        with lock:
            for index, used_bytes in readings.items():
                if used_bytes is not None and self._is_still(index) and moves[index].begun == due[index]:
                    self._believe(index, used_bytes)

    def _is_still(self, index: int) -> bool:
        return self._lanes.moves[index].is_still and set(self.ledgers[index].reservations) <= self._weighed

    def _believe(self, index: int, used_bytes: int) -> None:
        """Hold the books of a device where nothing moves to what is in use there.

        1. Nothing of ours: all of it is others'. 2. What was lost is no more than what is in no other book. 3. Nor are
        contexts: guesses, as models need not hold all that is reserved for them; and without models all of it.
        """
        ledger, contexts = self.ledgers[index], self._contexts_of(index)
        lost_bytes = ledger.taken_out(LOST)
        if not (lost_bytes or ledger.used_bytes or any(each.bytes for each in contexts.values())):  # (1)
            ledger.take_out(OTHERS, used_bytes)
            return
        for runtime in contexts:
            self._take_out_whole(index, runtime)
        known_bytes = ledger.taken_out_bytes + ledger.used_bytes - lost_bytes
        ledger.take_out(LOST, min(lost_bytes, max(0, used_bytes - known_bytes)))  # (2)
        unused_bytes = max(0, known_bytes - used_bytes)
        for runtime, each in contexts.items():  # (3)
            cut_bytes = min(unused_bytes, each.guessed_bytes if ledger.used_bytes else each.bytes)
            unused_bytes -= cut_bytes
            if cut_bytes and not ledger.used_bytes:
                each.settle(each.bytes - cut_bytes)
                cut_bytes = 0
            ledger.take_out(_CONTEXT + runtime, each.bytes - cut_bytes)

    def close(self) -> None:
        """Wait for no bytes any more: the process ends, and all of them come back with it."""
        self._is_closing.set()

    # ---- readings ---------------------------------------------------------------------------------------------------

    def gauges(self) -> dict[str, tuple[str, dict[str, int]]]:
        """Return help text and bytes by device, by metric name; under the lock."""
        found = {}
        for name, (text, read) in _GAUGES.items():
            found[name] = (text, {f"cuda:{index}": read(ledger) for index, ledger in self.ledgers.items()})
        contexts = {
            f"cuda:{index}": sum(ledger.taken_out(_CONTEXT + runtime) for runtime in self._contexts_of(index))
            for index, ledger in self.ledgers.items()
        }
        return found | {"DeviceContextBytes": ("Memory of a device that runtimes hold besides models", contexts)}

    def _lose(self, index: int, count: int) -> None:
        self.ledgers[index].take_out(LOST, self.ledgers[index].taken_out(LOST) + count)


_GAUGES: Mapping[str, tuple[str, Callable[[Ledger], int]]] = {
    "DeviceBudgetBytes": ("Memory of a device that models may hold", lambda ledger: ledger.budget_bytes),
    "DeviceReservedBytes": ("Memory of a device reserved by models", lambda ledger: ledger.used_bytes),
    "DeviceLostBytes": ("Memory of a device that did not come back", lambda ledger: ledger.taken_out(LOST)),
}


def _believed(own_bytes: int, expected: Expected) -> int:
    """Return what is booked of a measured growth.

    An allocator that counted knows the least, and the predicted peak is the most that is not its neighbours' batches. A
    prediction from files knows less: only under three quarters of it the growth is taken to be hidden by something that
    came back meanwhile.
    """
    if expected.is_exact:
        return min(max(own_bytes, expected.resident_bytes), max(expected.peak_bytes, expected.resident_bytes))
    return max(own_bytes, expected.resident_bytes * 3 // 4)


def _wording(index: int) -> Wording:
    return Wording(f" of cuda:{index}", "lower WHARF_DEVICE_HEADROOM", "use a larger device")
