"""The figures of the contract, where the platform's own client has them too."""

from __future__ import annotations

import pytest

from serving import contract


def test_headers_are_the_platforms_own() -> None:
    """As botocore writes them."""
    assert contract.CUSTOM_ATTRIBUTES == "X-Amzn-SageMaker-Custom-Attributes"
    assert contract.REQUEST_ID == "X-Request-Id"


def test_limits_are_the_platforms_own() -> None:
    """6 MiB in, names of 1,024 characters, pages of 100."""
    assert contract.INVOKE_BODY_MAX_BYTES == 6 * 1024 * 1024
    assert (contract.MODEL_NAME_MAX_CHARS, contract.CUSTOM_ATTRIBUTES_MAX_CHARS) == (1024, 1024)
    assert contract.PAGE_LIMIT_DEFAULT <= contract.PAGE_LIMIT_MAX == 100


@pytest.mark.parametrize("name", ["a", "d" * 32, "sub/a.tar.gz", "Zürich 1", "100%", "日本", "👍"])
def test_printable_names_match(name: str) -> None:
    """TargetModel is any text without control characters."""
    assert contract.MODEL_NAME_PATTERN.fullmatch(name)


@pytest.mark.parametrize("name", ["", "a\n", "\x00", "\x7f", "a\ud800", "\t", "a\x85b", "a\u2028b"])
def test_control_characters_and_surrogates_do_not(name: str) -> None:
    """They are no part of a file's name that can be written down."""
    assert not contract.MODEL_NAME_PATTERN.fullmatch(name)
