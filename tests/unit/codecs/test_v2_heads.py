"""Heads of V2 bodies that were read before: the same question, about the bytes that came now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.codecs import v2_heads, v2_requests
from serving.codecs.v2 import ParseError, Question, Wanted
from serving.codecs.v2_heads import Heads
from serving.errors import BadRequestError
from serving.shared_memory import Regions


def head_of(*sizes: int, **more: Any) -> bytes:
    """A head with an input of bytes for each size."""
    inputs = [
        {"name": f"x{number}", "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}
        for number, size in enumerate(sizes)
    ]
    return json.dumps({"inputs": inputs, **more}).encode()


def ask(heads: Heads, head: bytes, data: bytes) -> Question:
    """Read a body of `head` and `data`."""
    return v2_requests.read(head + data, len(head), "m", heads=heads)


def bytes_of(question: Question) -> list[bytes]:
    """The inputs of a question."""
    return [question.array(name, "m").tobytes() for name in question.inputs]


def recalled(heads: Heads, head: bytes, data: bytes = b"") -> Question | None:
    """What is known of a head."""
    return heads.recall(head, memoryview(data))


def test_a_head_that_comes_again_asks_the_same_about_other_bytes() -> None:
    """Id, parameters, outputs and all of an input but its bytes are those of the first time."""
    heads = Heads()
    said = {"id": "7", "parameters": {"priority": 2, "timeout": 5, "mine": "a", "binary_data_output": True}}
    head = head_of(2, 1, **said, outputs=[{"name": "y", "parameters": {"classification": 3}}])
    first = ask(heads, head, b"abc")
    again = recalled(heads, head, b"def")
    assert again is not None
    assert (bytes_of(first), bytes_of(again)) == ([b"ab", b"c"], [b"de", b"f"])
    assert (again.id, again.parameters, again.outputs) == ("7", said["parameters"], [Wanted("y", classes=3)])
    assert (again.is_binary, again.priority, again.timeout_us) == (True, 2, 5)


def test_what_becomes_of_a_question_is_not_remembered() -> None:
    """Parameters and outputs of a question are its own."""
    heads, head = Heads(), head_of(1)
    for _ in range(3):
        question = ask(heads, head, b"a")
        assert (question.parameters, question.outputs, list(question.inputs)) == ({}, [], ["x0"])
        question.parameters["signature_name"] = "other"
        question.outputs.append(Wanted("y"))
        question.inputs.clear()


def test_arrays_of_a_known_head_are_views_of_the_body() -> None:
    """Nothing is copied."""
    heads, head = Heads(), head_of(4)
    ask(heads, head, b"abcd")
    body = head + b"efgh"
    array = v2_requests.read(body, len(head), "m", heads=heads).array("x0", "m")
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize(("data", "words"), [(b"ab", "expecting 1 additional bytes"), (b"abcd", "additional input")])
def test_a_known_head_with_too_many_or_too_few_bytes_is_refused_in_the_same_words(data: bytes, words: str) -> None:
    """The sentence is that of a head that nobody has seen."""
    heads, head = Heads(), head_of(3)
    ask(heads, head, b"abc")
    with pytest.raises(BadRequestError, match=words):
        ask(heads, head, data)


def test_a_head_that_is_refused_is_refused_again() -> None:
    """What cannot be read is not kept."""
    heads = Heads()
    for _ in range(2):
        with pytest.raises(ParseError):
            ask(heads, b'{"inputs": 1}', b"")


def test_heads_with_data_of_their_own_are_read_each_time(tmp_path: Path) -> None:
    """Numbers in JSON, too long a head and places in shared memory are not kept."""
    heads = Heads()
    (tmp_path / "k").write_bytes(bytes(8))
    regions = Regions(is_on=True, folder=tmp_path)
    regions.register("r", "k", 0, 8)
    place = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    numbers = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    for head in (
        json.dumps({"inputs": [numbers]}).encode(),
        json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "parameters": place}]}).encode(),
        head_of(0, outputs=[{"name": "y", "parameters": place}]),
        head_of(0, id="i" * 3000),
    ):
        v2_requests.read(head, len(head), "m", regions, heads)
        assert recalled(heads, head) is None


def test_no_more_heads_are_remembered_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends another one each time costs no memory without end."""
    monkeypatch.setattr(v2_heads, "_HEADS_MAX", 3)
    heads = Heads()
    for number in range(4):
        ask(heads, head_of(0, id=str(number)), b"")
    assert [recalled(heads, head_of(0, id=str(number))) is not None for number in range(4)] == [False] * 3 + [True]
