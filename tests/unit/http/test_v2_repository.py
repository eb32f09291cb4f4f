"""The bodies of the repository's routes: what is taken, what is forgiven, what is refused in Triton's words."""

from __future__ import annotations

import base64

import orjson
import pytest

from serving.codecs.v2 import ParseError
from serving.http.v2_repository import read_index, read_load, read_unload
from serving.repository.overrides import Override


def body(**parameters: object) -> bytes:
    """A body as tritonclient sends it."""
    return orjson.dumps({"parameters": parameters})


def test_a_load_brings_a_configuration_and_files() -> None:
    """Files as base64, under their paths in the model's folder."""
    files = {"file:1/model.py": base64.b64encode(b"code\0").decode()}

    assert read_load(body(config="{}", **files)) == Override("{}", {"1/model.py": b"code\0"})
    assert read_load(body(**files)) == Override(None, {"1/model.py": b"code\0"})
    assert read_load(body(config="")) == Override("")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"3", b'{"parameters": {}}', b'{"other": 1}'])
def test_a_load_that_says_nothing_brings_nothing(content: bytes) -> None:
    """An object is not even wanted."""
    assert read_load(content) is None


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"{", "failed to parse the request JSON buffer: "),
        (b'{"parameters": []}', "attempt to get members for non-object"),
        (b'{"parameters": null}', "attempt to get members for non-object"),
        (body(nonsense="x"), "unexpected error on creating Triton parameter"),
        (body(config={}), "attempt to access JSON non-string as string"),
        (body(**{"file:a": 1}), "attempt to access JSON non-string as string"),
        (body(**{"file:1/model.py": "!!"}), "the content of 'file:1/model.py' is not base64"),
        (body(**{"file:a": "é"}), "is not base64"),
    ],
)
def test_a_load_that_cannot_be_read_is_refused(content: bytes, error: str) -> None:
    """500 on the wire, as with Triton."""
    with pytest.raises(ParseError) as caught:
        read_load(content)
    assert str(caught.value).startswith(error) or error in str(caught.value)


def test_an_unload_takes_members_along_where_it_says_so_and_forgives_all_else() -> None:
    """What is no flag is none; what is no JSON is refused."""
    assert read_unload(body(unload_dependents=True))
    for content in (b"", b"[]", b'{"parameters": 1}', body(unload_dependents="x"), body()):
        assert not read_unload(content)
    with pytest.raises(ParseError):
        read_unload(b"{")


def test_an_index_is_of_all_models_or_of_those_that_are_ready() -> None:
    """A boolean it must be."""
    assert [read_index(each) for each in (b"", b"[]", b"{}", b'{"ready": true}')] == [False, False, False, True]
    with pytest.raises(ParseError, match="^attempt to access JSON non-boolean as boolean$"):
        read_index(b'{"ready": "x"}')
