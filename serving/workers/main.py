"""The worker: one process that loads one model by its dialect and answers its calls, one after the other.

Its first message is the `Launch`, its last a STOP or the end of the channel. People's code runs here and nowhere else;
it may do to this process what it likes. Exceptions become errors with their last line; `sys.exit` ends the process, as
it says. Forked from the zygote, or executed by a foreign interpreter: standard library alone, CPython 3.9 on.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NoReturn

from serving.workers import tensor_frames
from serving.workers.channel import Channel, ChannelError, Kind, Message
from serving.workers.frames import places
from serving.workers.handler import Body, Handler, HandlerError, Launch, Reply, Request
from serving.workers.process_setup import flush_output, reseed, set_up

_MESSAGE_MAX_CHARS = 500
# People's code may change these under us.
_print_exception, _exit, _dumps = traceback.print_exception, os._exit, json.dumps


def main(number: int) -> NoReturn:
    """Run a worker over the channel with this file descriptor, and end the process with it.

    Threads that people's code left running are not waited for.
    """
    status = 1
    try:
        _work(Channel(socket.socket(fileno=number), maps=True))
        status = 0
    except ChannelError:  # the server is gone, or has given us up
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        _print_exception(type(error), error, error.__traceback__)
    finally:
        flush_output()
        _exit(status & 0xFF)


def _work(channel: Channel) -> None:
    launch = Launch(**channel.receive().meta)
    try:
        set_up(launch)
        handler = importlib.import_module("serving.workers.dialects." + launch.dialect).load(launch)
    except BaseException as error:
        _tell_failure(channel, error)
        raise SystemExit(1) from None
    ready = {"takes_tensors": handler.takes_tensors, "inputs": handler.inputs, "outputs": handler.outputs}
    ready |= {name: getattr(handler, name, None) for name in ("batching", "signatures")}
    channel.send(Kind.READY, 0, ready)
    _Loop(channel, handler, launch).run()


def _tell_failure(channel: Channel, error: BaseException) -> None:
    _print_exception(type(error), error, error.__traceback__)
    meta = {"status": _status(error, 500), "message": _said(error), "places": places(error)}
    channel.send(Kind.FAILED, 0, meta)


class _Loop:
    def __init__(self, channel: Channel, handler: Handler, launch: Launch) -> None:
        self._channel = channel
        self._handler = handler
        self._launch = launch
        self._is_stopped = False

    def run(self) -> None:
        while not self._is_stopped:
            message = self._channel.receive()
            self._is_stopped = message.kind is Kind.STOP
            if message.kind is Kind.CALL:
                self._answer(message)
            elif message.kind is Kind.PING:  # by the thread that would answer a call, and holding the GIL as it would
                self._channel.send(Kind.PONG, message.call)
            # A CANCEL for a stream that ended meanwhile needs nothing.
        self._handler.close()

    def _answer(self, message: Message) -> None:
        call = message.call
        opening = None
        try:
            replies = self._replies(message)
            opening = _Opening(self._channel, call, *self._pack(replies))
            chunks = replies[0].chunks
            if not hasattr(chunks, "push"):
                opening.send()
            if chunks is not None:
                self._stream(call, chunks, opening)
        except BaseException as error:
            if isinstance(error, ChannelError) or (opening is not None and opening.is_sent):
                raise
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                self._channel.send(Kind.ERROR, call, {"status": 503, "message": _said(error), "is_last": True})
                raise
            self._channel.release()
            self._channel.send(Kind.ERROR, call, _told(error))
            return
        for reply in replies:
            if reply.after is not None:
                _run_quietly(reply.after)

    def _replies(self, message: Message) -> list[Reply]:
        requests = [_request(item, message.body) for item in message.meta["items"]]
        message.body = b""
        if "seed" in message.meta:  # all ranks of a group draw the same numbers
            reseed(message.meta["seed"])
        replies = self._handler.call(requests)
        if len(replies) != len(requests):
            raise HandlerError(f"The handler gave {len(replies)} answers to {len(requests)} requests.")
        if len(replies) > 1:
            _gather_chunks(replies)
        return replies

    def _pack(self, replies: Sequence[Reply]) -> tuple[list[dict[str, Any]], list[Body]]:
        """Describe replies and collect their bodies; one of several that is too large becomes an error of its own."""
        items: list[dict[str, Any]] = []
        buffers: list[Body] = []
        total = 0
        for reply in replies:
            item, parts, end = _packed(reply, total)
            if end - total > self._launch.max_reply_bytes:
                error = self._too_large(end - total)
                if len(replies) == 1:
                    raise error
                item, parts, end = _packed(_error_reply(error), total)
            items.append(item)
            buffers += parts
            total = end
        return items, buffers

    def _too_large(self, size: int) -> HandlerError:
        return HandlerError(
            f"The handler's answer has {size} bytes and {self._launch.max_reply_bytes} are allowed "
            "(WHARF_MAX_REPLY_BYTES): answer less, or stream it."
        )

    def _stream(self, call: int, chunks: Any, opening: _Opening) -> None:
        """Send the chunks and the end; what fails before anything was sent is raised."""
        error: dict[str, Any] | None = None

        def send(chunk: bytes) -> bool:
            opening.send()
            return self._send(call, chunk)

        try:
            if hasattr(chunks, "push"):
                chunks.push(send)
            else:
                for chunk in chunks:
                    if not self._send(call, chunk):
                        break
        except ChannelError:
            raise
        except BaseException as fault:
            if not opening.is_sent:
                raise
            error = _told(fault)
            if isinstance(fault, (SystemExit, KeyboardInterrupt)):
                raise
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                _run_quietly(close)
        opening.send()
        self._channel.send(Kind.END, call, error)

    def _send(self, call: int, chunk: bytes) -> bool:
        """Send a chunk, unless it is wanted no more, and return whether the next one is.

        Ranks stop after the same chunk: one that went on alone would wait for the others for ever.
        """
        if not self._launch.ranks and self._channel.has_input():
            return False
        self._channel.send(Kind.CHUNK, call, None, [chunk])
        return not self._launch.ranks or self._is_wanted()

    def _is_wanted(self) -> bool:
        kind = self._channel.receive().kind
        self._is_stopped = kind is Kind.STOP  # `run` hears of it when the stream has ended
        return kind is Kind.NEXT


class _Opening:
    """A reply but for its chunks: it is sent once, before them."""

    def __init__(self, channel: Channel, call: int, items: list[dict[str, Any]], buffers: list[Body]) -> None:
        self._channel = channel
        self._call = call
        self._items, self._buffers = items, buffers
        self.is_sent = False

    def send(self) -> None:
        """Let go of the request, and send it, if that is still to be done."""
        if not self.is_sent:
            self._channel.release()
            self._channel.send(Kind.REPLY, self._call, {"items": self._items}, self._buffers)
            self.is_sent = True


def _request(item: dict[str, Any], body: Body) -> Request:
    headers, query, about = item["headers"], item.get("query", ""), item.get("about", {})
    if "tensors" in item:
        return Request(b"", headers, tensor_frames.unpack(item["tensors"], body), query, about)
    start, size = item["at"], item["bytes"]
    # Of a view a view of its own: theirs stays valid when ours is let go.
    whole = size == len(body) and isinstance(body, bytes)
    return Request(body if whole else memoryview(body)[start : start + size], headers, None, query, about)


def _packed(reply: Reply, start: int) -> tuple[dict[str, Any], list[Body], int]:
    """Return the description of a reply whose body begins at `start`, the parts of that, and where it ends."""
    item: dict[str, Any] = {"status": reply.status, "headers": reply.headers, "at": start}
    if reply.tensors is not None:
        item["tensors"], parts, end = tensor_frames.pack(reply.tensors, start)
        return item, parts, end
    item["bytes"], item["is_stream"] = len(reply.body), reply.chunks is not None
    return item, [reply.body], start + len(reply.body)


def _error_reply(error: HandlerError) -> Reply:
    return Reply(_dumps({"error": str(error)}).encode(), error.status, {"Content-Type": "application/json"})


def _gather_chunks(replies: Sequence[Reply]) -> None:
    """Make whole bodies of chunks: several requests cannot be streamed to at once. One that fails closes them all."""
    with ExitStack() as stack:
        for reply in replies:
            stack.callback(_run_quietly, getattr(reply.chunks, "close", lambda: None))
        for reply in replies:
            reply.whole()


def _told(error: BaseException) -> dict[str, Any]:
    if not isinstance(error, HandlerError):
        _print_exception(type(error), error, error.__traceback__)
    return {"status": _status(error, 424), "message": _said(error)}


def _status(error: BaseException, otherwise: int) -> int:
    if isinstance(error, HandlerError):
        return error.status
    # torch's and CuPy's own are no MemoryError; a class's name is a type, not words in a message.
    is_memory = isinstance(error, MemoryError) or any(
        each.__name__ == "OutOfMemoryError" for each in type(error).__mro__
    )
    return 507 if is_memory else otherwise


def _said(error: BaseException) -> str:
    """Return an exception's last line, as a traceback ends: its type and what it says."""
    if isinstance(error, HandlerError):
        return str(error)[:_MESSAGE_MAX_CHARS]
    if isinstance(error, SystemExit):
        return f"The handler called sys.exit({error.code!r})."[:_MESSAGE_MAX_CHARS]
    try:
        lines = "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()
    except Exception:  # an exception whose own __str__ fails
        lines = [type(error).__name__]
    return lines[-1][:_MESSAGE_MAX_CHARS]


def _run_quietly(function: Any) -> None:
    try:
        function()
    except Exception as error:
        _print_exception(type(error), error, error.__traceback__)
