"""What every gRPC call goes through: an id, a place, admission, metrics, and the status of what goes wrong.

Past the limits a call is refused at once. Errors become statuses here and only here (`fault`), as Triton maps them.
Knows no message; `service` calls it.
"""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import grpc

from serving.codecs.v2 import ParseError
from serving.errors import ModelFailedError, ServingError
from serving.grpc.places import Places
from serving.logs import about

log = logging.getLogger("wharf.grpc")

# Each call that runs holds a thread. Beyond some dozens they only wait for the cores; a stream holds its thread while
# it is open, asking or not.
CALLS_MAX = 96
STREAMS_MAX = 48
# Loads and unloads hold theirs for minutes, and what describes a model may load it: never one that requests need.
MANAGEMENT_MAX = 32


class Door(Protocol):
    """Admission: caps on requests in flight and on their bytes, shared with HTTP."""

    def enter(self, length: int | None) -> int:
        """Admit a body; return what to `leave` with."""

    def leave(self, length: int) -> None:
        """Give back what `enter` returned."""


@dataclass(frozen=True, slots=True)
class House:
    """What the service shares with the HTTP routes."""

    door: Door
    extensions: list[str]
    authorize: Callable[[str], None]
    check_name: Callable[[str], str]
    is_ready: Callable[[], bool]
    observe: Callable[[int, float, float, bool | None], None]


class Calls:
    """All calls of one server."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.running = Places(CALLS_MAX, "calls")
        self.managing = Places(MANAGEMENT_MAX, "management calls")
        self.streams = Places(STREAMS_MAX, "streams")
        self.streamed = Places(STREAMS_MAX, "requests of streams")
        self._count = itertools.count(1)
        self._prefix = secrets.token_hex(4)

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait for the end of all requests; streams that ask nothing do not count."""
        deadline = perf_counter() + timeout_s
        kinds = (self.running, self.managing, self.streamed)
        are_over = [each.wait_until_empty(deadline - perf_counter()) for each in kinds]
        return all(are_over)

    def answered(
        self, context: Any, work: Callable[[], Any], places: AbstractContextManager[None] | None = None
    ) -> Any:
        """Return what `work` makes in one of `places`, or end the call with a status."""
        request_id = self.request_id()
        about.set((request_id, ""))
        try:
            with places or nullcontext():
                return work()
        except Exception as error:
            context.abort(*fault(error, request_id))

    def request_id(self) -> str:
        """Return a new id; two lives of the server never share one."""
        return f"{self._prefix}-g{next(self._count)}"

    @contextmanager
    def admitted(self, length: int) -> Iterator[None]:
        """Count a request of `length` bytes against the caps, or raise what admission raises."""
        admitted_bytes = self._house.door.enter(length)
        try:
            yield
        finally:
            self._house.door.leave(admitted_bytes)

    @contextmanager
    def observed(self) -> Iterator[Callable[[float], None]]:
        """Count an invocation; call what is yielded with the model's seconds."""
        started, status, seconds = perf_counter(), 500, [0.0]
        try:
            yield lambda spent_s: seconds.__setitem__(0, spent_s)
            status = 200
        except GeneratorExit:  # the client left a stream
            status = 200
            raise
        except ServingError as error:
            status = error.status
            raise
        finally:
            self._house.observe(status, perf_counter() - started, seconds[0], None)


def fault(error: Exception, request_id: str) -> tuple[grpc.StatusCode, str]:
    """Return the status and the text for any exception, as Triton maps them; what is a bug goes to the log alone."""
    if not isinstance(error, ServingError):
        log.error("event=internal_error request_id=%s", request_id, exc_info=error)
        return grpc.StatusCode.INTERNAL, f"Internal error; the log has it under request id {request_id}."
    if isinstance(error, (ParseError, ModelFailedError)):
        return grpc.StatusCode.INTERNAL, error.text
    return grpc.StatusCode[error.grpc_code], error.text
