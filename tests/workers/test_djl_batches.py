"""Several requests in one call of a DJL handler, and the fall back to single calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.workers.handler import Handler, Request
from tests.workers.djl_cases import LoadModel, load_model

__all__ = ["load_model"]

COUNTED = "calls = []\n"


def ask_all(handler: Handler, *bodies: bytes) -> list[tuple[int, bytes]]:
    replies = handler.call([Request(body, {"Accept": "a/b"}) for body in bodies])
    return [(reply.status, bytes(reply.body)) for reply in replies]


def calls(handler: Handler) -> bytes:
    (reply,) = handler.call([Request(b"calls")])
    return bytes(reply.body)


def counting(body: str) -> str:
    """Return a handler of `body`, which tells its calls (the one that asks not counted) when asked with `calls`."""
    return f"""
    calls = 0
    def handle(inputs):
        global calls
        if inputs.is_empty():
            return None
        if inputs.get_as_bytes() == b"calls":
            return Output().add(str(calls))
        calls += 1
        out = Output()
        {body}
        return out
    """


ENUMERATED = """for i, item in enumerate(inputs.get_batches()):
            out.add(item.get_as_string().upper(), batch_index=i)"""
BY_KEY = """for i, item in enumerate(inputs.get_batches()):
            out.add(item.get_as_string().upper(), key=inputs.get_content().key_at(i))"""
IN_ORDER = """for item in inputs.get_batches():
            out.add(item.get_as_string().upper())"""
KEYS_ALONE = """for key, value in zip(inputs.get_content().keys, inputs.get_content().values):
            out.add(value.upper(), key=key)"""


@pytest.mark.parametrize("body", [ENUMERATED, BY_KEY, IN_ORDER, KEYS_ALONE])
def test_a_batch_is_one_call_and_split_again(load_model: LoadModel, body: str) -> None:
    """By index, by the keys of the content, or in order."""
    handler = load_model(counting(body))
    assert ask_all(handler, b"a", b"b", b"c") == [(200, b"A"), (200, b"B"), (200, b"C")]
    assert calls(handler) == b"1"


@pytest.mark.parametrize(
    "body",
    [
        "out.add(inputs.get_as_string().upper())",
        "out.add_as_json(inputs.get_as_json())",
        "inputs.get_batches(); out.add_stream_content(iter([inputs.get_as_string()]))",
        "inputs.get_batches(); out.add('one for all')",
        "out.add(inputs.get_as_bytes('data').upper())",
    ],
)
def test_a_handler_that_knows_no_batches_is_called_for_each(load_model: LoadModel, body: str) -> None:
    """Once it is found out, it gets no batch again."""
    handler = load_model(counting(body))
    single = [ask_all(handler, each)[0] for each in (b"1", b"2")]
    assert ask_all(handler, b"1", b"2") == single
    assert ask_all(handler, b"1", b"2") == single
    assert calls(handler) == b"7"


def test_items_of_a_handler_that_did_not_ask_are_one_requests(load_model: LoadModel) -> None:
    """Two items for a batch of two may both be the first one's: they are never dealt out."""
    body = "out.add(inputs.get_as_string(), 'x').add(inputs.get_as_string(), 'y')"
    assert ask_all(load_model(counting(body)), b"mine", b"yours") == [(200, b"mine"), (200, b"yours")]


def test_streams_of_a_batch_go_out_whole(load_model: LoadModel) -> None:
    """One channel carries one stream; the answers to several requests are bodies."""
    handler = load_model(counting("out.add_stream_content((each for each in inputs.get_as_string()), None)"))
    assert ask_all(handler, b"ab", b"cd") == [(200, b"ab"), (200, b"cd")]


def test_the_fall_back_is_logged(load_model: LoadModel, capsys: pytest.CaptureFixture[str]) -> None:
    """With what to do instead."""
    ask_all(load_model(counting("out.add('x')")), b"a", b"b")
    assert "did not answer each of 2 batched requests" in capsys.readouterr().err


def test_an_error_of_a_batch_is_everybodys(load_model: LoadModel) -> None:
    """When the handler knows batches; otherwise each has its own."""
    aware = load_model(counting("[1 // int(item.get_as_string()) for item in inputs.get_batches()]"))
    assert [status for status, _ in ask_all(aware, b"0", b"1")] == [424, 424]
    plain = load_model(counting("out.add(str(1 // int(inputs.get_as_string())))"))
    assert [status for status, _ in ask_all(plain, b"0", b"1")] == [424, 200]


def test_a_bad_request_of_a_batch_is_its_own_error(load_model: LoadModel) -> None:
    """The others are answered."""
    handler = load_model(counting(ENUMERATED))
    bad, good = handler.call([Request(b"a", {"Handler": "x"}), Request(b"b")])
    assert (bad.status, good.status, bytes(good.body)) == (400, 200, b"B")
    assert b"can't be overridden" in bytes(bad.body)


def test_parts_have_their_own_headers_and_query(load_model: LoadModel) -> None:
    """What all share stands on the batch too; the size is a property."""
    body = """for i, item in enumerate(inputs.get_batches()):
            own = item.get_property("x-n"), inputs.get_property("x-n"), inputs.get_property("accept")
            out.add_as_json([*own, item.get_as_string("q"), inputs.get_property("batch_size")], batch_index=i)"""
    requests = [Request(b"", {"X-N": str(n), "Accept": "a/b"}, query=f"q={n}") for n in range(2)]
    first, second = load_model(counting(body)).call(requests)
    assert bytes(first.body).split() == b'[ "0", null, "a/b", "0", "2" ]'.split()
    assert bytes(second.body).split() == b'[ "1", null, "a/b", "1", "2" ]'.split()


def test_headers_of_a_batch_are_shared_and_finalize_runs_once(load_model: LoadModel) -> None:
    """After the last reply."""
    body = ENUMERATED + "\n        out.add_property('X-A', 1).finalize(print, 'done')"
    first, last = load_model(counting(body)).call([Request(b"a"), Request(b"b")])
    assert first.headers == last.headers == {"X-A": "1"}
    assert (first.after, callable(last.after)) == (None, True)


def test_an_answer_that_is_thrown_away_is_finalized(load_model: LoadModel, tmp_path: Path) -> None:
    """At once: nothing will be sent after which it could be."""
    handler = load_model(counting("out.add('x').finalize(os.mkdir, 'done')"))
    replies = handler.call([Request(b"a"), Request(b"b")])
    assert (tmp_path / "done").exists()
    assert all(callable(each.after) for each in replies)
