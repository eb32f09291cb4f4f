"""How a model answers a request other than by returning: a sender, and the mailbox that it fills.

A sender is the model's end, and may be used from any thread; a mailbox is the dialect's. A sender that the model lets
go of without having said that it was done closes its mailbox too: nobody waits for an answer that cannot come.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

from ._errors import TritonModelException
from ._response import InferenceResponse

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class Mailbox:
    """What one request's sender has sent, in order: pairs of a response (or None, or an exception) and whether it ends.

    `is_cancelled` is for the model to ask; `is_taken` says that the model asked for a sender. With a `limit` a model
    that sends faster than the client reads waits, once so many responses are not read.
    """

    def __init__(self, limit: int = 0) -> None:
        self.is_cancelled = False
        self._limit = limit
        self._read = threading.Condition() if limit else None  # without a limit nobody waits for a read
        self.is_taken = False
        self._is_closed = False
        self._posts: queue.SimpleQueue[tuple[Any, bool]] = queue.SimpleQueue()
        self._lock = threading.RLock()  # re-entrant: a collection may let go of the sender while `close` holds it

    def post(self, response: Any, is_last: bool) -> bool:
        """Take a response; False once it was closed."""
        if self._read is not None and not is_last:
            with self._read:
                self._read.wait_for(lambda: self.is_cancelled or self._posts.qsize() < self._limit)
        with self._lock:
            if self._is_closed:
                return False
            self._is_closed = is_last
            self._posts.put((response, is_last))
            return True

    def get(self) -> tuple[Any, bool]:
        """Wait for the next response; not to be called after the last."""
        post = self._posts.get()
        if self._read is not None:
            with self._read:
                self._read.notify()
        return post

    def cancel(self) -> None:
        """Tell the model that nobody reads any more; what it still sends is dropped, and it waits for nothing."""
        self.is_cancelled = True
        if self._read is not None:
            with self._read:
                self._read.notify_all()


class Abandoned(Exception):  # noqa: N818
    """The model let go of its sender without the flag that ends an answer."""


class InferenceResponseSender:
    """Sends the responses of one request; `send` with TRITONSERVER_RESPONSE_COMPLETE_FINAL ends them."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def send(self, response: Any = None, flags: int = 0) -> None:
        """Send `response`, or with the final flag none. Raises `TritonModelException` after the final one."""
        if flags not in (0, TRITONSERVER_RESPONSE_COMPLETE_FINAL):
            raise TritonModelException(f"send() has flags {flags} and wants 0 or TRITONSERVER_RESPONSE_COMPLETE_FINAL.")
        if response is None and not flags:
            raise TritonModelException("send() has neither a response nor flags: give it one of them.")
        if response is not None and not isinstance(response, InferenceResponse):
            raise TritonModelException(f"send() has a {type(response).__name__} and wants an InferenceResponse.")
        if not self._mailbox.post(response, bool(flags)):
            raise TritonModelException("send() comes after the final response of its request: nothing may follow that.")

    def is_cancelled(self) -> bool:
        """Return True once the client has left."""
        return self._mailbox.is_cancelled

    def __del__(self) -> None:
        self._mailbox.post(Abandoned(), True)
