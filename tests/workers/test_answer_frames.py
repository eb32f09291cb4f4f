"""Frames of a stream: exact both ways, one after the other, and lies are told."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from serving.workers import answer_frames


def test_frames_follow_one_another_exactly() -> None:
    """Numbers to the bit, texts to the byte, parameters, errors, answers without a tensor."""
    numbers = np.array([np.nan, -0.0, 0.1])
    frames = (
        answer_frames.write({"a": numbers, "t": np.array([b"\xff", b""], np.object_)}, {"p": [1]})
        + answer_frames.write_error("no")
        + answer_frames.write({}, {})
        + answer_frames.write({"b": np.int8(5)}, {})
    )
    found = list(answer_frames.read(frames))
    assert found[0][1]["a"].tobytes() == numbers.tobytes()
    assert found[0][1]["t"].tolist() == [b"\xff", b""]
    assert found[0][0]["parameters"] == {"p": [1]}
    assert (found[1][0], found[1][1]) == ({"error": "no"}, {})
    assert found[2][1] == {}
    assert found[3][1]["b"].tolist() == 5


def test_tensors_are_views_of_the_frame() -> None:
    """Nothing is copied."""
    frame = answer_frames.write({"a": np.ones(4, np.float32)}, {})
    ((_, tensors),) = answer_frames.read(frame)
    assert not tensors["a"].flags.owndata
    assert list(answer_frames.read(b"")) == []


LIES = {
    "no length": b"\x01",
    "a length past the end": struct.pack("<I", 99) + b"{}",
    "no JSON": struct.pack("<I", 2) + b"{]",
    "no text": struct.pack("<I", 2) + b"\xff\xff",
    "no object": struct.pack("<I", 2) + b"[]",
    "too deep": struct.pack("<I", 100_000) + b"[" * 100_000,
    "a body that is not there": answer_frames.write({"a": np.ones(4)}, {})[:-1],
    "a body of a text": struct.pack("<I", 13) + b'{"bytes":"1"}',
    "a negative body": struct.pack("<I", 12) + b'{"bytes":-4}',
    "tensors that are none": struct.pack("<I", 13) + b'{"tensors":5}',
}


@pytest.mark.parametrize("lie", LIES)
def test_bytes_that_are_no_frames_are_an_error_of_value(lie: str) -> None:
    """Nothing that a worker says is believed."""
    with pytest.raises(ValueError, match="."):
        list(answer_frames.read(LIES[lie]))
