"""Errors become replies here, and only here."""

from __future__ import annotations

import json
import logging

import pytest

from serving.errors import (
    BadRequestError,
    InsufficientMemoryError,
    MethodNotAllowedError,
    ModelNotFoundError,
    UnavailableError,
)
from serving.http.replies import STATUS_LINES, RequestIds, error_reply, json_reply, send


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [("mine", True), ("a" * 128, True), ("a" * 129, False), ("", False), ("ü", False), ("a\tb", False), ("a b", True)],
)
def test_a_usable_id_is_kept_and_another_is_replaced(given: str, is_kept: bool) -> None:
    """It goes into a header and a log line."""
    assert (RequestIds()({"HTTP_X_REQUEST_ID": given}) == given) is is_kept


def test_ids_differ_within_and_between_lives() -> None:
    """Two servers' logs can be put together."""
    first, second = RequestIds(), RequestIds()

    assert len({first({}), first({}), second({}), second({})}) == 4


@pytest.mark.parametrize(
    ("error", "status", "extra"),
    [
        (BadRequestError("no"), 400, []),
        (ModelNotFoundError("no"), 404, []),
        (InsufficientMemoryError("no"), 507, []),
        (UnavailableError("no"), 503, [("Retry-After", "1")]),
        (MethodNotAllowedError("no", "GET"), 405, [("Allow", "GET")]),
    ],
)
def test_an_error_has_its_status_its_sentence_and_its_headers(
    error: Exception, status: int, extra: list[tuple[str, str]]
) -> None:
    """JSON with one key."""
    assert error_reply(error, "r") == (status, [("Content-Type", "application/json"), *extra], b'{"error":"no"}')


def test_anything_else_is_a_bug_that_the_log_explains(caplog: pytest.LogCaptureFixture) -> None:
    """The wire only says where to look."""
    try:
        raise RuntimeError("secret detail")
    except RuntimeError as error:
        status, _, body = error_reply(error, "r-1")

    assert isinstance(body, bytes)
    assert (status, json.loads(body)) == (500, {"error": "Internal error; the log has it under request id r-1."})
    assert "secret detail" in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


def test_odd_characters_of_a_name_can_be_sent() -> None:
    """A file's surrogates are escaped, line ends are spaces."""
    _, _, body = error_reply(BadRequestError("a\udcffb\nc"), "r")

    assert isinstance(body, bytes)
    assert json.loads(body) == {"error": "a\\udcffb c"}


def test_a_reply_goes_out_with_its_length() -> None:
    """As WSGI wants it."""
    got: list[object] = []
    parts = send(json_reply({"a": 1}, 201), lambda *args: got.extend(args))

    assert got == ["201 Created", [("Content-Type", "application/json"), ("Content-Length", "7")]]
    assert list(parts) == [b'{"a":1}']


def test_every_status_has_its_line() -> None:
    """Also those that few servers know."""
    assert STATUS_LINES[507] == "507 Insufficient Storage"
    assert STATUS_LINES[424] == "424 Failed Dependency"
