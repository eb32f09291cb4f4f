"""Bodies of the generate extension: flat in, flat out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from serving.codecs import generate
from serving.codecs.v2 import ParseError, Question
from serving.errors import BadRequestError
from serving.tensors import Signature, TensorSpec

ROWS = Signature((TensorSpec("x", "FP32", (-1, 2)), TensorSpec("text", "BYTES", (1, 1))), ())


def read(signature: Signature = ROWS, **document: Any) -> Question:
    """Read a request."""
    return generate.read(json.dumps(document).encode(), signature)


def test_inputs_take_the_shape_of_the_model_and_the_rest_are_parameters() -> None:
    """Scalars and flat lists."""
    question = read(id="3", x=[1, 2, 3, 4], text="hello", parameters={"a": 1}, temperature=0.5)

    assert question.id == "3"
    arrays = {name: array for name, (_, array) in question.inputs.items() if isinstance(array, np.ndarray)}
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "x": [[1, 2], [3, 4]],
        "text": [[b"hello"]],
    }
    assert question.parameters == {"a": 1, "temperature": 0.5}


@pytest.mark.parametrize(
    ("dims", "shape"), [((-1, -1), (1, 3)), ((-1, -1, -1), (3,)), ((3,), (3,)), (None, (3,)), ((-1, 3), (1, 3))]
)
def test_free_dimensions_are_found_out(dims: tuple[int, ...] | None, shape: tuple[int, ...]) -> None:
    """The batch is one; two more that are free are left to the model's check."""
    question = read(Signature((TensorSpec("x", None, dims),), ()), x=[1, 2, 3])

    assert question.inputs["x"][1].shape == shape


def test_a_long_list_is_as_good_as_a_short_one() -> None:
    """simdjson hands over an array."""
    assert read(x=[0.5] * 2000).inputs["x"][1].shape == (1000, 2)


@pytest.mark.parametrize("body", [b"", b"[1]", b"nope"])
def test_what_is_no_object_is_a_parse_error(body: bytes) -> None:
    """As on /infer."""
    with pytest.raises(ParseError, match="failed to parse the request JSON buffer"):
        generate.read(body, ROWS)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"x": [[1, 2]]}, "attempt to access JSON non-scalar in 'x'"),
        ({"x": [[0.5] * 2000]}, "attempt to access JSON non-scalar in 'x'"),
        ({"x": [1, 2, 3]}, "input 'x' has 3 values and the model wants the shape [-1, 2]"),
        ({"parameters": [1]}, "parameter 'parameters' has invalid type"),
        ({"triton_a": 1}, "reserved"),
    ],
)
def test_what_does_not_fit_is_refused(document: dict[str, Any], said: str) -> None:
    """Nested lists, counts, reserved names."""
    with pytest.raises(BadRequestError) as caught:
        read(**document)

    assert said in caught.value.message


def test_an_answer_is_flat() -> None:
    """A single value stands alone, bytes are text."""
    outputs = {"a": np.array([[1.5]]), "b": np.array([b"x", b"\xff"], object)}

    assert generate.flat({"model_name": "m"}, outputs) == {"a": 1.5, "b": ["x", "\ufffd"], "model_name": "m"}
