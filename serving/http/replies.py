"""Errors become replies here, and only here.

A `ServingError` has its status and its sentence; anything else is a 500 whose traceback goes to the log. Bodies are
JSON: `{"error": "..."}`. Called by the raw WSGI routes and by the Flask app alike.
"""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

import orjson

from serving.errors import MethodNotAllowedError, ServingError

log = logging.getLogger("wharf.http")

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
StartResponse = Callable[..., Any]
# A body that is not bytes is iterated by the HTTP server, chunk by chunk, and closed.
Reply = tuple[int, Headers, bytes | Iterable[bytes]]

JSON = ("Content-Type", "application/json")
STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


_KEY = "wharf.request_id"


class RequestIds:
    """Ids of requests: the caller's own where it is usable, else a new one."""

    def __init__(self) -> None:
        self._count = itertools.count(1)
        # Ids of two lives of the server must differ; a counter is cheaper than a UUID a request.
        self._prefix = secrets.token_hex(4)

    def __call__(self, environ: Environ) -> str:
        """Return the id of a request: `X-Request-Id` when it is printable ASCII of at most 128 characters.

        The first answer stands in the environ and is every later one.
        """
        known = environ.get(_KEY)
        if known is not None:
            return str(known)
        given = environ.get("HTTP_X_REQUEST_ID")
        if given and len(given) <= 128 and given.isascii() and given.isprintable():
            environ[_KEY] = str(given)
        else:
            environ[_KEY] = f"{self._prefix}-{next(self._count)}"
        return str(environ[_KEY])


def json_reply(value: object, status: int = 200) -> Reply:
    """Return `value` as JSON."""
    return status, [JSON], orjson.dumps(value)


def error_reply(error: BaseException, request_id: str) -> Reply:
    """Return the reply for any exception; what is not a `ServingError` is logged with its traceback."""
    if not isinstance(error, ServingError):
        log.error("event=internal_error request_id=%s", request_id, exc_info=error)
        return json_reply({"error": f"Internal error; the log has it under request id {request_id}."}, 500)
    status, headers, body = json_reply({"error": error.message}, error.status)
    if error.retry_after_s is not None:
        headers.append(("Retry-After", str(error.retry_after_s)))
    if isinstance(error, MethodNotAllowedError):
        headers.append(("Allow", error.allow))
    return status, headers, body


def send(reply: Reply, start_response: StartResponse) -> Iterable[bytes]:
    """Hand a reply to the WSGI server."""
    status, headers, body = reply
    if isinstance(body, bytes):
        headers.append(("Content-Length", str(len(body))))
        body = [body]
    start_response(STATUS_LINES.get(status) or f"{status} Unknown", headers)
    return body
