"""A request handed to a WSGI app as the servers hand it over, and its answer taken apart."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class Answer:
    """Status, headers (the last of each name) and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The sentence of an error's body."""
        return str(json.loads(self.body)["error"])

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def environ_of(method: str, target: str, body: bytes = b"", **headers: str) -> dict[str, Any]:
    """Build an environ; `headers` by their WSGI names in small letters (content_type, accept, x_request_id)."""
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "SCRIPT_NAME": "",
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "Granian",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.version": (1, 0),
    }
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    for name, value in headers.items():
        plain = name.upper()
        environ[plain if plain in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{plain}"] = value
    return environ


def call(app: WsgiApp, environ: dict[str, Any]) -> Answer:
    """Send one request; its Content-Length must be true."""
    got: list[Any] = []
    parts = app(environ, lambda status, headers, exc_info=None: got.extend((status, headers)))
    body = b"".join(parts)
    headers = dict(got[1])
    assert environ["REQUEST_METHOD"] == "HEAD" or int(headers["Content-Length"]) == len(body)
    return Answer(int(got[0].split(" ")[0]), headers, body)


def ask(app: WsgiApp, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
    """Build and send one request."""
    return call(app, environ_of(method, target, body, **headers))
