"""A function that hands out values as it goes, made an iterator: it stands still between two of them.

Libraries that report by calling back run in a thread of their own here, one value ahead of nobody: each `next` lets the
function go on to its next value, and waits for it. `close` unwinds it where it stands, at the value that was handed out
last; ranks of a group that are closed after the same value have therefore stopped at the same place. Who can be called
back himself needs neither iterator nor thread: `push`. Knows nothing of models, but that torch has a current GPU for
each thread, which is the caller's here (unverified: more than one GPU).
`huggingface_lines` and `djl_python.streaming_utils` call it.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

HandOut = Callable[[Any], None]
Function = Callable[[HandOut], object]
"""What hands out values: it calls its only argument with each."""


class _Left(BaseException):
    """Nobody reads any more; no `Exception`, so that what the function calls does not catch it."""


def push(function: Function, take: Callable[[Any], bool]) -> None:
    """Run a function in this thread, and have `take` called with each value, which says whether to go on.

    Where it does not, or raises, the function is unwound, and what it still raises is dropped for `take`'s exception.
    """
    fault: BaseException | None = None
    is_left = False

    def hand_out(value: Any) -> None:
        nonlocal fault, is_left
        if not is_left:
            try:
                is_left = not take(value)
            except BaseException as error:
                fault, is_left = error, True
        if is_left:
            raise _Left

    try:
        function(hand_out)
    except BaseException:
        if not is_left:
            raise
    try:
        if fault is not None:
            raise fault
    finally:
        fault = None  # its traceback has this frame: all that the function held would wait for a garbage collection


class Stepwise:
    """An iterator over what `function` hands out by calling its only argument; an exception of its own is ours.

    One that is dropped ends its function too, in its own time.
    """

    def __init__(self, function: Function) -> None:
        self._steps = _Steps()
        self._thread = threading.Thread(target=self._steps.run, args=[function], daemon=True)
        weakref.finalize(self, self._steps.leave).atexit = False

    def __iter__(self) -> Stepwise:
        return self

    def __next__(self) -> Any:
        steps = self._steps
        if not steps.is_over:
            self._step()
        if not steps.is_over:
            return steps.value
        fault, steps.fault = steps.fault, None
        try:
            raise fault or StopIteration
        finally:
            del fault  # its traceback has this frame: all that the function held would wait for a garbage collection

    def close(self) -> None:
        """End the function, begun or not, and return when it has ended."""
        self._steps.is_left = True
        if self._thread.ident and not self._steps.is_over:
            self._step()
        self._steps.is_over = True

    def _step(self) -> None:
        if self._thread.ident:
            self._steps.goes_on.release()
        else:
            self._steps.gpu = _current_gpu()
            self._thread.start()
        self._steps.has_said.acquire()
        if self._steps.is_over:
            self._thread.join()


class _Steps:
    """The function's side, which its thread holds; it knows no reader, so that one who drops the iterator is missed."""

    def __init__(self) -> None:
        self.goes_on, self.has_said = threading.Lock(), threading.Lock()
        self.goes_on.acquire()
        self.has_said.acquire()
        self.gpu: int | None = None
        self.value: Any = None
        self.fault: BaseException | None = None
        self.is_over = False
        self.is_left = False

    def leave(self) -> None:
        """Unwind the function where it stands, and wait for nothing."""
        self.is_left = True
        if self.goes_on.locked():
            self.goes_on.release()

    def run(self, function: Function) -> None:
        """Run the function to its end."""
        try:
            if self.gpu is not None:
                sys.modules["torch"].cuda.set_device(self.gpu)
            function(self._hand_out)
        except _Left:
            pass
        except BaseException as fault:
            self.fault = None if self.is_left else fault
        self.is_over = True
        self.has_said.release()

    def _hand_out(self, value: Any) -> None:
        if not self.is_left:
            self.value = value
            self.has_said.release()
            self.goes_on.acquire()
        if self.is_left:
            raise _Left


def _current_gpu() -> int | None:
    """Return torch's current GPU, where the caller uses torch and GPUs; imports nothing."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda.current_device() if cuda is not None and cuda.is_initialized() else None
