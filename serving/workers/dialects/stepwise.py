"""A function that hands out values as it goes, made an iterator: it stands still between two of them.

Libraries that report by calling back run in a thread of their own here, one value ahead of nobody: each `next` lets the
function go on to its next value, and waits for it. `close` unwinds it where it stands, at the value that was handed out
last; ranks of a group that are closed after the same value have therefore stopped at the same place. Knows nothing of
models; `huggingface_tokens` and `djl_python.streaming_utils` call it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

HandOut = Callable[[Any], None]


class _Left(BaseException):
    """Nobody reads any more; no `Exception`, so that what the function calls does not catch it."""


class Stepwise:
    """An iterator over what `function` hands out by calling its only argument; an exception of its own is ours."""

    def __init__(self, function: Callable[[HandOut], object]) -> None:
        self._thread = threading.Thread(target=self._run, args=[function], daemon=True)
        self._goes_on, self._has_said = threading.Lock(), threading.Lock()
        self._goes_on.acquire()
        self._has_said.acquire()
        self._value: Any = None
        self._fault: BaseException | None = None
        self._is_over = False
        self._is_left = False

    def __iter__(self) -> Stepwise:
        return self

    def __next__(self) -> Any:
        if not self._is_over:
            self._step()
        if not self._is_over:
            return self._value
        fault, self._fault = self._fault, None
        raise fault or StopIteration

    def close(self) -> None:
        """End the function, begun or not, and return when it has ended."""
        self._is_left = True
        while self._thread.ident and not self._is_over:
            self._step()
        self._is_over = True

    def _step(self) -> None:
        if self._thread.ident:
            self._goes_on.release()
        else:
            self._thread.start()
        self._has_said.acquire()
        if self._is_over:
            self._thread.join()

    def _run(self, function: Callable[[HandOut], object]) -> None:
        try:
            function(self._hand_out)
        except _Left:
            pass
        except BaseException as fault:
            self._fault = fault
        self._is_over = True
        self._has_said.release()

    def _hand_out(self, value: Any) -> None:
        self._value = value
        self._has_said.release()
        self._goes_on.acquire()
        if self._is_left:
            raise _Left
