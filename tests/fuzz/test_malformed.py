"""Ten thousand malformed requests over every route, header and body, against a real server."""

from __future__ import annotations

import re
import socket

import pytest
from hypothesis import strategies as st

from tests.conftest import StartServer
from tests.fuzz.barrage import fire
from tests.models import make_fake
from tests.server import RunningServer

# Of 20 requests each.
EXAMPLES = 500
# Those that a server gives on purpose: too busy, load failed, no room. 500 is only ever a failed load's.
DELIBERATE = {503, 504, 507}

methods = st.sampled_from(["GET", "POST", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "BREW"])
names = st.one_of(
    st.sampled_from(["tiny", "broken", "none", "..", "%2e%2e", "%00", "%ff%fe", "a%2Fb", "%", "x" * 300, "t iny"]),
    st.text(max_size=20),
)
paths = st.one_of(
    st.sampled_from(["/ping", "/models", "/invocations", "/metrics", "/repository", "/", "*", "//models", "/models/"]),
    st.builds("/models/{}".format, names),
    st.builds("/models/{}/invoke".format, names),
    st.builds("/models?{}={}".format, st.sampled_from(["limit", "next_page_token", "x"]), st.text(max_size=12)),
    st.text(max_size=30),
)
types = st.sampled_from(
    ["application/json", "text/csv", "application/jsonlines", "application/x-npy", "application/x-npz", ""]
    + ["application/octet-stream", "image/png", "application/json; charset=\xff", ";;;", "*/*", "a/b/c", ","]
)
texts = st.one_of(types, st.text(max_size=30), st.sampled_from(["gzip", "-1", "99999999999999999999", "tiny", "../x"]))
headers = st.lists(
    st.tuples(
        st.sampled_from(
            ["Content-Type", "Accept", "X-Amzn-SageMaker-Target-Model", "X-Amzn-SageMaker-Custom-Attributes"]
            + ["Authorization", "X-Request-Id", "Content-Encoding", "Expect", "Range", "Cookie", "X-Odd"]
        ),
        texts,
    ),
    max_size=4,
)
json_bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["instances", "inputs", "x", "model_name", "url", "name", "data", "shape"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


def _as_text(value: object) -> bytes:
    return repr(value).replace("'", '"').replace("None", "null").replace("True", "true").encode()


ODD_BODIES = [
    *(b"", b"{", b'{"instances": [[1,2],[3]]}', b"[" * 5000, b'{"instances": [[1e999]]}', b"1,2\n3", b"\x93NUMPY"),
    *(b"PK\x03\x04", b'{"model_name": "tiny", "url": "/etc"}', b'{"instances": [[1.0, 2.0]]}', b"\xff\xfe\x00"),
    *(b"NaN", b"0" * 5000),
]
bodies = st.one_of(st.binary(max_size=200), json_bodies.map(_as_text), st.sampled_from(ODD_BODIES))
requests = st.tuples(methods, paths, headers, bodies)


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _encode(method: str, path: str, fields: list[tuple[str, str]], body: bytes) -> bytes:
    """Write a request whose framing is right: what it says is not, that is the point."""
    target = _CONTROL.sub("", path).replace(" ", "") or "/"
    lines = [f"{method} {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {_CONTROL.sub('', value)}" for name, value in fields]
    return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body


class _Connection:
    """A keep-alive connection; a server that closes it after an answer is followed with a new one."""

    def __init__(self, server: RunningServer) -> None:
        self._port = int(server.url.rpartition(":")[2])
        self._socket: socket.socket | None = None

    def ask(self, wire: bytes, *, is_head: bool) -> tuple[int, bytes]:
        """Send one request; return status and everything that came back."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=20)
        self._socket.sendall(wire)
        answer = b""
        while b"\r\n\r\n" not in answer:
            chunk = self._socket.recv(65536)
            assert chunk, f"closed without an answer to {wire!r}"
            answer += chunk
        head, _, rest = answer.partition(b"\r\n\r\n")
        found = re.search(rb"(?i)content-length: *(\d+)", head)
        length = int(found[1]) if found and not is_head else 0
        while len(rest) < length:
            rest += self._socket.recv(65536)
        if re.search(rb"(?i)connection: *close", head) or head.startswith(
            (b"HTTP/1.1 400", b"HTTP/1.1 100", b"HTTP/1.0")
        ):
            self.close()
        return int(head.split(b" ", 2)[1]), head + rest

    def close(self) -> None:
        """Drop the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@pytest.mark.parametrize("http_server", ["granian", "gunicorn"])
def test_ten_thousand_malformed_requests_get_a_deliberate_answer(start_server: StartServer, http_server: str) -> None:
    """Never a 5xx other than deliberate ones, never a traceback on the wire, and the server lives."""
    server = start_server(WHARF_HTTP_SERVER=http_server, WHARF_ACCESS_LOG="off", SAGEMAKER_MULTI_MODEL="true")
    for name, config in (("tiny", {}), ("broken", {"fail_load": "no good"})):
        make_fake(server.root, name, **config)
    server.client.post("/models", json={"model_name": "tiny", "url": str(server.root / "tiny")})
    connection = _Connection(server)

    def check(request: tuple[str, str, list[tuple[str, str]], bytes]) -> None:
        method, path, fields, body = request
        wire = _encode(method, path, fields, body)
        status, answer = connection.ask(wire, is_head=method == "HEAD")
        assert status < 500 or status in DELIBERATE, (wire, answer)
        assert b"Traceback" not in answer, wire
        assert b'File "' not in answer, wire

    fire(requests, EXAMPLES // (1 if http_server == "granian" else 5), check)
    connection.close()
    assert server.client.get("/ping").status_code == 200
    again = server.client.post("/models", json={"model_name": "tiny", "url": str(server.root / "tiny")})
    assert again.status_code in (200, 409)  # a DELETE among the requests may have hit it
    assert server.client.post("/models/tiny/invoke", json={"instances": [[1]]}).json() == {"predictions": [[4.0]]}
    assert "internal_error" not in server.log()
