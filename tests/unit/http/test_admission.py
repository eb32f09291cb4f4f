"""Who may come in, and that a refused body holds nobody up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import IO

import pytest

from serving.errors import PayloadTooLargeError, UnavailableError
from serving.http.admission import Admission
from tests.unit.house import others


def test_what_comes_in_is_counted_until_it_leaves() -> None:
    """Requests and their bytes."""
    admission = Admission(2, 100, 1000)
    first, second = admission.enter(60), admission.enter(None)
    assert (admission.in_flight, admission.body_bytes, first, second) == (2, 160, 60, 100)

    admission.leave(first)
    admission.leave(second)
    assert (admission.in_flight, admission.body_bytes) == (0, 0)


def test_past_the_cap_the_answer_is_503_at_once_and_nothing_is_counted() -> None:
    """It names its setting."""
    admission = Admission(1, 100, 1000)
    admission.enter(0)
    with pytest.raises(UnavailableError, match="1 requests are in flight, the limit \\(WHARF_MAX_IN_FLIGHT\\)"):
        admission.enter(0)

    assert (admission.in_flight, admission.body_bytes) == (1, 0)


def test_bodies_have_a_cap_of_their_own() -> None:
    """503 before a byte is read, with both figures; a smaller one still fits."""
    admission = Admission(10, 1024, 2048)
    admission.enter(1024)
    admission.enter(512)
    with pytest.raises(UnavailableError, match=r"hold 1\.5 KiB of 2\.0 KiB \(WHARF_BODY_MEMORY\)"):
        admission.enter(1024)
    admission.enter(512)

    assert admission.body_bytes == 2048


def test_one_largest_body_always_fits() -> None:
    """A cap below the largest body would never let it in."""
    admission = Admission(10, 1000, 10)

    assert admission.enter(None) == 1000


def test_a_body_over_the_limit_is_413() -> None:
    """With the limit and its setting."""
    with pytest.raises(
        PayloadTooLargeError, match="has 101 bytes and at most 100 are taken \\(WHARF_MAX_BODY_BYTES\\)"
    ):
        Admission(10, 100, 1000).enter(101)


def test_many_threads_never_pass_the_caps() -> None:
    """And the counts end at zero."""
    admission, highest, refused = Admission(3, 100, 250), [0, 0], 0

    def work(_: int) -> None:
        nonlocal refused
        for _ in range(300):
            try:
                held = admission.enter(100)
            except UnavailableError:
                refused += 1
                continue
            highest[0] = max(highest[0], admission.in_flight)
            highest[1] = max(highest[1], admission.body_bytes)
            admission.leave(held)

    with others() as pool:
        list(pool.map(work, range(8)))
    assert highest[0] <= 2  # the bodies bind before the requests
    assert highest[1] <= 250
    assert (admission.in_flight, admission.body_bytes) == (0, 0)


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket, IO[bytes]]]:
    """A connection: the client's end, the server's end, and the server's as a stream."""
    client, server = socket.socketpair()
    stream = server.makefile("rb")
    yield client, server, stream
    stream.close()
    client.close()
    server.close()


def _send_all(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


Line = tuple[socket.socket, socket.socket, IO[bytes]]


def test_a_refused_body_is_read_to_its_end(line: Line) -> None:
    """The client may finish sending and then finds the answer."""
    client, server, stream = line
    with others() as pool:
        sending = pool.submit(_send_all, client, b"x" * 300_000)
        Admission(1, 100_000, 1).swallow(stream, server)
        sending.result(5)
    server.sendall(b"HTTP/1.1 503")

    assert client.recv(100) == b"HTTP/1.1 503"


def test_no_more_is_swallowed_than_four_times_the_largest(line: Line) -> None:
    """A body without an end does not bind the thread."""
    client, server, stream = line
    with others() as pool:
        sending = pool.submit(client.sendall, b"x" * 3000)
        Admission(1, 100, 1).swallow(stream, server)
        sending.result(5)
    assert len(stream.read(2600)) == 2600


@pytest.mark.parametrize("is_dripping", [False, True])
def test_a_client_that_sends_slowly_or_nothing_gives_the_thread_back(line: Line, is_dripping: bool) -> None:
    """Sixteen of them would otherwise take /ping's threads."""
    client, server, stream = line
    done = threading.Event()

    def drip() -> None:
        while not done.wait(0.02):
            try:
                client.send(b"x")
            except OSError:
                return

    with others() as pool:
        if is_dripping:
            pool.submit(drip)
        swallowing = pool.submit(Admission(1, 1_000_000, 1).swallow, stream, server)
        try:
            swallowing.result(3)
        finally:
            done.set()
            client.shutdown(socket.SHUT_WR)
    server.sendall(b"HTTP/1.1 503")
    assert client.recv(100) == b"HTTP/1.1 503"


def test_a_stream_that_breaks_is_no_error_of_ours(line: Line) -> None:
    """The request is refused either way."""

    class Broken:
        def read(self, count: int) -> bytes:
            raise ConnectionResetError

    Admission(1, 100, 1).swallow(Broken(), line[1])  # type: ignore[arg-type]  # all that is asked of it is read
