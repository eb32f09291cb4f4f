"""The tree of errors that callers can meet."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from serving import errors
from serving.errors import (
    MESSAGE_MAX_CHARS,
    BadRequestError,
    MethodNotAllowedError,
    ServingError,
    UnavailableError,
)

# Of google.rpc.Code.
GRPC_CODES = {
    "INVALID_ARGUMENT", "FAILED_PRECONDITION", "UNAUTHENTICATED", "NOT_FOUND", "UNIMPLEMENTED", "ALREADY_EXISTS",
    "RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "CANCELLED",
}  # fmt: skip
LEAVES = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ServingError)]


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_leaf_has_a_status_a_grpc_code_and_a_sentence(leaf: type[ServingError]) -> None:
    """Known to both transports."""
    assert leaf.status in {status.value for status in HTTPStatus}
    assert leaf.status >= 400
    assert leaf.grpc_code in GRPC_CODES
    assert leaf.__doc__


@pytest.mark.parametrize(
    ("status", "count"), [(400, 5), (404, 2), (409, 1), (413, 1), (415, 1), (424, 1), (503, 1), (507, 2)]
)
def test_the_contracts_statuses_are_all_there(status: int, count: int) -> None:
    """As the reference's table has them."""
    assert sum(leaf.status == status for leaf in LEAVES) == count


def test_only_a_refusal_asks_to_come_back() -> None:
    """Retry-After is for what may succeed unchanged."""
    assert [leaf for leaf in LEAVES if leaf.retry_after_s is not None] == [UnavailableError]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\n  two\tthree ", "one two three"),
        ("a\ud800b", "a\\ud800b"),
        ("", ""),
        ("x" * 5000, "x" * MESSAGE_MAX_CHARS),
        (" " * 5000 + "x", ""),
    ],
)
def test_a_message_is_one_bounded_line_that_can_be_encoded(text: str, message: str) -> None:
    """Whatever a file is called or a client sent."""
    assert BadRequestError(text).message == message
    assert BadRequestError(text).message.encode().decode() == message


@pytest.mark.parametrize(
    ("said", "text"),
    [("one. ", "one. "), ("a\n\nAt:\n  b\n", "a\n\nAt:\n  b\n"), ("a\ud800b", "a\\ud800b"), ("x" * 5000, "x" * 2000)],
)
def test_a_text_keeps_its_spaces_and_lines(said: str, text: str) -> None:
    """Bounded, and such that it can be encoded, all the same."""
    assert BadRequestError(said).text == text
    assert BadRequestError(said).text.encode().decode() == text


def test_a_wrong_method_knows_the_right_ones() -> None:
    """For the Allow header."""
    error = MethodNotAllowedError("no", "GET, HEAD")

    assert (error.message, error.allow, error.status) == ("no", "GET, HEAD", 405)
