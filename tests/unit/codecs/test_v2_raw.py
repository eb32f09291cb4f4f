"""Raw binary requests: the body becomes the one input in the shape that the model wants."""

from __future__ import annotations

import numpy as np
import pytest

from serving.codecs import v2_raw
from serving.codecs.v2 import Question
from serving.errors import BadRequestError
from serving.tensors import Array, Signature, TensorSpec


def fill(body: bytes, *specs: TensorSpec, has_batch: bool = False) -> tuple[str, Array]:
    """Return the one input."""
    question = Question(id="7", raw=body)
    v2_raw.fill(question, Signature(specs, ()), "m", has_batch=has_batch)
    ((name, (datatype, _)),) = question.inputs.items()
    return datatype, question.array(name, "m")


@pytest.mark.parametrize(
    ("dims", "has_batch", "count", "shape"),
    [
        ((2,), False, 2, (2,)),
        ((-1, 2), False, 6, (3, 2)),
        ((-1, -1), True, 3, (1, 3)),
        ((-1, 2), True, 2, (1, 2)),
        ((-1, -1, 2), True, 0, (1, 0, 2)),
        ((-1, 0), False, 0, (0, 0)),
    ],
)
def test_a_free_dimension_is_found_out_and_a_batch_is_one(
    dims: tuple[int, ...], has_batch: bool, count: int, shape: tuple[int, ...]
) -> None:
    """By the number of bytes."""
    numbers = np.arange(count, dtype="<i4")
    datatype, array = fill(numbers.tobytes(), TensorSpec("x", "INT32", dims), has_batch=has_batch)

    assert (datatype, array.shape, array.dtype.name) == ("INT32", shape, "int32")
    assert array.ravel().tolist() == numbers.tolist()


@pytest.mark.parametrize(("dims", "has_batch"), [((1,), False), ((-1, 1), True), ((-1, -1), False), ((), False)])
def test_a_text_is_the_whole_body(dims: tuple[int, ...], has_batch: bool) -> None:
    """Without a length before it."""
    _, array = fill(b"\x02\x00hi", TensorSpec("x", "BYTES", dims), has_batch=has_batch)

    assert array.ravel().tolist() == [b"\x02\x00hi"]
    assert array.ndim == len(dims)


def test_inputs_that_may_be_left_out_are() -> None:
    """One that has to be there is enough."""
    optional = TensorSpec("a", "INT8", (1,), is_optional=True)

    assert fill(b"\x01", optional, TensorSpec("x", "INT8", (1,)))[1].tolist() == [1]


@pytest.mark.parametrize(
    ("specs", "body", "said"),
    [
        (
            [TensorSpec("x", "INT8", (1,)), TensorSpec("y", "INT8", (1,))],
            b"1",
            "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in 'm' model configuration",
        ),
        (
            [TensorSpec("x", "INT8", (-1, -1))],
            b"1",
            "The shape of the raw input 'x' can not be deduced because there are more than one variable-sized dim",
        ),
        (
            [TensorSpec("x", "BYTES", (2,))],
            b"1",
            "For BYTE datatype raw input 'x', the model must have input shape [1]",
        ),
        (
            [TensorSpec("x", "INT32", (-1,))],
            b"12345",
            "input byte size mismatch for input 'raw_input' for model 'm'. Expected 4, got 5",
        ),
        (
            [TensorSpec("x", "INT32", (2,))],
            b"1234",
            "input byte size mismatch for input 'raw_input' for model 'm'. Expected 8, got 4",
        ),
        ([TensorSpec("x")], b"1", "The type or shape of the raw input 'x' is not known"),
    ],
)
def test_what_cannot_be_told_by_bytes_alone_is_refused_in_tritons_words(
    specs: list[TensorSpec], body: bytes, said: str
) -> None:
    """Several inputs, several free dimensions, another number of bytes."""
    with pytest.raises(BadRequestError) as caught:
        fill(body, *specs)

    assert caught.value.message.startswith("[request id: 7] " + said)


def test_booleans_are_0_or_1() -> None:
    """numpy would take any byte and call it true."""
    with pytest.raises(BadRequestError, match="BOOL"):
        fill(b"\x02", TensorSpec("x", "BOOL", (1,)))
