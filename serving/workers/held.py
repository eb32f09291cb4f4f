"""Chunks of a stream that give back what they hold, a worker or a place in a batcher, at their end.

Knows neither; `pool` and the batchers wrap a reply's chunks in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator


class Held:
    """Chunks that give their worker back at their end, once."""

    def __init__(self, chunks: Iterator[bytes], at_end: Callable[[], None]) -> None:
        self._chunks = chunks
        self._at_end = at_end
        self._is_over = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except BaseException:
            self._finish()
            raise

    def close(self) -> None:
        """Stop the generator in the worker, and give the worker back."""
        try:
            getattr(self._chunks, "close", lambda: None)()
        finally:
            self._finish()

    def _finish(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._at_end()
