"""Request bodies: admitted, read whole, counted out again.

A request has a `Place` from the moment it is admitted until its answer is whole; a stream takes the place over. Knows
what a Content-Length and a chunked body are under both HTTP servers, and Content-Encoding, which only the V2 routes
take. What a body means is the codecs' business. `sagemaker` and `v2` call it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from types import TracebackType

from serving.errors import (
    BadRequestError,
    InsufficientMemoryError,
    PayloadTooLargeError,
    ServingError,
    UnsupportedError,
)
from serving.http.admission import Admission
from serving.http.replies import Environ

# RFC 1952 and RFC 1950 by zlib's window bits; 32 + 15 finds out which of them it is.
_ENCODINGS = {"gzip": 47, "deflate": 47}
ENCODINGS = ", ".join(_ENCODINGS)


class UnknownEncodingError(UnsupportedError):
    """A Content-Encoding that is not read; the reply says which are (`ENCODINGS`)."""


class Place:
    """The place of one request, `with` which it is read and answered; left at the end, unless something keeps it."""

    __slots__ = ("_admission", "_admitted_bytes", "_environ", "_is_kept", "_model")

    def __init__(self, admission: Admission, environ: Environ, model: str) -> None:
        self._admission = admission
        self._environ = environ
        self._model = model
        self._admitted_bytes = 0
        self._is_kept = False

    def __enter__(self) -> Place:
        length = content_length(self._environ)
        try:
            self._admitted_bytes = self._admission.enter(length)
        except ServingError as error:
            # Granian reads the rest of a small body by itself. A client that asks first (100-continue) sends none.
            connection = self._environ.get("gunicorn.socket")
            is_large = isinstance(error, PayloadTooLargeError) and "HTTP_EXPECT" not in self._environ
            if connection is not None or is_large:
                self._admission.swallow(self._environ["wsgi.input"], connection)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._is_kept:
            self._leave()
        if isinstance(error, MemoryError):
            what = f"Model '{self._model}'" if self._model else "The server"
            raise InsufficientMemoryError(f"{what} ran out of memory on this request: send less at once.") from None

    def keep(self) -> Callable[[], None]:
        """Hand the place over to what outlives the `with`: return what gives it back, to be called once."""
        self._is_kept = True
        return self._leave

    def read(self) -> bytes:
        """Return the whole body; raises `BadRequestError` for one that is cut short, 413 for one that is too long."""
        length = self._environ.get("CONTENT_LENGTH")
        if length:
            body = _read(self._environ, int(length))
            if len(body) != int(length):
                raise BadRequestError(f"The body ended after {len(body)} of {length} bytes: send all of it.")
            return body
        if not self._environ.get("wsgi.input_terminated"):
            return b""
        # Chunked: read one byte past the limit to know.
        body = _read(self._environ, self._admission.max_body_bytes + 1)
        if len(body) > self._admission.max_body_bytes:
            raise self._admission.too_large(f"over {self._admission.max_body_bytes} bytes")
        return body

    def _leave(self) -> None:
        self._admission.leave(self._admitted_bytes)


class Bodies:
    """The way of a body into the house."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def admitted(self, environ: Environ, model: str = "") -> Place:
        """Return the place of a request of `model`; entering it raises what admission raises.

        What runs out of memory within it is `InsufficientMemoryError`.
        """
        return Place(self._admission, environ, model)

    def decoded(self, body: bytes, encoding: str) -> bytes:
        """Return `body` without its Content-Encoding (gzip, deflate or none), never more than a body may have."""
        encoding = encoding.strip().lower()
        if encoding in ("", "identity"):
            return body
        if encoding not in _ENCODINGS:
            raise UnknownEncodingError("Unsupported compression type")
        reader = zlib.decompressobj(_ENCODINGS[encoding])
        try:
            found = reader.decompress(body, self._admission.max_body_bytes + 1)
        except zlib.error as fault:
            raise BadRequestError(
                f"The body is not {encoding} ({fault}): send it as its Content-Encoding says."
            ) from None
        if len(found) > self._admission.max_body_bytes:
            raise self._admission.too_large(f"over {self._admission.max_body_bytes} bytes unpacked")
        if not reader.eof:
            raise BadRequestError(f"The {encoding} body is cut short: send all of it.")
        if reader.unused_data:
            raise BadRequestError(
                f"{len(reader.unused_data)} bytes follow the {encoding} body: send it as one stream and nothing else."
            )
        return found


def content_length(environ: Environ) -> int | None:
    """Return the declared length; None for a chunked body, 0 for none."""
    text = environ.get("CONTENT_LENGTH")
    if not text:
        return None if "HTTP_TRANSFER_ENCODING" in environ else 0
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadRequestError(f"Content-Length {ascii(text[:40])} is not a number of bytes.")
    return int(text)


def _read(environ: Environ, count: int) -> bytes:
    try:
        return bytes(environ["wsgi.input"].read(count))
    except MemoryError:
        raise
    except Exception as error:  # gunicorn's own for a broken chunk, OSError for a client that is gone
        raise BadRequestError(f"The body cannot be read ({type(error).__name__}): send it again.") from None
