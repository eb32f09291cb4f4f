"""Lets DJL handlers be asynchronous: `async def handle`, and async generators of `Output`.

One event loop a worker, run only while a call waits for it, so that clients which a handler keeps stay on their loop.
`djl` calls it; asyncio is imported when the first handler needs it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from serving.workers.dialects import djl_output


class Loop:
    """An event loop, made at its first use."""

    def __init__(self) -> None:
        self._loop: Any = None

    def settle(self, result: Any) -> Any:
        """Wait for an awaitable, make a stream of an async generator, return anything else as it is."""
        if hasattr(result, "__await__"):
            result = self._wait(result)
        return self._stream(result) if hasattr(result, "__anext__") else result

    def close(self) -> None:
        """Close the loop."""
        if self._loop is not None:
            self._loop.close()

    def _wait(self, awaitable: Any) -> Any:
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(awaitable)

    def _stream(self, outputs: AsyncIterator[Any]) -> Any:
        """Return an Output with the status and headers of the first one, and every body as a chunk."""
        chunks = self._each(outputs)
        first = next(chunks, None)
        if first is None or first.code >= 300:
            return first
        bodies = djl_output.bodies(first, chunks)
        stream = djl_output.new_output(first.code, first.message).add_stream_content(bodies, None)
        stream.properties = first.properties
        return stream

    def _each(self, outputs: AsyncIterator[Any]) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield djl_output.checked_output(self._wait(outputs.__anext__()))
                except StopAsyncIteration:
                    return
        finally:
            close = getattr(outputs, "aclose", None)
            if close is not None:
                self._wait(close())
