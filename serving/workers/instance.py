"""One worker as the server sees it: started, called by one thread at a time, ended.

Knows the protocol and what each way of failing means to a caller; who may call when is `pool`'s. A worker that is late
or breaks the protocol is killed: nobody waits for it twice.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from serving import memory
from serving.errors import (
    BadRequestError,
    DeadlineExceededError,
    InsufficientMemoryError,
    LoadFailedError,
    ModelFailedError,
    NotAcceptableError,
    ServingError,
    UnavailableError,
    UnsupportedMediaTypeError,
)
from serving.workers import tensor_frames
from serving.workers.channel import ChannelError, Kind, LateError, Message, PeerGoneError, ProtocolError
from serving.workers.handler import Body, Launch, Reply, Request
from serving.workers.supervisor import Supervisor, Wish, WorkerProcess, describe_end

log = logging.getLogger("wharf.workers")

# From a closed channel to the zygote's word on how it ended; a forked worker is reaped in milliseconds.
_END_KNOWN_S = 0.8
# For people's own farewell (`finalize`) after STOP, before SIGKILL.
FAREWELL_S = 3.0
_KILLED_S = 5.0
# What a worker says of where its model failed to start, at most.
_PLACES_MAX, _PLACE_MAX_CHARS = 16, 500
# What a request needs comes and goes; what stays and is larger is the ledger's business.
_NOTEWORTHY_BYTES = 8 << 20
# After a client has left, for the handler's generator to come to its next yield.
CANCEL_S = 2.0
_ANSWERS = (Kind.REPLY, Kind.ERROR, Kind.CHUNK, Kind.END, Kind.PONG)
_BY_STATUS: dict[int, type[ServingError]] = {
    each.status: each
    for each in (
        BadRequestError,
        NotAcceptableError,
        UnsupportedMediaTypeError,
        UnavailableError,
        DeadlineExceededError,
        InsufficientMemoryError,
    )
}


class WorkerLostError(UnavailableError):
    """The worker died, hung or broke the protocol during this very request."""


class Instance:
    """One process with one model in it."""

    def __init__(self, supervisor: Supervisor, launch: Launch, wish: Wish, on_exit: Callable[[Instance], None]) -> None:
        self.name = launch.name
        self.number = launch.instance
        self.ready: dict[str, Any] = {}
        self.idle_since = self.heard_at = 0.0
        self._touched_bytes = 0  # at the last measurement
        self.is_stopped = False  # by us: its end is no death
        self._who = f"Model '{launch.name}'" + f" (rank {launch.rank})" * (launch.ranks > 0)
        self._supervisor = supervisor
        self._launch = launch
        self._calls = itertools.count(1)
        self.asked = 0  # requests of the call under way; 0 for a ping
        self._oom_kills = memory.oom_kills()
        self.process: WorkerProcess = supervisor.spawn(
            wish, lambda: on_exit(self), reply_max_bytes=launch.max_reply_bytes
        )

    @property
    def is_ended(self) -> bool:
        """Whether it can answer no more."""
        return self.process.exited.is_set()

    @property
    def pids(self) -> list[int]:
        """Its one process."""
        return [self.process.pid]

    @property
    def end(self) -> str:
        """How it ended: "was killed by signal 9 (Killed)"."""
        return describe_end(self.process.status, self.process.reason)

    def let_go(self) -> None:
        """Close our end of its channel; it has ended."""
        self.process.channel.close()

    def load(self, deadline: float) -> None:
        """Wait until the model is ready.

        Raises `LoadFailedError` with what the handler said or how the worker ended, `InsufficientMemoryError` for
        typed memory errors and kills by the kernel for memory, `DeadlineExceededError`. The process is gone then.
        """
        try:
            self.process.channel.send(Kind.LAUNCH, 0, asdict(self._launch), deadline=deadline)
            message = self._receive(deadline)
        except LateError:
            self.kill()
            raise DeadlineExceededError(
                f"{self._who} was still loading at its deadline: raise its load timeout."
            ) from None
        except ChannelError as error:
            raise self._not_loaded(self._end(error)) from None
        try:
            if message.kind is Kind.READY:
                self.ready = dict(message.meta)
                self.process.spawned.wait(_END_KNOWN_S)  # who measures it now needs its pid
                return
            said, status = str(message.meta["message"]), int(message.meta["status"])
            places = [str(each)[:_PLACE_MAX_CHARS] for each in message.meta["places"][:_PLACES_MAX]]
        except (KeyError, TypeError, ValueError) as error:
            raise self._not_loaded(self._end(ProtocolError(repr(error)))) from None
        self.kill()
        if status == 507:
            raise InsufficientMemoryError(f"{self._who} ran out of memory while it loaded: {said}")
        at = "\n\nAt:\n" + "".join(f"  {each}\n" for each in places) if places else ""
        raise LoadFailedError(f"{self._who} failed to load: {said}", said + at)

    def measured_bytes(self) -> int:
        """Return what it added to the machine's memory, in bytes."""
        self._touched_bytes = self.process.touched_bytes()
        return self.process.held_bytes()

    def has_changed(self) -> bool:
        """Say whether it holds noteworthily more or less than at the last measurement, as far as that is cheap."""
        return abs(self.process.touched_bytes() - self._touched_bytes) > _NOTEWORTHY_BYTES

    def call(self, requests: Sequence[Request], deadline: float) -> list[Reply]:
        """Have requests answered; a reply's `chunks` must be read to the end or closed before the next call.

        Raises what the handler's error means, or `WorkerLostError`.
        """
        items, buffers = pack(requests)
        timeout_s = deadline - time.monotonic()
        call = self.begin(items, buffers, deadline)
        replies, is_stream = self.answer(call, deadline)
        if is_stream:
            replies[0].chunks = self._chunks(call, timeout_s)
            next(replies[0].chunks)  # begun, so that closing it cancels, though nobody ever asked for a chunk
        return replies

    def begin(
        self, items: list[dict[str, Any]], buffers: Sequence[Body], deadline: float, seed: int | None = None
    ) -> int:
        """Send what `pack` made of requests; return the number of the call, whose `answer` must come next.

        Raises `WorkerLostError`, as all of this class that talks to the worker.
        """
        call, self.asked = next(self._calls), len(items)
        self.process.channel.body_max_bytes = len(items) * self._launch.max_reply_bytes
        meta = {"items": items} if seed is None else {"items": items, "seed": seed}
        self._send(Kind.CALL, call, deadline, meta, buffers)
        return call

    def answer(self, call: int, deadline: float) -> tuple[list[Reply], bool]:
        """Return the replies to a call, and whether `chunk`s of the first one follow; raises what `call` raises."""
        message = self._heard(call, deadline)
        if message.kind is Kind.ERROR:
            raise self._told(message.meta)
        try:
            replies = [_reply(item, message.body) for item in message.meta["items"]]
            if len(replies) != self.asked:
                raise ValueError(f"{len(replies)} answers to {self.asked} requests")
            return replies, bool(message.meta["items"][0].get("is_stream"))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise self._lost(ProtocolError(repr(error))) from None

    def chunk(self, call: int, deadline: float) -> bytes | None:
        """Return the next chunk of a stream, None at its end; raises what `call` raises."""
        message = self._heard(call, deadline)
        if message.kind is Kind.CHUNK:
            return bytes(message.body)
        if message.meta:
            raise self._told(message.meta)
        return None

    def go_on(self, call: int, deadline: float, *, is_wanted: bool) -> None:
        """Have a rank of a group make its next chunk, or end its stream where none is wanted."""
        self._send(Kind.NEXT if is_wanted else Kind.CANCEL, call, deadline)

    def ping(self, deadline: float) -> None:
        """Have an idle worker say that it lives; raises `WorkerLostError`."""
        self.pong(self.beat(deadline), deadline)

    def beat(self, deadline: float) -> int:
        """Ask whether it lives; return the number of the call, whose `pong` must come next."""
        call, self.asked = next(self._calls), 0
        self._send(Kind.PING, call, deadline)
        return call

    def pong(self, call: int, deadline: float) -> None:
        """Wait for its word that it lives."""
        if (kind := self._heard(call, deadline).kind) is not Kind.PONG:
            raise self._lost(ProtocolError(f"{kind.name} in answer to a PING"))

    def stop(self) -> None:
        """End the worker: its farewell, then SIGKILL; return when its memory is back."""
        if self.bid_farewell():
            self.process.exited.wait(FAREWELL_S)
        self.kill()

    def bid_farewell(self) -> bool:
        """Ask it to end; return whether it heard."""
        self.is_stopped = True
        with contextlib.suppress(ChannelError):
            self.process.channel.send(Kind.STOP, deadline=time.monotonic() + FAREWELL_S)
            return True
        return False

    def strike(self) -> None:
        """Have it killed, with all that it started, and do not wait."""
        self._supervisor.kill(self.process)

    def kill(self) -> None:
        """End it by SIGKILL, with all that it started; return when its memory is back."""
        if not self.process.exited.is_set():
            self.strike()
            if not self.process.exited.wait(_KILLED_S):
                log.error("event=worker_not_killed model=%s pid=%d", self.name, self.process.pid)
        self.process.channel.close()

    def _receive(self, deadline: float) -> Message:
        message = self.process.channel.receive(deadline)
        if message.fds:
            for number in message.fds:
                os.close(number)
            raise ProtocolError(f"{len(message.fds)} files, and a worker has none to send")
        return message

    def _send(self, kind: Kind, call: int, deadline: float, meta: Any = None, buffers: Sequence[Body] = ()) -> None:
        try:
            self.process.channel.send(kind, call, meta, buffers, deadline=deadline)
        except LateError:
            raise self._hung() from None
        except ChannelError as error:
            raise self._lost(error) from None

    def _heard(self, call: int, deadline: float) -> Message:
        try:
            return self._expect(call, deadline)
        except LateError:
            raise self._hung() from None
        except ChannelError as error:
            raise self._lost(error) from None

    def _expect(self, call: int, deadline: float) -> Message:
        message = self._receive(deadline)
        if message.call != call or message.kind not in _ANSWERS:
            raise ProtocolError(f"{message.kind.name} {message.call} in answer to call {call}")
        return message

    def _chunks(self, call: int, timeout_s: float) -> Iterator[bytes]:
        """Yield what the handler yields; each chunk has as long as a whole answer would have had."""
        chunk: bytes | None = b""
        is_left = True  # by who reads, wherever this waits at a yield
        try:
            while chunk is not None:
                yield chunk
                is_left = False
                chunk = self.chunk(call, time.monotonic() + timeout_s)
                is_left = chunk is not None
        finally:
            if is_left:
                self._cancel(call)

    def _cancel(self, call: int) -> None:
        """Have the generator closed at its next yield, as the client has left, or end the worker."""
        deadline = time.monotonic() + CANCEL_S
        try:
            self.process.channel.send(Kind.CANCEL, call, deadline=deadline)
            while self._expect(call, deadline).kind is Kind.CHUNK:
                pass
        except ChannelError:
            self.kill()

    def _told(self, meta: Any) -> ServingError:
        try:
            status, said = int(meta["status"]), str(meta["message"])
        except (KeyError, TypeError, ValueError) as error:
            return self._lost(ProtocolError(repr(error)))
        if meta.get("is_last"):  # nobody else is to be handed to it
            self._end(PeerGoneError("it said so"))
        return ran(_BY_STATUS.get(status, ModelFailedError)(f"{self._who} failed: {said}"))

    def _hung(self) -> ServingError:
        figures = (self.name, self.number, self._launch.rank, self.asked)
        log.warning("event=worker_hung model=%s instance=%d rank=%d requests=%d", *figures)
        self.kill()
        return ran(
            WorkerLostError(
                f"{self._who} did not answer in time, its worker was ended and is being replaced: "
                "send less, or raise its predict timeout."
            )
        )

    def _lost(self, error: ChannelError) -> ServingError:
        ended = self._end(error)
        if self._was_out_of_memory():
            return InsufficientMemoryError(f"{self._who} lost its worker: the kernel killed it for memory.")
        return ran(WorkerLostError(f"{self._who} lost its worker, which {ended}; it is being replaced: try again."))

    def _not_loaded(self, ended: str) -> ServingError:
        if self._was_out_of_memory():
            return InsufficientMemoryError(f"{self._who} failed to load: the kernel killed it for memory.")
        return LoadFailedError(f"{self._who} failed to load: its worker {ended}; see the log.")

    def _end(self, error: ChannelError) -> str:
        """Make sure that the worker is gone, and say how that came."""
        if isinstance(error, ProtocolError):
            self.kill()
            return f"broke the protocol ({error})"
        self.process.exited.wait(_END_KNOWN_S)
        ended = self.end
        self.kill()
        return ended

    def _was_out_of_memory(self) -> bool:
        """Whether the kernel's own counter says so; a SIGKILL alone may come from anybody."""
        return self.process.status == -9 and not self.process.reason and memory.oom_kills() > self._oom_kills


