"""HTTP as clients really send it, byte by byte: versions, pipelines, broken chunks, and clients that dawdle."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.conftest import StartServer
from tests.models import make_fake
from tests.server import RunningServer
from tests.waiting import until

BODY = b'{"instances": [[1.0]]}'
ANSWER = b'{"predictions":[[4.0]]}'


@pytest.fixture(scope="module", params=["granian", "gunicorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all that only ask."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "models").mkdir()
    make_fake(folder / "models", "quick")
    with RunningServer(folder / "models", folder / "log", {"WHARF_HTTP_SERVER": request.param}) as server:
        yield server
        assert "Traceback" not in server.log()


def _connect(server: RunningServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=10)


def _request(head: str, body: bytes = BODY, version: str = "1.1", method: str = "POST") -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if "Transfer-Encoding" not in head else ""
    return f"{method} /models/quick/invoke HTTP/{version}\r\nHost: x\r\n{length}{head}\r\n".encode() + body


def _read(connection: socket.socket, last: bytes) -> bytes:
    """Read until these bytes came, or the end."""
    got = b""
    while last not in got and (part := connection.recv(65536)):
        got += part
    return got


def test_http_1_0_is_answered_and_closed(server: RunningServer) -> None:
    """Old health checkers."""
    with _connect(server) as connection:
        connection.sendall(_request("", version="1.0"))
        answer = _read(connection, b"never")

    assert answer.startswith(b"HTTP/1.0 200")
    assert answer.endswith(ANSWER)


def test_a_client_that_asks_first_is_told_to_go_on(server: RunningServer) -> None:
    """curl does so for bodies over a kilobyte."""
    with _connect(server) as connection:
        connection.sendall(_request("Expect: 100-continue\r\n", b"").replace(b"Length: 0", b"Length: %d" % len(BODY)))
        assert _read(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 100")
        connection.sendall(BODY)
        assert _read(connection, ANSWER).startswith(b"HTTP/1.1 200")


def test_a_client_that_asks_first_for_too_much_is_refused_without_its_body(server: RunningServer) -> None:
    """413 and not 100: nothing is sent in vain."""
    with _connect(server) as connection:
        head = _request("Expect: 100-continue\r\nConnection: close\r\n", b"")
        connection.sendall(head.replace(b"Length: 0", b"Length: 99999999"))
        assert b" 413 " in _read(connection, b"WHARF_MAX_BODY_BYTES")


def test_requests_in_one_packet_are_answered_in_order(server: RunningServer) -> None:
    """Pipelining."""
    with _connect(server) as connection:
        bodies = enumerate((BODY, b"{", BODY))
        connection.sendall(b"".join(_request(f"X-Request-Id: {number}\r\n", body) for number, body in bodies))
        answer = b""
        while answer.count(ANSWER) < 2:
            answer += connection.recv(65536)

    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"400", b"200"]
    assert re.findall(rb"(?i)x-request-id: (\d)", answer) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("path", ["/ping", "/models", "/models/quick", "/metrics", "/repository", "/nothing"])
def test_head_is_get_without_the_body(server: RunningServer, path: str) -> None:
    """Same status; the connection stays usable."""
    server.client.post("/models/quick/invoke", json={"instances": [[1]]})
    head, get = server.client.head(path), server.client.get(path)

    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["Content-Type" if path != "/ping" else "Content-Length"]


@pytest.mark.parametrize(
    "wire",
    [
        _request("Transfer-Encoding: chunked\r\n", b"zz\r\n" + BODY),
        _request("Transfer-Encoding: chunked\r\n", b"-5\r\n" + BODY),
        _request("Content-Length: " + "9" * 5000 + "\r\n", BODY).replace(b"Content-Length: 22\r\n", b""),
        _request("X: " + "a" * 600_000 + "\r\n"),
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET /ping HTTP/9.9\r\n\r\n",
    ],
    ids=["chunk", "negative chunk", "length", "header", "uri", "tls", "version"],
)
def test_what_is_not_http_is_a_4xx_and_the_server_lives(server: RunningServer, wire: bytes) -> None:
    """Never a 500, never a traceback, whoever of us finds it."""
    with _connect(server) as connection:
        try:
            connection.sendall(wire)
            answer = _read(connection, b"\r\n\r\n")
        except ConnectionError:  # refused before it was read to its end
            answer = b""

    assert answer == b"" or re.match(rb"HTTP/1.[01] (4\d\d|505) ", answer), answer[:200]
    assert server.client.get("/ping").status_code == 200


def test_a_client_that_goes_away_in_the_middle_gives_its_place_back(server: RunningServer) -> None:
    """Of its body, or of its answer."""
    for _ in range(20):
        with _connect(server) as connection:
            connection.sendall(_request("")[:-5])
        with _connect(server) as connection:
            connection.sendall(_request(""))

    until(lambda: "\nInFlight 0.0" in server.client.get("/metrics").text)
    assert server.client.post("/models/quick/invoke", content=BODY).content == ANSWER


def test_many_clients_that_dawdle_do_not_starve_the_health_check(start_server: StartServer, http_server: str) -> None:
    """150 bodies of a byte now and then: /ping and the list stay quick, invocations get 503 at once, not silence."""
    server = start_server(WHARF_HTTP_SERVER=http_server, WHARF_MAX_IN_FLIGHT="20", WHARF_SHUTDOWN_TIMEOUT="0.5")
    make_fake(server.root, "quick")
    with ExitStack() as stack:
        slow = [stack.enter_context(_connect(server)) for _ in range(150)]
        for connection in slow:
            connection.sendall(_request("", b"x" * 5000)[:-4990])
        for _ in range(3):
            for connection in slow[:20]:
                with suppress(OSError):  # a refused one
                    connection.send(b" ")
            for path in ("/ping", "/models"):
                started = time.monotonic()
                assert httpx.get(server.url + path, timeout=10).status_code == 200
                assert time.monotonic() - started < 2
        answer = httpx.post(f"{server.url}/models/quick/invoke", content=BODY, timeout=10)
        assert (answer.status_code, "WHARF_MAX_IN_FLIGHT" in answer.text) == (503, True)
    until(lambda: server.client.post("/models/quick/invoke", content=BODY).status_code == 200)
