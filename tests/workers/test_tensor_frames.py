"""Tensors through the channel: any array comes back as it was, and a description that lies is a `ValueError`."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.workers.tensor_frames import pack, unpack

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
NUMBERS = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(endianness="?"),
    arrays.unsigned_integer_dtypes(endianness="?"),
    arrays.floating_dtypes(sizes=(16, 32, 64), endianness="?"),
)
ARRAYS = NUMBERS.flatmap(lambda dtype: arrays.arrays(dtype, SHAPES))
TEXTS = arrays.arrays(object, SHAPES, elements=st.binary(max_size=20))


def through(tensors: dict[str, Any], at: int = 0) -> dict[str, Any]:
    """Pack behind `at` other bytes, and unpack."""
    described, buffers, end = pack(tensors, at)
    body = bytes(at) + b"".join(bytes(each) for each in buffers)
    assert len(body) == end
    assert all(each["at"] % 64 == 0 for each in described)
    return unpack(described, body)


def same(one: Any, other: Any) -> bool:
    """Equal in shape and in bits, byte order apart."""
    little = one.dtype.newbyteorder("<")
    is_alike = one.shape == other.shape and other.dtype == little
    return bool(is_alike and one.astype(little).tobytes() == other.tobytes())


@given(st.dictionaries(st.text(max_size=5), ARRAYS, max_size=4), st.integers(0, 200))
def test_numbers_come_back_in_any_shape_type_and_byte_order(tensors: dict[str, Any], at: int) -> None:
    """Empty and 0-d ones too, NaNs bit by bit, wherever in the body they lie."""
    back = through(tensors, at)
    assert list(back) == list(tensors)
    assert all(same(tensors[name], back[name]) for name in tensors)


@given(TEXTS)
def test_bytes_come_back_as_they_were(texts: Any) -> None:
    """Empty elements, empty tensors, zeros at an element's end."""
    back = through({"x": texts})["x"]
    assert (back.shape, back.tolist()) == (texts.shape, texts.tolist())


@given(ARRAYS.filter(lambda each: each.ndim > 0), st.data())
def test_what_does_not_lie_in_one_piece_comes_back_in_one(whole: Any, data: st.DataObject) -> None:
    """Transposed, reversed and strided views."""
    steps = data.draw(st.tuples(*[st.sampled_from([1, 2, -1])] * whole.ndim))
    part = whole[tuple(slice(None, None, step) for step in steps)].T
    assert same(part, through({"x": part})["x"])


@pytest.mark.parametrize("text", [np.array(["ä", "b\0c"]), np.array([b"ab", b"c"]), np.array(["x", 1.5], object)])
def test_every_kind_of_text_is_bytes_on_the_other_side(text: Any) -> None:
    """numpy's own strings, its byte strings, and objects by their text, as Triton's clients do it."""
    wanted = [each if isinstance(each, bytes) else str(each).encode() for each in text.tolist()]
    assert through({"x": text})["x"].tolist() == wanted


def test_numbers_are_seen_in_place() -> None:
    """Not copied: 600 KB are a view of the body."""
    described, buffers, _ = pack({"x": np.arange(6, dtype=np.float32)}, 0)
    body = bytearray(b"".join(bytes(each) for each in buffers))
    array = unpack(described, body)["x"]
    body[0:4] = b"\0\0\x80\x3f"
    assert array[0] == 1.0


@pytest.mark.parametrize("value", [np.array([1j]), np.array(["2020-01-01"], "M8[D]"), np.zeros(2, "f4,i4")])
def test_a_type_that_is_none_here_is_named(value: Any) -> None:
    """With the tensor and the types that there are."""
    with pytest.raises(ValueError, match=r"Tensor 'x' has values of type .*: return one of .*FP32"):
        pack({"x": value}, 0)


LIES: dict[str, dict[str, Any]] = {
    "more elements than bytes": {"shape": [4]},
    "fewer elements than bytes": {"shape": [1]},
    "bytes that are no whole elements": {"bytes": 11},
    "a start past the end": {"at": 64},
    "a negative start": {"at": -4},
    "more bytes than there are": {"bytes": 16, "shape": [4]},
    "negative bytes": {"bytes": -12},
    "a negative dimension": {"shape": [-3]},
    "a free dimension": {"shape": [-1]},
    "a dimension of 2**63": {"shape": [1 << 63]},
    "dimensions that overflow": {"shape": [1 << 40, 1 << 40]},
    "a hundred dimensions": {"shape": [1] * 99 + [3]},
    "a type that is none": {"dtype": "FP31"},
    "a type that is no word": {"dtype": ["FP32"]},
    "a shape that is none": {"shape": 3},
    "a shape of words": {"shape": ["many"]},
    "a name that is no word": {"name": ["x"]},
    "no name": {"name": None},
    "infinitely many bytes": {"bytes": float("inf")},
    "BYTES cut in an element": {"dtype": "BYTES", "shape": [1], "body": b"\5\0\0\0abc"},
    "BYTES cut in a length": {"dtype": "BYTES", "shape": [1], "body": b"\1\0\0\0a\1\0"},
    "BYTES of another count": {"dtype": "BYTES", "shape": [2], "body": b"\1\0\0\0a"},
    "BYTES of 4 GiB": {"dtype": "BYTES", "shape": [1], "body": b"\xff\xff\xff\xff"},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_description_that_lies_is_a_value_error(lie: str) -> None:
    """A worker may be anybody's code: nothing outside its body is read, and no other exception leaves."""
    honest = {"name": "x", "dtype": "FP32", "shape": [3], "at": 0, "bytes": 12}
    told = dict(LIES[lie])
    body = told.pop("body", bytes(12))
    if told.get("dtype") == "BYTES":
        told["bytes"] = len(body)
    with pytest.raises(ValueError, match="."):
        unpack([honest | told], body)


@pytest.mark.parametrize("described", [[{}], [3], {"name": "x"}, 5, [None]])
def test_a_description_that_is_none_is_a_value_error(described: Any) -> None:
    """Fields that are missing, and what is no description at all."""
    with pytest.raises(ValueError, match="."):
        unpack(described, b"")


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(
    st.fixed_dictionaries(
        {
            "name": st.just("x") | JUNK,
            "dtype": st.sampled_from(["FP32", "BYTES", "BOOL"]) | JUNK,
            "shape": st.lists(st.integers(-1, 4), max_size=3) | JUNK,
            "at": st.integers(-1, 20) | JUNK,
            "bytes": st.integers(-1, 20) | JUNK,
        }
    ),
    st.binary(max_size=20),
)
def test_no_description_does_more_harm_than_a_value_error(described: dict[str, Any], body: bytes) -> None:
    """Whatever JSON can hold."""
    try:
        tensors = unpack([described], body)
    except ValueError:
        return
    assert all(array.nbytes <= 8 * len(body) for array in tensors.values())
