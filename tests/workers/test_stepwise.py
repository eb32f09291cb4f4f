"""A function that hands out values, as an iterator: in step, with its own exceptions, and unwound when it is closed."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace

import pytest

from serving.workers.dialects.stepwise import HandOut, Stepwise, push
from tests.workers.takers import taking


def counting(made: list[int], count: int = 10) -> Callable[[HandOut], None]:
    """A function that hands out numbers, and notes each one that it begins."""

    def count_up(hand_out: HandOut) -> None:
        try:
            for number in range(count):
                made.append(number)
                hand_out(number)
        finally:
            made.append(-1)

    return count_up


def test_every_value_comes_in_order_and_then_the_end() -> None:
    """Which stays the end."""
    values = Stepwise(counting([]))
    assert list(values) == list(range(10))
    assert list(values) == []


def test_nothing_is_made_before_it_is_asked_for() -> None:
    """Not even the first, and never one ahead."""
    made: list[int] = []
    values = Stepwise(counting(made))
    assert made == []
    for number in range(3):
        assert (next(values), made[-1]) == (number, number)


def test_the_functions_own_exception_is_the_readers() -> None:
    """After what was handed out before it, and once."""

    def fail(hand_out: HandOut) -> None:
        hand_out(1)
        raise ValueError("torn")

    values = Stepwise(fail)
    assert next(values) == 1
    with pytest.raises(ValueError, match="torn"):
        next(values)
    assert list(values) == []


def test_sys_exit_in_the_function_is_sys_exit() -> None:
    """A worker ends by it, whatever thread it is said in."""

    def leave(_: HandOut) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        next(Stepwise(leave))


@pytest.mark.parametrize("read", [1, 4])
def test_closing_it_unwinds_the_function_where_it_stands(read: int) -> None:
    """Its `finally` has run when `close` returns, and its thread is gone."""
    made: list[int] = []
    before = threading.active_count()
    values = Stepwise(counting(made))
    for _ in range(read):
        next(values)
    values.close()
    values.close()
    assert made == [*range(read), -1]
    assert threading.active_count() == before
    assert list(values) == []


def test_one_that_was_never_begun_is_closed_without_running() -> None:
    """Nobody wanted it."""
    made: list[int] = []
    values = Stepwise(counting(made))
    values.close()
    assert (list(values), made) == ([], [])


def test_a_function_that_catches_everything_ends_all_the_same() -> None:
    """`except Exception` does not see the closing, and a bare one sees it again and again."""

    def stubborn(hand_out: HandOut) -> None:
        for _ in range(3):
            try:
                hand_out(1)
            except Exception:
                continue
            except BaseException:
                pass

    values = Stepwise(stubborn)
    next(values)
    values.close()
    assert list(values) == []


class Cuda(threading.local):
    """torch.cuda's current device, which each thread has by itself."""

    device = 0
    is_initialized = staticmethod(lambda: True)

    def set_device(self, device: int) -> None:
        """Set it for this thread."""
        self.device = device

    def current_device(self) -> int:
        """Return this thread's."""
        return self.device


def test_the_function_runs_on_the_readers_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that the first `next` finds: a rank sets its own before it generates."""
    cuda = Cuda()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    values = Stepwise(lambda hand_out: hand_out(cuda.current_device()))
    cuda.set_device(3)
    assert list(values) == [3]


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("is_stubborn", [False, True])
def test_one_that_is_dropped_ends_its_function(is_wrapped: bool, is_stubborn: bool) -> None:
    """As a `break` does, or a generator around it that is closed: nobody calls `close`."""
    has_ended = threading.Event()

    def forever(hand_out: HandOut) -> None:
        try:
            while True:
                hand_out(1)
        finally:
            if is_stubborn:
                with pytest.raises(BaseException):  # noqa: B017  whatever unwinds it
                    hand_out(2)
            has_ended.set()

    def pieces(values: Stepwise) -> Iterator[int]:
        yield from (value + 1 for value in values)

    values = pieces(Stepwise(forever)) if is_wrapped else Stepwise(forever)
    next(values)
    del values
    assert has_ended.wait(10)


def test_nothing_of_a_function_that_failed_waits_for_a_garbage_collection() -> None:
    """A generation's cache is large."""

    class Cache:
        """What the function holds."""

    made: list[weakref.ref[Cache]] = []

    def fail(_: HandOut) -> None:
        cache = Cache()
        made.append(weakref.ref(cache))
        raise MemoryError

    gc.disable()
    try:
        with pytest.raises(StopIteration):  # `pytest.raises` would hold the other one
            next_quietly(Stepwise(fail))
        assert made[0]() is None
    finally:
        gc.enable()


def next_quietly(values: Stepwise) -> None:
    """Take two values; the first is a MemoryError."""
    try:
        next(values)
    except MemoryError:
        next(values)


# ---- pushed ----------------------------------------------------------------------------------------------------------


def test_pushed_values_come_in_order_in_the_callers_thread() -> None:
    """And the function ends by itself."""
    made: list[int] = []
    taken: list[int] = []
    threads: list[int] = []

    def count(hand_out: HandOut) -> None:
        threads.append(threading.get_ident())
        counting(made, 3)(hand_out)

    push(count, taking(taken))
    assert (taken, threads) == ([0, 1, 2], [threading.get_ident()])
    assert made == [0, 1, 2, -1]


def test_who_wants_no_more_unwinds_the_function_where_it_stands() -> None:
    """Whatever it raises then; who is stubborn is told again."""
    made: list[int] = []
    push(counting(made), lambda value: value < 2)
    assert made == [0, 1, 2, -1]

    taken: list[int] = []

    def stubborn(hand_out: HandOut) -> None:
        for number in range(3):
            with suppress(BaseException):
                hand_out(number)
        raise ValueError("late")

    push(stubborn, taking(taken, 1))
    assert taken == [0]


@pytest.mark.parametrize("fault", [ValueError("torn"), SystemExit(3)])
def test_exceptions_of_both_sides_pass_through_a_push(fault: BaseException) -> None:
    """The taker's after the function has unwound, though it catches everything."""
    made: list[int] = []

    def take(_: int) -> bool:
        raise fault

    def fail(hand_out: HandOut) -> None:
        hand_out(1)
        raise fault

    with pytest.raises(type(fault)):
        push(counting(made), take)
    assert made == [0, -1]
    with pytest.raises(type(fault)):
        push(fail, lambda _: True)