def ran(error: ServingError) -> ServingError:
    """Note that the worker had the request: it counts as a failure of the model's."""
    error.has_run = True
    return error


def pack(requests: Sequence[Request]) -> tuple[list[dict[str, Any]], list[Body]]:
    """Describe requests and collect their bodies, for `Instance.begin`."""
    items: list[dict[str, Any]] = []
    buffers: list[Body] = []
    total = 0
    for request in requests:
        item: dict[str, Any] = {"headers": request.headers}
        if request.query:
            item["query"] = request.query
        if request.about:
            item["about"] = request.about
        if request.tensors is not None:
            item["tensors"], parts, total = tensor_frames.pack(request.tensors, total)
            buffers += parts
        else:
            item["at"], item["bytes"] = total, len(request.body)
            buffers.append(request.body)
            total += len(request.body)
        items.append(item)
    return items, buffers


def _reply(item: Any, body: Body) -> Reply:
    status = int(item["status"])
    if not 200 <= status <= 599:
        raise ValueError(f"status {status}")
    headers = {str(name): str(value) for name, value in dict(item["headers"]).items()}
    if "tensors" in item:
        return Reply(b"", status, headers, None, tensor_frames.unpack(item["tensors"], body))
    start, size = int(item["at"]), int(item["bytes"])
    if start < 0 or size < 0 or start + size > len(body):
        raise ValueError(f"an answer at {start} of {size} bytes in a body of {len(body)}")
    return Reply(body if size == len(body) else body[start : start + size], status, headers)
