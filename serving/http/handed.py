"""Requests that are handed over to people's code as they came, and what comes back.

Turns a WSGI environ into a handler's request and a handler's reply into status and headers; a reply in chunks becomes a
`Stream`, which holds its model until the client has read it or left. Knows no model; `sagemaker` calls it.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator

from serving.http.replies import Environ, Headers
from serving.workers.handler import Reply, Request

log = logging.getLogger("wharf.http")

# RFC 9110 5.6.2: what a header's name may be; its value may be no line break.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# The framing of a reply is the HTTP server's.
_NOT_THEIRS = frozenset(("content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "trailer", "te"))


class Stream:
    """The body of a reply in chunks; `at_end` runs once: at its end, its failure, or when the client leaves."""

    def __init__(self, chunks: Iterator[bytes], at_end: Callable[[], None]) -> None:
        self._chunks = chunks
        self._at_end: list[Callable[[], None]] = [at_end]

    def when_over(self, function: Callable[[], None]) -> None:
        """Add something to do at the end."""
        self._at_end.append(function)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except StopIteration:
            self.close()
            raise
        except Exception as error:
            log.warning("event=stream_failed error=%r", str(error))
            self.close()
            raise

    def close(self) -> None:
        """End it, early or not; called by the HTTP server."""
        todo, self._at_end = self._at_end, []
        try:
            with contextlib.suppress(Exception):
                getattr(self._chunks, "close", lambda: None)()
        finally:
            for function in todo:
                function()


def request_of(environ: Environ, body: bytes) -> Request:
    """Return what a handler gets of a request: all headers in Title-Case, the body, the query."""
    headers = {name[5:].replace("_", "-").title(): value for name, value in environ.items() if name.startswith("HTTP_")}
    for name, header in (("CONTENT_TYPE", "Content-Type"), ("CONTENT_LENGTH", "Content-Length")):
        if environ.get(name):
            headers[header] = environ[name]
    return Request(body, headers, None, environ.get("QUERY_STRING", ""))


def headers_of(reply: Reply) -> Headers:
    """Return a handler's headers as they may go out; what no HTTP header can be is left out, with a log line."""
    headers: Headers = []
    for name, value in reply.headers.items():
        if not _TOKEN.fullmatch(name) or not value.isprintable() or not value.isascii():
            log.warning("event=header_dropped name=%r reason='not a legal header'", name[:80])
        elif name.lower() not in _NOT_THEIRS:
            headers.append((name, value))
    return headers
