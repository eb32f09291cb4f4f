"""Bodies: their declared length, their encodings, and what is wrong with them."""

from __future__ import annotations

import gzip
import io
import zlib
from contextlib import suppress
from typing import Any

import pytest

from serving.errors import BadRequestError, InsufficientMemoryError, PayloadTooLargeError, UnsupportedError
from serving.http.admission import Admission
from serving.http.bodies import Bodies, content_length

ADMISSION = Admission(2, 1000, 2000)
BODIES = Bodies(ADMISSION)


def read(environ: dict[str, Any]) -> bytes:
    """Read one body, as a route does."""
    with BODIES.admitted(environ) as place:
        return place.read()


@pytest.mark.parametrize("error", [None, KeyError()])
def test_a_place_is_given_back_at_the_end(error: Exception | None) -> None:
    """Whatever the end was."""
    with suppress(KeyError), BODIES.admitted({"CONTENT_LENGTH": "3"}):
        assert ADMISSION.in_flight == 1
        if error:
            raise error

    assert ADMISSION.in_flight == 0


def test_a_place_that_is_kept_is_given_back_by_who_keeps_it() -> None:
    """A stream outlives its request."""
    with BODIES.admitted({"CONTENT_LENGTH": "3"}) as place:
        leave = place.keep()

    assert ADMISSION.in_flight == 1
    leave()
    assert ADMISSION.in_flight == 0


@pytest.mark.parametrize(("model", "who"), [("m", "Model 'm' ran"), ("", "The server ran")])
def test_memory_that_runs_out_within_a_place_is_told(model: str, who: str) -> None:
    """As the platform wants it: 507."""
    with pytest.raises(InsufficientMemoryError, match=f"{who} out of memory on this request: send less at once"):
        _run_out(model)

    assert ADMISSION.in_flight == 0


def _run_out(model: str) -> None:
    with BODIES.admitted({}, model):
        raise MemoryError


@pytest.mark.parametrize(
    ("environ", "length"),
    [({}, 0), ({"CONTENT_LENGTH": ""}, 0), ({"CONTENT_LENGTH": "7"}, 7), ({"HTTP_TRANSFER_ENCODING": "chunked"}, None)],
)
def test_a_length_is_what_was_declared(environ: dict[str, Any], length: int | None) -> None:
    """A chunked body has none."""
    assert content_length(environ) == length


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "٣", "9" * 5000])
def test_a_length_that_is_no_number_of_bytes_is_refused(text: str) -> None:
    """Also one that no machine could count."""
    with pytest.raises(BadRequestError, match="is not a number of bytes"):
        content_length({"CONTENT_LENGTH": text})


def test_a_body_that_is_cut_short_is_refused() -> None:
    """A model must not see half of it."""
    with pytest.raises(BadRequestError, match="ended after 3 of 5 bytes"):
        read({"CONTENT_LENGTH": "5", "wsgi.input": io.BytesIO(b"abc")})


def test_a_chunked_body_is_read_to_its_end_or_to_the_limit() -> None:
    """One byte past it is enough to know."""
    environ = {"wsgi.input_terminated": True}

    assert read(environ | {"wsgi.input": io.BytesIO(b"abc")}) == b"abc"
    assert read({"wsgi.input": io.BytesIO(b"abc")}) == b""
    with pytest.raises(PayloadTooLargeError, match="over 1000 bytes"):
        read(environ | {"wsgi.input": io.BytesIO(b"a" * 2000)})


class _Broken:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, _count: int) -> bytes:
        raise self.error


def test_a_body_that_cannot_be_read_says_so() -> None:
    """A client that is gone, or memory."""
    with pytest.raises(BadRequestError, match="cannot be read \\(OSError\\)"):
        read({"CONTENT_LENGTH": "5", "wsgi.input": _Broken(OSError())})
    with pytest.raises(InsufficientMemoryError):
        read({"CONTENT_LENGTH": "5", "wsgi.input": _Broken(MemoryError())})


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"abc", ""),
        (b"abc", " Identity "),
        (gzip.compress(b"abc", mtime=0), "GZIP"),
        (zlib.compress(b"abc"), "deflate"),
        (gzip.compress(b"a" * 1000, mtime=0), "gzip"),
    ],
)
def test_a_body_is_unpacked_as_it_says(body: bytes, encoding: str) -> None:
    """Up to the size that a body may have."""
    assert BODIES.decoded(body, encoding) in (b"abc", b"a" * 1000)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"abc", "is not gzip"),
        (b"", "cut short"),
        (gzip.compress(b"abc", mtime=0)[:-4], "cut short"),
        (gzip.compress(b"abc", mtime=0) + b"more", "4 bytes follow the gzip body"),
    ],
)
def test_a_packed_body_that_is_broken_is_refused(body: bytes, said: str) -> None:
    """Never half of it."""
    with pytest.raises(BadRequestError, match=said):
        BODIES.decoded(body, "gzip")


def test_a_bomb_goes_off_at_the_limit() -> None:
    """A hundred megabytes of nothing take a hundred kilobytes."""
    with pytest.raises(PayloadTooLargeError, match="over 1000 bytes unpacked"):
        BODIES.decoded(gzip.compress(bytes(100 << 20), 1), "gzip")


def test_other_encodings_are_refused_in_tritons_words() -> None:
    """501, as Triton says it."""
    with pytest.raises(UnsupportedError, match="Unsupported compression type"):
        BODIES.decoded(b"", "br")
