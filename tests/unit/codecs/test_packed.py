"""Tensors as bytes: read with Triton's texts, written as V2 has them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from serving.codecs.packed import Unread, known_datatype, shown, to_buffer, to_bytes
from serving.errors import BadRequestError
from serving.tensors import Array

ID = "[request id: 7] "


def unread(data: bytes, datatype: str = "FP32", *shape: int) -> Unread:
    """One input."""
    return Unread("x", datatype, shape, memoryview(data))


def test_numbers_are_views_of_what_came() -> None:
    """Not a byte is copied."""
    data = np.arange(4, dtype=np.int16).tobytes()
    array = unread(data, "INT16", 2, 2).read(ID, "m")

    assert (array.tolist(), array.dtype) == ([[0, 1], [2, 3]], np.dtype(np.int16))
    assert array.base is not None


@pytest.mark.parametrize("array", [np.array(True), np.zeros((0, 2**30), np.float16), np.array([[b"a", b""]], object)])
def test_what_is_written_is_read_again(array: np.ndarray[Any, Any]) -> None:
    """Scalars, nothing at all, texts."""
    datatype = {"b": "BOOL", "f": "FP16", "O": "BYTES"}[array.dtype.kind]
    again = unread(to_bytes(array), datatype, *array.shape).read("", "m")

    assert (again.tolist(), again.shape, again.dtype) == (array.tolist(), array.shape, array.dtype)


def text(*sizes: int) -> bytes:
    """Lengths without what they promise."""
    return struct.pack(f"<{len(sizes)}I", *sizes)


WRONG: dict[str, tuple[Unread, str]] = {
    "too few bytes": (
        unread(b"1234", "FP32", 2),
        f"{ID}input byte size mismatch for input 'x' for model 'm'. Expected 8, got 4",
    ),
    "a negative dimension": (
        unread(b"1234", "INT8", 1, -4),
        f"{ID}input byte size mismatch for input 'x' for model 'm'. Expected -4, got 4",
    ),
    "a free dimension": (
        unread(b"1234", "FP32", -1),
        f"{ID}All input dimensions should be specified for input 'x' for model 'm', got [-1]",
    ),
    "two negative ones": (unread(b"1234", "INT8", -2, -2), "input 'x' has the shape [-2, -2]: dimensions, and their "),
    "too many of nothing": (unread(b"", "INT8", 0, 2**31, 2**31), "input 'x' has the shape [0, 2147483648, "),
    "too much rank": (unread(b"1", "INT8", *[1] * 65), "input 'x' has the shape [1, 1, "),
    "an odd shape of no texts": (unread(b"", "BYTES", 0, 2**31, 2**31), "input 'x' has the shape [0, 2147483648, "),
    "no datatype": (unread(b"1234", "FP31", 1), "inference input 'x' has datatype 'FP31': one of BOOL, "),
    "odd booleans": (unread(b"\x02", "BOOL", 1), "input 'x' is BOOL and has bytes other than 0 and 1"),
    "too few texts": (
        unread(text(0), "BYTES", 2),
        f"{ID}expected 2 string elements for inference input 'x' for model 'm', got 1",
    ),
    "too many texts": (
        unread(text(0, 0), "BYTES", 1),
        f"{ID}unexpected number of string elements 2 for inference input 'x' for model 'm', expecting 1",
    ),
    "half a length": (
        unread(b"\x05\0\0", "BYTES", 1),
        f"{ID}incomplete string length indicator for inference input 'x' for model 'm', expecting 4 bytes but only 3 "
        "bytes available. Please make sure the string length indicator is in one buffer.",
    ),
    "half a text": (
        unread(text(5) + b"a", "BYTES", 1),
        "incomplete string data for inference input 'x', expecting string of length 5 but only 1 bytes available",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bytes_that_do_not_fit_are_told_in_tritons_words(case: str) -> None:
    """As tritonserver 2.51 says it where it says something."""
    tensor, said = WRONG[case]
    with pytest.raises(BadRequestError) as caught:
        tensor.read(ID, "m")

    assert caught.value.text.startswith(said)


def test_a_datatype_is_one_of_tritons() -> None:
    """Known by name."""
    assert known_datatype("x", "FP16") == "FP16"


def test_a_shape_is_shown_as_triton_writes_it() -> None:
    """No spaces."""
    assert (shown((-1, 16)), shown(())) == ("[-1,16]", "[]")


def test_texts_of_numpy_are_written_as_bytes_too() -> None:
    """A model may answer with fixed-width strings."""
    assert to_bytes(np.array(["ü"])) == struct.pack("<I", 2) + "ü".encode()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.arange(6, dtype=">i4")[::2],
        np.array(7, np.int64),
        np.array([True, False]),
        np.array([1.5], np.float16),
        np.empty((0, 3), np.float32),
        np.array(["a", b"bc"], object),
    ],
    ids=["rows", "columns", "big-endian", "scalar", "bool", "half", "empty", "strings"],
)
def test_a_buffer_has_the_bytes_that_a_copy_has(array: Array) -> None:
    """Whatever the type, the order of bytes and the way an array lies in memory."""
    assert bytes(to_buffer(array)) == to_bytes(array)


def test_numbers_that_lie_as_they_travel_are_not_copied() -> None:
    """The buffer is the array's own memory."""
    array = np.zeros((2, 3), np.float32)
    assert np.shares_memory(np.frombuffer(to_buffer(array), np.uint8), array)
