"""Replies of DJL handlers that take their time: streams, asynchronous handlers, and what runs afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serving.workers.handler import Reply
from tests.workers.djl_cases import LoadModel, ask, load_model

__all__ = ["load_model"]


def error(reply: Reply) -> Any:
    return json.loads(bytes(reply.body))["error"]


def stream(load_model: LoadModel, iterator: str, rest: str = "") -> Reply:
    code = f"""
    def chunks():
        yield "a"
        yield {{"b": 1}}
        {rest}

    def handle(inputs):
        return None if inputs.is_empty() else Output().add_stream_content({iterator})
    """
    return ask(load_model(code))


@pytest.mark.parametrize(
    ("iterator", "wanted"),
    [
        ("chunks()", [b'{"outputs": "a"}\n', b'{"outputs": {"b": 1}}\n']),
        ("chunks(), output_formatter=None", [b"a", b'{"b": 1}']),
        ("chunks(), lambda x: repr(x)", [b"'a'", b"{'b': 1}"]),
        ("iter([b'x', 'y']), None", [b"x", b"y"]),
    ],
)
def test_a_stream_is_chunked(load_model: LoadModel, iterator: str, wanted: list[bytes]) -> None:
    """Chunk by chunk through the formatter."""
    reply = stream(load_model, iterator)
    assert reply.chunks is not None
    assert list(reply.chunks) == wanted


@pytest.mark.parametrize(("iterator", "wanted"), [("iter(['x']), None", b"x"), ("iter(()), None", b"")])
def test_a_stream_of_one_chunk_is_a_plain_reply(load_model: LoadModel, iterator: str, wanted: bytes) -> None:
    """Where the iterator can tell that it is at its end."""
    reply = stream(load_model, iterator)
    assert (reply.chunks, bytes(reply.body), reply.status) == (None, wanted, 200)


def test_a_stream_must_be_an_iterator(load_model: LoadModel) -> None:
    """A list is none."""
    reply = stream(load_model, "['a']")
    assert (reply.status, error(reply)) == (424, "'list' object is not an iterator")


def test_an_error_before_the_first_chunk_is_424(load_model: LoadModel) -> None:
    """Nothing is sent yet."""
    assert error(stream(load_model, "(1 / x for x in [0])")) == "division by zero"


def test_an_error_in_mid_stream_is_the_last_chunk(load_model: LoadModel) -> None:
    """The status is sent already."""
    reply = stream(load_model, "chunks(), None", rest="raise ValueError('torn')")
    assert reply.chunks is not None
    assert (reply.status, list(reply.chunks)) == (200, [b"a", b'{"b": 1}', b"torn"])


def test_a_client_that_leaves_closes_the_generator(load_model: LoadModel, tmp_path: Path) -> None:
    """Its own `finally` runs."""
    code = """
    def chunks():
        try:
            while True:
                yield "a"
        finally:
            open("closed", "w").close()

    def handle(inputs):
        return None if inputs.is_empty() else Output().add_stream_content(chunks())
    """
    chunks: Any = ask(load_model(code)).chunks
    next(chunks)
    chunks.close()
    assert (tmp_path / "closed").exists()


def test_an_error_of_the_formatter_closes_the_generator(load_model: LoadModel, tmp_path: Path) -> None:
    """At the first chunk, as nobody will read on."""
    code = """
    def chunks():
        try:
            yield "a"
        finally:
            open("closed", "w").close()

    kept = chunks()

    def handle(inputs):
        return None if inputs.is_empty() else Output().add_stream_content(kept, lambda chunk: 1 / 0)
    """
    assert error(ask(load_model(code))) == "division by zero"
    assert (tmp_path / "closed").exists()


def test_finalize_runs_after_the_reply(load_model: LoadModel, tmp_path: Path) -> None:
    """Not before it is sent."""
    reply = ask(load_model("def handle(inputs):\n    return Output().finalize(os.mkdir, str(inputs.is_empty()))"))
    assert (tmp_path / "True").is_dir()
    assert not (tmp_path / "False").exists()
    reply.after()
    assert (tmp_path / "False").is_dir()


def test_handlers_may_be_asynchronous(load_model: LoadModel) -> None:
    """A coroutine is waited for."""
    code = "async def handle(inputs):\n    return Output().add(inputs.get_as_bytes() or 'none')"
    assert bytes(ask(load_model(code), b"hi").body) == b"hi"


def test_asynchronous_generators_stream(load_model: LoadModel) -> None:
    """An Output a chunk; the first has the headers."""
    code = """
    async def handle(inputs):
        if not inputs.is_empty():
            yield Output().add("a").add_property("X-A", 1)
            yield Output().add("b")
    """
    reply = ask(load_model(code))
    assert reply.chunks is not None
    assert (reply.headers, list(reply.chunks)) == ({"X-A": "1"}, [b"a", b"b"])
