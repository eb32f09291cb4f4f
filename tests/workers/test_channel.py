"""The channel: messages come whole, large bodies by shared memory, and a worker that lies costs its caller an error."""

from __future__ import annotations

import array
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from serving.workers import channel
from serving.workers.channel import (
    META_MAX_BYTES,
    SHARED_FROM_BYTES,
    Channel,
    ChannelError,
    Kind,
    LateError,
    Message,
    PeerGoneError,
    ProtocolError,
    pair,
)
from tests.workers.processes import files_of, open_files, soon

MIB = 1 << 20
HEADER = struct.Struct("<BBHIIQ")
IN_SEGMENT = 1
Ends = tuple[Channel, Channel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The server's end and the worker's."""
    server, theirs = pair()
    worker = Channel(theirs, maps=True)
    yield server, worker
    server.close()
    worker.close()


@pytest.fixture
def hostile() -> Iterator[tuple[Channel, socket.socket]]:
    """The server's end, with a limit of 8 MiB, and a bare socket in the hands of a worker that means harm."""
    server, theirs = pair(body_max_bytes=8 * MIB)
    yield server, theirs
    server.close()
    theirs.close()


def header(kind: int = Kind.REPLY, flags: int = 0, fds: int = 0, meta: int = 0, size: int = 0) -> bytes:
    return HEADER.pack(kind, flags, fds, 1, meta, size)


def memfd(count: int) -> int:
    number = os.memfd_create("test")
    os.ftruncate(number, count)
    return number


def send_with(sock: socket.socket, data: bytes, numbers: list[int]) -> None:
    """Send bytes and files, and keep none of the files."""
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers))])
    for number in numbers:
        os.close(number)


