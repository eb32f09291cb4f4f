"""Who may come in: caps on requests in flight and on the memory of their bodies.

Past a cap the answer is 503 at once, before the body is read, never a wait. Invocations and management calls (which may
wait for a load or a drain) have a cap each: the threads that are left over always answer /ping and the list. Called by
`app` and by the routes that invoke; knows no model.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from types import TracebackType
from typing import IO

from serving.errors import PayloadTooLargeError, UnavailableError
from serving.ledger import format_bytes

log = logging.getLogger("wharf.http")

_SWALLOW_BYTES = 1 << 18
# Half of the threads that neither invocations nor management calls take.
_SWALLOWERS = 8
# 6 MiB arrive in it at 100 Mbit/s; 60 refused clients that send nothing delay /ping by less than its 2 s.
_SWALLOW_S = 0.5


class Gate:
    """Lets at most `limit` management calls in at once; `with` it."""

    def __init__(self, limit: int) -> None:
        self._places = threading.BoundedSemaphore(limit)
        self._limit = limit

    def __enter__(self) -> None:
        if not self._places.acquire(blocking=False):
            raise UnavailableError(f"{self._limit} management calls are under way, the limit: try again.")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.release()


class Admission:
    """Counts requests and body bytes in flight against their caps."""

    def __init__(self, max_in_flight: int, max_body_bytes: int, body_memory_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self._max_in_flight = max_in_flight
        # One body of the largest size must always get in, or it could never be served.
        self._body_memory_bytes = max(body_memory_bytes, max_body_bytes)
        self._lock = threading.Lock()
        self._swallowers = threading.BoundedSemaphore(_SWALLOWERS)
        self._in_flight = 0
        self._body_bytes = 0

    @property
    def in_flight(self) -> int:
        """Requests admitted and not yet left."""
        return self._in_flight

    @property
    def body_bytes(self) -> int:
        """Bytes of the bodies of those requests."""
        return self._body_bytes

    def enter(self, length: int | None) -> int:
        """Admit a request with a body of `length` bytes and return what to `leave` with.

        None is an unknown length and counts as the largest. Raises `PayloadTooLargeError` (413) or
        `UnavailableError` (503).
        """
        if length is None:
            length = self.max_body_bytes
        elif length > self.max_body_bytes:
            raise self.too_large(f"{length} bytes")
        with self._lock:
            if self._in_flight >= self._max_in_flight:
                raise UnavailableError(
                    f"{self._max_in_flight} requests are in flight, the limit (WHARF_MAX_IN_FLIGHT): try again."
                )
            if self._body_bytes + length > self._body_memory_bytes:
                raise UnavailableError(
                    f"Request bodies in flight hold {format_bytes(self._body_bytes)} of "
                    f"{format_bytes(self._body_memory_bytes)} (WHARF_BODY_MEMORY): try again."
                )
            self._in_flight += 1
            self._body_bytes += length
        return length

    def swallow(self, stream: IO[bytes], connection: socket.socket | None) -> None:
        """Read and drop the rest of a refused body, up to four times what is taken, for half a second.

        Both servers close a connection with unread input by a reset, and the client then may lose the answer. The
        thread is one of those that are kept for /ping: a client that sends slowly, or nothing, must not keep it. Where
        the server hides its `connection` nobody can cut it off, so only a few are swallowed at once and the rest are
        reset.
        """
        is_endless = connection is None
        if is_endless and not self._swallowers.acquire(blocking=False):
            return
        left = 4 * self.max_body_bytes
        stop_reading = threading.Timer(_SWALLOW_S, _end_input, (connection,))
        stop_reading.start()
        try:
            while left > 0 and (part := stream.read(min(left, _SWALLOW_BYTES))):
                left -= len(part)
        except Exception as error:  # a broken chunk or a client that is gone: refused either way
            log.debug("event=swallow_ended error=%r", error)
        finally:
            stop_reading.cancel()
            if is_endless:
                self._swallowers.release()

    def leave(self, length: int) -> None:
        """Give back what `enter` returned."""
        with self._lock:
            self._in_flight -= 1
            self._body_bytes -= length

    def too_large(self, found: str) -> PayloadTooLargeError:
        """Return the error for a body that is larger than allowed."""
        return PayloadTooLargeError(
            f"The body has {found} and at most {self.max_body_bytes} are taken (WHARF_MAX_BODY_BYTES): send less."
        )


def _end_input(connection: socket.socket | None) -> None:
    if connection is None:
        return
    with contextlib.suppress(OSError):  # closed already
        connection.shutdown(socket.SHUT_RD)
