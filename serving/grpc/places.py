"""How many calls of a kind may be under way at once, and the wait until none is.

Threads of a gRPC server are few and each call holds one: past the limit a call is refused at once, so that some are
always left for health and metadata. `calls` has them, `listener` waits for the end of what runs.
"""

from __future__ import annotations

import threading

from serving.errors import UnavailableError


class Places:
    """Lets at most `limit` calls in; `with` it."""

    def __init__(self, limit: int, what: str) -> None:
        self._limit, self._what = limit, what
        self._taken = 0
        self._left = threading.Condition()

    def __enter__(self) -> None:
        with self._left:
            if self._taken >= self._limit:
                raise UnavailableError(f"{self._limit} {self._what} are under way over gRPC, the limit: try again.")
            self._taken += 1

    def __exit__(self, *error: object) -> None:
        with self._left:
            self._taken -= 1
            self._left.notify_all()

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait until nobody is in; return whether that came true."""
        with self._left:
            return self._left.wait_for(lambda: not self._taken, max(0.0, timeout_s))
