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


@pytest.mark.parametrize("value", ["hello", ["hello"], [["hello"]]])
def test_a_list_is_taken_however_it_is_nested(value: object) -> None:
    """The model's shape decides."""
    assert read(text=value).array("text", "m").tolist() == [[b"hello"]]
    assert read(x=[[0.5] * 2000]).inputs["x"][1].shape == (1000, 2)


def test_an_input_without_a_type_has_the_one_of_the_json() -> None:
    """A model may tell nothing of its inputs."""
    signature = Signature((TensorSpec("x"),), ())

    assert [read(signature, x=value).inputs["x"][0] for value in ("a", 1, 0.5, True)] == [
        "BYTES",
        "INT64",
        "FP32",
        "BOOL",
    ]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "failed to parse the request JSON buffer: The document is empty. at 0"),
        (b"nope", "failed to parse the request JSON buffer: "),
        (b"[1]", "attempt to get members for non-object"),
        (b'{"id": 7}', "Unable to parse 'id': attempt to access JSON non-string as string"),
        (b'{"text": 7}', "Unable to parse JSON bytes array: attempt to access JSON non-string as string"),
        (b'{"text": null}', "Unable to parse JSON bytes array: attempt to access JSON non-string as string"),
        (b'{"x": ["a", 1]}', "Unable to parse 'data': attempt to access JSON non-number as double"),
        (b'{"parameters": [1]}', "Expected JSON object for keyword: 'parameters': attempt to access JSON non-object"),
        (b'{"parameters": {"priority": -1}}', "Unable to parse 'priority'"),
    ],
)
def test_what_is_no_request_is_a_parse_error_in_tritons_words(body: bytes, said: str) -> None:
    """As on /infer."""
    with pytest.raises(ParseError) as caught:
        generate.read(body, ROWS)

    assert caught.value.message.startswith(said)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"x": [1, 2, 3]}, "The schema can not convert input 'x' to tensor with proper shape"),
        ({"stop": ["a"]}, "parameter 'stop' has invalid type. It should be either 'int', 'bool', or 'string'."),
        ({"parameters": {"a": []}}, "Converting keyword: 'parameters': parameter 'a' has invalid type."),
        ({"triton_a": 1}, "reserved"),
    ],
)
def test_what_does_not_fit_is_refused(document: dict[str, Any], said: str) -> None:
    """Counts, types, reserved names."""
    with pytest.raises(BadRequestError) as caught:
        read(**document)

    assert said in caught.value.message


def test_an_answer_is_flat() -> None:
    """A single value stands alone, bytes are text."""
    outputs = {"a": np.array([[1.5]]), "b": np.array([b"x", b"\xff"], object)}

    assert generate.flat({"model_name": "m"}, outputs) == {"a": 1.5, "b": ["x", "\ufffd"], "model_name": "m"}
