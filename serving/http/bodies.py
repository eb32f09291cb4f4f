"""Request bodies: admitted, read whole, counted out again.

Knows what a Content-Length and a chunked body are under both HTTP servers, and Content-Encoding, which only the V2
routes take. What a body means is the codecs' business. `sagemaker` and `v2` call it.
"""

from __future__ import annotations

import zlib

from serving.errors import BadRequestError, PayloadTooLargeError, ServingError, UnsupportedError
from serving.http.admission import Admission
from serving.http.replies import Environ

# RFC 1952 and RFC 1950 by zlib's window bits; 32 + 15 finds out which of them it is.
_ENCODINGS = {"gzip": 47, "deflate": 47}


class Bodies:
    """The way of a body into the house."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def enter(self, environ: Environ) -> int:
        """Admit a request by its declared length; return what to `leave` with. Raises what admission raises."""
        length = content_length(environ)
        try:
            return self._admission.enter(length)
        except ServingError as error:
            # Granian reads the rest of a small body by itself. A client that asks first (100-continue) sends none.
            connection = environ.get("gunicorn.socket")
            is_large = isinstance(error, PayloadTooLargeError) and "HTTP_EXPECT" not in environ
            if connection is not None or is_large:
                self._admission.swallow(environ["wsgi.input"], connection)
            raise

    def leave(self, admitted_bytes: int) -> None:
        """Give back what `enter` returned."""
        self._admission.leave(admitted_bytes)

    def read(self, environ: Environ) -> bytes:
        """Return the whole body; raises `BadRequestError` for one that is cut short, 413 for one that is too long."""
        length = environ.get("CONTENT_LENGTH")
        if length:
            body = _read(environ, int(length))
            if len(body) != int(length):
                raise BadRequestError(f"The body ended after {len(body)} of {length} bytes: send all of it.")
            return body
        if not environ.get("wsgi.input_terminated"):
            return b""
        # Chunked: read one byte past the limit to know.
        body = _read(environ, self._admission.max_body_bytes + 1)
        if len(body) > self._admission.max_body_bytes:
            raise self._admission.too_large(f"over {self._admission.max_body_bytes} bytes")
        return body

    def decoded(self, body: bytes, encoding: str) -> bytes:
        """Return `body` without its Content-Encoding (gzip, deflate or none), never more than a body may have."""
        encoding = encoding.strip().lower()
        if encoding in ("", "identity"):
            return body
        if encoding not in _ENCODINGS:
            raise UnsupportedError("Unsupported compression type")
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
