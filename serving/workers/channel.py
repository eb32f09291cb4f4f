"""How the server and its workers talk: framed messages over a Unix socket, large bodies by shared memory.

    header  kind u8, flags u8, fds u16, call u32, meta bytes u32, body bytes u64; then meta (JSON), then the body

A body from `SHARED_FROM_BYTES` on goes into shared memory whose descriptor travels with the header: one copy by the
sender; the worker reads it in place. The server does not map what a worker may still change: it reads it once. Every
wait has a deadline. Nothing is pickled. Runs on both sides and under foreign interpreters: standard library alone,
CPython 3.9 on.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

from serving.workers.handler import Body
from serving.workers.segment import Mapping, Segment, read_once

try:  # people's code may change json under us; this one it cannot, and it is faster
    from orjson import dumps as _dumps
    from orjson import loads as _loads
except ImportError:
    import json

    _encode, _decode = json.JSONEncoder(separators=(",", ":")).encode, json.JSONDecoder().decode

    def _dumps(value: Any) -> bytes:  # type: ignore[misc]  # the same without options
        return _encode(value).encode()

    def _loads(data: bytes) -> Any:  # type: ignore[misc]
        return _decode(data.decode())


# Below it a copy through the socket is cheaper than a mapping (measured: equal at 50-100 KiB).
SHARED_FROM_BYTES = 64 << 10
# Headers of a request are 64 KiB at most under both HTTP servers; a batch of 32 such fits.
META_MAX_BYTES = 4 << 20
_HEADER = struct.Struct("<BBHIIQ")
_IN_SEGMENT, _GIVES_BACK = 1, 2
# The channel of a worker, or that and its output; more is no message of ours.
_FDS_MAX = 4
_ANCILLARY_BYTES = socket.CMSG_SPACE(4 * _FDS_MAX)
_TIMEVAL = struct.Struct("ll")
# What one system call takes (IOV_MAX of limits.h).
_BUFFERS_MAX = 1024
_RECEIVE_BYTES = SHARED_FROM_BYTES + (16 << 10)

_close = os.close
_monotonic = time.monotonic


_T = TypeVar("_T")


class Kind(IntEnum):
    """What a message is. To a worker: LAUNCH, CALL, CANCEL, STOP; from it: READY, FAILED, REPLY, ERROR, CHUNK, END.

    An idle worker answers a PING with a PONG. A rank of a group gets NEXT, or CANCEL, after each CHUNK. SPAWN, KILL,
    SPAWNED and EXITED are spoken with the zygote alone, READY with both.
    """

    LAUNCH = 1
    CALL = 2
    CANCEL = 3
    STOP = 4
    READY = 5
    FAILED = 6
    REPLY = 7
    ERROR = 8
    CHUNK = 9
    END = 10
    SPAWN = 11
    KILL = 12
    SPAWNED = 13
    EXITED = 14
    NEXT = 15
    PING = 16
    PONG = 17


_KINDS = {int(each): each for each in Kind}


class ChannelError(Exception):
    """The other side is gone, broke the protocol, or did not answer in time."""


class PeerGoneError(ChannelError):
    """The other side closed its end: as a rule it died."""


class LateError(ChannelError):
    """The deadline passed."""


class ProtocolError(ChannelError):
    """What came is no message of ours."""


@dataclass
class Message:
    """A message: `meta` is its JSON, `body` its bytes (a mapping in the worker), `fds` what came along, now ours."""

    kind: Kind
    call: int
    meta: Any
    body: Body
    fds: list[int]


class Channel:
    """One end. `maps`: large bodies are read in place (the worker's side) instead of copied (the server's).

    One thread at a time sends and one receives. A body of over `body_max_bytes`, which its owner may change between
    messages, is a `ProtocolError`.
    """

    def __init__(self, sock: socket.socket, *, maps: bool = False, body_max_bytes: int = 1 << 40) -> None:
        self._socket = sock
        self._maps = maps
        self.body_max_bytes = body_max_bytes
        self._pending = b""
        self._fds: deque[int] = deque()
        self._out: Segment | None = None  # what we wrote last, for the next body
        self._is_out_free = False  # whether the other side has let go of it
        self._in: Mapping | None = None
        self._gives_back = False
        self._kernel_s = 0.0  # 0: no time-out was ever set

    def fileno(self) -> int:
        """Return the number of the socket."""
        return self._socket.fileno()

    def send(  # noqa: PLR0913  a message has so many parts
        self,
        kind: Kind,
        call: int = 0,
        meta: Any = None,
        buffers: Sequence[Body] = (),
        *,
        fds: Sequence[int] = (),
        deadline: float | None = None,
    ) -> None:
        """Send one message; its body is `buffers` one after the other.

        A large body of a message that the other side has not answered yet must be followed by no second one but CHUNKs.
        Raises `PeerGoneError`, and `LateError` past `deadline` (of the monotonic clock): the channel is then useless.
        """
        meta_bytes = _dumps(meta) if meta is not None else b""
        size = sum(map(len, buffers)) if buffers else 0
        flags = _GIVES_BACK if self._gives_back else 0
        self._gives_back = False
        if size < SHARED_FROM_BYTES:
            header = _HEADER.pack(kind, flags, len(fds), call, len(meta_bytes), size)
            self._send_all([header, meta_bytes, *buffers], fds, deadline)
            return
        segment = self._segment(size, is_once=kind is Kind.CHUNK)
        try:
            segment.write(buffers)
            header = _HEADER.pack(kind, flags | _IN_SEGMENT, len(fds) + 1, call, len(meta_bytes), size)
            self._send_all([header, meta_bytes], [segment.fd, *fds], deadline)
        finally:
            if segment is not self._out:
                segment.close()

    def receive(self, deadline: float | None = None) -> Message:
        """Return the next message. Raises `PeerGoneError`, `ProtocolError`, and `LateError` past `deadline`."""
        data = self._filled(_HEADER.size, deadline)
        kind, flags, fd_count, call, meta_bytes, size = _HEADER.unpack_from(data)
        is_shared = flags & _IN_SEGMENT
        most_bytes = self.body_max_bytes if is_shared else SHARED_FROM_BYTES
        if meta_bytes > META_MAX_BYTES or size > most_bytes or fd_count > _FDS_MAX:
            raise ProtocolError(f"a message of {meta_bytes} + {size} bytes and {fd_count} files")
        meta_end = _HEADER.size + meta_bytes
        end = meta_end if is_shared else meta_end + size
        data = self._filled(end, deadline)
        self._pending = data[end:]
        fds: list[int] = []
        try:
            meta = _loads(data[_HEADER.size : meta_end]) if meta_bytes else None
            if len(self._fds) < fd_count:
                raise ProtocolError(f"{fd_count} files were announced and {len(self._fds)} came")
            fds += (self._fds.popleft() for _ in range(fd_count))
            if flags & _GIVES_BACK:
                self._is_out_free = True
            body = self._from_segment(fds.pop(0), size) if is_shared else data[meta_end:end]
            return Message(_KINDS[kind], call, meta, body, fds)
        except (ValueError, LookupError) as error:
            self._fds.extend(fds)  # nobody else will close them
            raise ProtocolError(str(error)) from None

    def release(self) -> None:
        """Let go of the last large body; the next message tells the other side where nobody looks at it any more."""
        if self._in is not None:
            self._gives_back = not self._in.is_seen()
            if not (self._gives_back and self._in.is_worth_keeping):
                self._in = None

    def has_input(self) -> bool:
        """Say whether something (a message, or the end) can be received without waiting."""
        if self._pending:
            return True
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)) or True
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Close the socket and whatever came unasked."""
        self._socket.close()
        if self._out is not None:
            self._out.close()
            self._out = None
        while self._fds:
            _close(self._fds.popleft())

    def close_for_both(self) -> None:
        """End the conversation for both sides, though another thread waits in `receive`; that thread then closes."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _send_all(self, buffers: list[Body], fds: Sequence[int], deadline: float | None) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            if len(buffers) > _BUFFERS_MAX:
                buffers = [b"".join(buffers)]
            sent = self._until(deadline, self._socket.sendmsg, buffers, rights)
            if sent < sum(map(len, buffers)):
                rest = memoryview(b"".join(buffers))[sent:]
                while rest:
                    rest = rest[self._until(deadline, self._socket.send, rest) :]
        except OSError as error:
            raise PeerGoneError(error.strerror or str(error)) from None

    def _filled(self, count: int, deadline: float | None) -> bytes:
        """Return what has come, `count` bytes at least."""
        while len(self._pending) < count:
            self._pending += self._receive_some(count - len(self._pending), deadline)
        return self._pending

    def _receive_some(self, wanted: int, deadline: float | None) -> bytes:
        try:
            count = max(wanted, _RECEIVE_BYTES)
            data, ancillary, _, _ = self._until(deadline, self._socket.recvmsg, count, _ANCILLARY_BYTES)
        except OSError as error:
            raise PeerGoneError(error.strerror or str(error)) from None
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._fds.extend(array.array("i", rights[: len(rights) // 4 * 4]))
        # Those of one message may be here before it is read, not those of many.
        if len(self._fds) > 2 * _FDS_MAX:
            raise ProtocolError(f"{len(self._fds)} files that no message announces")
        if not data:
            raise PeerGoneError("the other side is gone")
        return data

    def _until(self, deadline: float | None, operation: Callable[..., _T], *arguments: Any) -> _T:
        """Run one operation on the socket; raise `LateError` past the deadline.

        The kernel keeps the time-out, as Python's own costs two more system calls each time (4 of 38 us a round trip).
        It is set anew only where it is too long, or much too short.
        """
        while True:
            if deadline is None:
                if self._kernel_s:
                    self._set_timeout(0.0)
            else:
                left_s = deadline - _monotonic()
                if left_s <= 0:
                    raise LateError("the deadline passed")
                if not left_s / 2 <= self._kernel_s <= left_s * 1.01 + 0.001:
                    self._set_timeout(left_s)
            try:
                return operation(*arguments)
            except BlockingIOError:  # the kernel's time-out: look at the clock again
                continue

    def _set_timeout(self, seconds: float) -> None:
        self._kernel_s = seconds
        timeval = _TIMEVAL.pack(int(seconds), max(1, int(seconds % 1 * 1e6)) if seconds else 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)

    def _segment(self, size: int, *, is_once: bool) -> Segment:
        if is_once:
            return Segment(size)
        # A server has read our last body before it asks again; a worker says so when it has.
        if self._out is not None and not ((self._is_out_free or self._maps) and self._out.size >= size):
            self._out.close()
            self._out = None
        segment = self._out or Segment(size)
        self._out = segment if segment.is_worth_keeping else None
        self._is_out_free = False
        return segment

    def _from_segment(self, fd: int, size: int) -> Body:
        try:
            if not self._maps:
                return read_once(fd, size)
            if self._in is not None and self._in.is_of(fd):
                _close(fd)
            else:
                self._in = Mapping(fd)
            return self._in.view(size)
        except OSError as error:
            raise ProtocolError(f"shared memory that cannot be read: {error}") from None


def pair(*, body_max_bytes: int = 1 << 40) -> tuple[Channel, socket.socket]:
    """Return the server's end and the socket for the other side."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Channel(ours, body_max_bytes=body_max_bytes), theirs