# ---- what arrives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_answer", [False, True])
@pytest.mark.parametrize("size", [0, 1, 4096, SHARED_FROM_BYTES - 1, SHARED_FROM_BYTES, SHARED_FROM_BYTES + 1, 6 * MIB])
def test_a_body_of_any_size_arrives_as_it_was(ends: Ends, size: int, is_answer: bool) -> None:
    """In both directions, on both sides of the limit from which memory is shared."""
    sender, receiver = ends[::-1] if is_answer else ends
    body = os.urandom(size)
    sender.send(Kind.CALL, 7, {"a": [1, "ü"]}, [body[: size // 3], memoryview(body)[size // 3 :]], deadline=soon())
    got = receiver.receive(soon())

    assert (got.kind, got.call, got.meta, bytes(got.body), got.fds) == (Kind.CALL, 7, {"a": [1, "ü"]}, body, [])


def test_a_hundred_megabytes_come_through(ends: Ends) -> None:
    """Batch transform may send so much; nothing of it stays in the channel."""
    server, worker = ends
    body = os.urandom(MIB) * 100
    server.send(Kind.CALL, 1, None, [body], deadline=soon())
    got = worker.receive(soon())

    assert got.body == body
    del got
    worker.release()
    assert server._out is None


def test_many_small_messages_stay_apart(ends: Ends) -> None:
    """A hundred may be in the socket before the first is read."""
    server, worker = ends
    for number in range(150):
        server.send(Kind.CALL, number, {"n": number}, [b"x" * number], deadline=soon())
    got = [worker.receive(soon()) for _ in range(150)]

    assert [(each.call, each.meta["n"], len(each.body)) for each in got] == [(n, n, n) for n in range(150)]


def test_a_message_that_comes_byte_by_byte_is_whole(hostile: tuple[Channel, socket.socket]) -> None:
    """A stream socket may cut anywhere."""
    server, sock = hostile
    data = header(meta=7, size=3) + b'{"a":1}' + b"xyz"

    def drip() -> None:
        for each in data:
            sock.sendall(bytes([each]))

    with ThreadPoolExecutor(1) as threads:
        threads.submit(drip)
        got = server.receive(soon())
    assert (got.meta, got.body) == ({"a": 1}, b"xyz")


def test_a_message_larger_than_the_socket_is_read_while_it_is_written(ends: Ends) -> None:
    """Headers of 3 MiB are no reason to fail, and a body behind them neither."""
    server, worker = ends
    meta = {"long": "x" * 3 * MIB}
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(server.send, Kind.CALL, 1, meta, [b"y" * 1000], deadline=soon())
        got = worker.receive(soon())
        sent.result()
    assert (got.meta, got.body) == (meta, b"y" * 1000)


def test_thousands_of_buffers_are_one_body(ends: Ends) -> None:
    """A model with a thousand small outputs: more buffers than one system call takes (IOV_MAX is 1,024)."""
    server, worker = ends
    server.send(Kind.CALL, 1, None, [bytes([n % 256]) for n in range(5000)], deadline=soon())

    assert worker.receive(soon()).body == bytes(n % 256 for n in range(5000))


def test_files_come_along_and_are_the_receivers(ends: Ends) -> None:
    """A channel for a worker to be travels like this, beside a large body or none."""
    server, worker = ends
    for size in (0, 2 * SHARED_FROM_BYTES):
        mine = memfd(5)
        server.send(Kind.SPAWN, 1, None, [bytes(size)], fds=[mine, mine], deadline=soon())
        os.close(mine)
        got = worker.receive(soon())
        assert [os.fstat(each).st_size for each in got.fds] == [5, 5]
        for each in got.fds:
            os.close(each)
        worker.release()


def test_chunks_may_follow_a_body_and_each_other(ends: Ends) -> None:
    """Nobody answers a chunk, so none may lie where one that is not read yet lies."""
    server, worker = ends
    bodies = [bytes([n]) * (SHARED_FROM_BYTES + n) for n in range(20)]
    worker.send(Kind.REPLY, 1, None, [bodies[0]], deadline=soon())
    for body in bodies[1:]:
        worker.send(Kind.CHUNK, 1, None, [body], deadline=soon())

    assert [server.receive(soon()).body for _ in bodies] == bodies


# ---- shared memory is used again -------------------------------------------------------------------------------------


def _call(ends: Ends, body: bytes) -> Message:
    server, worker = ends
    server.send(Kind.CALL, 1, None, [body], deadline=soon())
    return worker.receive(soon())


def _answer(ends: Ends) -> None:
    server, worker = ends
    worker.release()
    worker.send(Kind.REPLY, 1, None, [b"y" * 100_000], deadline=soon())
    server.receive(soon())


def test_one_segment_serves_every_call_once_nobody_looks_at_it(ends: Ends) -> None:
    """A fresh one costs 230 us, the same one 6; each way has its own."""
    server, worker = ends
    segments = set()
    for number in range(5):
        assert _call(ends, bytes([number]) * 100_000).body == bytes([number]) * 100_000
        _answer(ends)
        segments.add((id(server._out), id(worker._out)))
    assert len(segments) == 1


def test_what_somebody_still_looks_at_is_never_written_again(ends: Ends) -> None:
    """A handler may keep an array of its first request for ever; it stays right, and the next body goes elsewhere."""
    np = pytest.importorskip("numpy")
    kept = []
    for number in range(1, 6):
        kept.append(np.frombuffer(_call(ends, bytes([number]) * 100_000).body, np.uint8))
        _answer(ends)
    assert [(each.min(), each.max()) for each in kept] == [(n, n) for n in range(1, 6)]


def test_what_a_handler_writes_into_its_request_is_gone_with_it(ends: Ends) -> None:
    """People scale arrays in place: nobody crashes, and the next body is as it was sent."""
    np = pytest.importorskip("numpy")
    for number in range(1, 4):
        array = np.frombuffer(_call(ends, bytes([number]) * 100_000).body, np.uint8)
        assert (array.min(), array.max()) == (number, number)
        array[:] = 0
        del array
        _answer(ends)


def test_a_mapping_stays_for_the_next_call(ends: Ends) -> None:
    """To map 600 KB anew costs 56 us; what is too large to stay goes."""
    _call(ends, b"x" * 100_000)
    _answer(ends)
    first = ends[1]._in
    assert _call(ends, b"y" * 200_000).body == b"y" * 200_000
    assert first is not None and ends[1]._in is first
    _answer(ends)
    _call(ends, b"z" * 9 * MIB)
    _answer(ends)
    assert ends[1]._in is None


def test_a_thousand_calls_leave_no_file_open(ends: Ends) -> None:
    """Large and small by turns, kept and not."""
    _call(ends, b"x" * 100_000)
    _answer(ends)
    before = open_files()
    for number in range(1000):
        _call(ends, b"x" * (100_000 if number % 2 else 9 * MIB if number % 100 == 0 else 10))
        _answer(ends)
    assert open_files() <= before


# ---- deadlines and ends ----------------------------------------------------------------------------------------------


def test_nothing_to_receive_is_late_at_the_deadline(ends: Ends) -> None:
    """Neither before nor much after it."""
    began = time.monotonic()
    with pytest.raises(LateError):
        ends[0].receive(soon(0.05))
    assert 0.04 < time.monotonic() - began < 2


def test_a_message_that_stops_in_the_middle_is_late(hostile: tuple[Channel, socket.socket]) -> None:
    """The deadline is for all of it, not for each byte."""
    server, sock = hostile
    sock.sendall(header(size=1000) + b"x" * 10)
    with pytest.raises(LateError):
        server.receive(soon(0.05))


def test_a_peer_that_does_not_read_is_late_for_the_sender(ends: Ends) -> None:
    """The socket's buffer fills; nobody is stuck in it."""
    with pytest.raises(LateError):
        for number in range(100_000):
            ends[0].send(Kind.CALL, number, None, [b"x" * 60_000], deadline=soon(0.05))


def test_one_long_message_that_nobody_reads_is_late(ends: Ends) -> None:
    """Half of it is in the socket."""
    with pytest.raises(LateError):
        ends[0].send(Kind.CALL, 1, {"long": "x" * 3 * MIB}, deadline=soon(0.05))


def test_a_deadline_in_the_past_is_late_at_once(ends: Ends) -> None:
    """It is no wait without end."""
    with pytest.raises(LateError):
        ends[0].receive(time.monotonic() - 100)


@pytest.mark.parametrize("part", [b"", b"\1", header(size=10), header(size=10) + b"x"])
def test_a_peer_that_ends_is_gone_wherever_it_stopped(hostile: tuple[Channel, socket.socket], part: bytes) -> None:
    """Killed before, in or after its header."""
    server, sock = hostile
    sock.sendall(part)
    sock.close()
    with pytest.raises(PeerGoneError):
        server.receive(soon())


def test_sending_to_a_peer_that_is_gone_says_so(ends: Ends) -> None:
    """And a large body leaves no memory behind."""
    server, worker = ends
    worker.close()
    before = open_files()
    for size in (10, 100_000, 9 * MIB):
        with pytest.raises(PeerGoneError):
            server.send(Kind.CALL, 1, None, [bytes(size)], deadline=soon())
    server.close()
    assert open_files() < before


def test_a_closed_channel_is_a_peer_that_is_gone(ends: Ends) -> None:
    """A request may come for a worker that was just ended."""
    ends[0].close()
    with pytest.raises(PeerGoneError):
        ends[0].send(Kind.CALL, 1, deadline=soon())
    with pytest.raises(PeerGoneError):
        ends[0].receive(soon())


def test_closing_for_both_wakes_who_waits_without_a_deadline(ends: Ends) -> None:
    """The thread that listens to the zygote ends with the server."""
    server, worker = ends
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(server.receive)
        server.close_for_both()
        with pytest.raises(PeerGoneError):
            waiting.result(5)
    with pytest.raises(PeerGoneError):
        worker.receive(soon())


def test_input_is_seen_without_taking_it(ends: Ends) -> None:
    """A message, what is left of a read, and an end count; nothing does not."""
    server, worker = ends
    assert not worker.has_input()
    for _ in range(2):
        server.send(Kind.CANCEL, 1)
    for _ in range(2):
        assert worker.has_input()
        assert worker.receive(soon()).kind is Kind.CANCEL
    assert not worker.has_input()
    server.close()
    assert worker.has_input()


# ---- a worker that means harm ----------------------------------------------------------------------------------------


def _garbage() -> dict[str, Callable[[socket.socket], object]]:
    return {
        "a body of 2**63": lambda sock: sock.sendall(header(size=1 << 63)),
        "a body past the limit": lambda sock: send_with(
            sock, header(flags=IN_SEGMENT, fds=1, size=9 * MIB), [memfd(1)]
        ),
        "a large body in the socket": lambda sock: sock.sendall(header(size=7 * MIB) + b"x" * 1000),
        "meta past the limit": lambda sock: sock.sendall(header(meta=META_MAX_BYTES + 1)),
        "65,535 files": lambda sock: sock.sendall(header(fds=65_535)),
        "fewer files than it says": lambda sock: send_with(sock, header(fds=3), [memfd(1), memfd(1)]),
        "files it never sent": lambda sock: sock.sendall(header(fds=1)),
        "shared memory without a file": lambda sock: sock.sendall(header(flags=IN_SEGMENT, size=10)),
        "less memory than it says": lambda s: send_with(s, header(flags=IN_SEGMENT, fds=1, size=MIB), [memfd(100)]),
        "no memory at all": lambda s: send_with(s, header(flags=IN_SEGMENT, fds=1, size=MIB), [os.pipe2(0)[0]]),
        "cut JSON": lambda sock: sock.sendall(header(meta=5) + b'{"a":'),
        "no JSON": lambda sock: sock.sendall(header(meta=4) + b"\xff\xfe\0\1"),
        "deep JSON": lambda sock: sock.sendall(header(meta=60_000) + b"[" * 60_000),
        "a kind that is none": lambda sock: sock.sendall(header(kind=200)),
        "a kind that is none, with files": lambda s: send_with(s, header(kind=200, fds=3), [memfd(1) for _ in "123"]),
        "noise": lambda sock: sock.sendall(bytes(range(256)) * 4),
    }


@pytest.mark.parametrize("name", _garbage())
def test_garbage_is_an_error_within_the_deadline(hostile: tuple[Channel, socket.socket], name: str) -> None:
    """Never a crash, a wait without end or a gigabyte; and no file of it stays open."""
    server, sock = hostile
    before = files_of("self")
    began = time.monotonic()
    _garbage()[name](sock)
    with pytest.raises(ProtocolError):
        server.receive(soon(2))
    server.close()
    assert time.monotonic() - began < 1
    left = files_of("self") - before
    assert len(left) <= (name == "no memory at all")  # the other end of its pipe
    for number in left:
        os.close(number)


def test_memory_that_shrinks_while_it_is_read_is_an_error_and_no_crash(hostile: tuple[Channel, socket.socket]) -> None:
    """Mapped it would be a SIGBUS in the server; it is read."""
    server, sock = hostile
    mine = memfd(8 * MIB)
    is_over = threading.Event()

    def flutter() -> None:
        while not is_over.is_set():
            os.ftruncate(mine, 100)
            os.ftruncate(mine, 8 * MIB)

    with ThreadPoolExecutor(1) as threads:
        threads.submit(flutter)
        outcomes = set()
        for _ in range(20):
            send_with(sock, header(flags=IN_SEGMENT, fds=1, size=8 * MIB), [os.dup(mine)])
            try:
                outcomes.add(len(server.receive(soon()).body))
            except ProtocolError:
                outcomes.add(0)
        is_over.set()
    os.close(mine)
    assert outcomes <= {0, 8 * MIB}


def test_files_that_nobody_announced_do_not_pile_up(hostile: tuple[Channel, socket.socket]) -> None:
    """A worker may send four with every byte; the server's table has a thousand places for all models."""
    server, sock = hostile
    before = open_files()
    with pytest.raises(ChannelError):
        for _ in range(200):
            send_with(sock, header(), [memfd(1) for _ in "1234"])
            server.receive(soon())
    assert open_files() < before + 30
    server.close()
    assert open_files() < before


def test_json_of_another_interpreter_is_the_same() -> None:
    """Without orjson it is the standard library's, bound before people's code can change it."""
    found = util.find_spec("serving.workers.channel")
    assert found is not None
    assert found.origin is not None
    lines = Path(found.origin).read_text().replace("from orjson", "from no_such_package")
    plain = ModuleType("plain_channel")
    sys.modules["plain_channel"] = plain  # dataclasses look there
    try:
        exec(compile(lines, "plain_channel", "exec"), plain.__dict__)
    finally:
        del sys.modules["plain_channel"]
    value = {"ü": [1, 2.5, None, True, "\n"]}
    fast = vars(channel)
    assert fast["_loads"](plain._dumps(value)) == plain._loads(fast["_dumps"](value)) == value
    with pytest.raises(ValueError, match="Expecting"):
        plain._loads(b'{"a":')
