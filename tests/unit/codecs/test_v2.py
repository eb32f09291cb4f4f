"""Bodies of the Open Inference protocol: read, refused with Triton's words, written."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from serving.codecs import v2
from serving.codecs.packed import Unread, to_bytes
from serving.codecs.v2 import ParseError, Question, Wanted
from serving.errors import BadRequestError
from serving.tensors import DTYPES, Array

X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}


def read(**document: Any) -> Question:
    """Read a JSON request."""
    return v2.read(json.dumps(document).encode(), None)


def refusal(kind: type[BadRequestError] = BadRequestError, **document: Any) -> str:
    """The sentence for a JSON request that is refused."""
    with pytest.raises(kind) as caught:
        read(**document)
    assert type(caught.value) is kind
    return caught.value.message


def binary(data: bytes, **item: Any) -> Question:
    """Read a request of one binary input."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": len(data)}} | item
    head = json.dumps({"inputs": [item]}).encode()
    return v2.read(head + data, len(head))


def texts(*elements: bytes) -> Array:
    """A BYTES array of one dimension."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_a_request_is_read_whole() -> None:
    """Id, parameters, inputs and outputs."""
    question = read(
        id="7",
        parameters={"priority": 2, "timeout": 9, "own": "a", "binary_data_output": True},
        inputs=[X],
        outputs=[{"name": "y", "parameters": {"binary_data": False, "classification": 3}}, {"name": "z"}],
    )

    assert (question.id, question.priority, question.timeout_us, question.is_binary) == ("7", 2, 9, True)
    assert question.outputs == [Wanted("y", False, 3), Wanted("z", True, 0)]
    datatype, array = question.inputs["x"]
    assert isinstance(array, np.ndarray)
    assert (datatype, array.tolist()) == ("FP32", [[1, 2]])
    assert v2.own_parameters(question.parameters) == {"own": "a"}


def test_large_numbers_and_shapes_take_the_fast_parser_to_the_same_end() -> None:
    """Flat or nested, simdjson or orjson."""
    question = read(inputs=[{"name": "x", "datatype": "INT64", "shape": [2, 1000], "data": list(range(2000))}])

    assert question.inputs["x"][1].shape == (2, 1000)
    assert "dimensions" in refusal(inputs=[X | {"shape": [1] * 400, "data": [1.5]}], id="x" * 2000)


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_every_datatype_travels_in_binary_and_back(datatype: str) -> None:
    """The bytes that came are the bytes that go."""
    array = texts(b"", b"\xff\x00") if datatype == "BYTES" else np.array([0, 1]).astype(DTYPES[datatype])
    data = to_bytes(array)
    found = binary(data, datatype=datatype, shape=[2]).inputs["x"][1]

    assert found == Unread("x", datatype, (2,), memoryview(data))
    again = found.read("", "m") if isinstance(found, Unread) else found
    assert (again.dtype, again.tolist(), to_bytes(again)) == (array.dtype, array.tolist(), data)


def test_a_header_of_zero_is_one_input_and_nothing_else() -> None:
    """Raw binary: the model says what it is."""
    question = v2.read(b"\x00\x01", 0)

    assert (question.raw, question.is_binary) == (b"\x00\x01", True)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        ({"inputs": 3}, "Unable to parse 'inputs': attempt to access JSON non-array as array"),
        ({"inputs": [3]}, "Unable to parse 'inputs': attempt to access JSON non-array as array"),
        ({"inputs": [{}]}, "Unable to parse 'inputs': attempt to access non-existing object member 'name'"),
        ({"inputs": [], "outputs": [{"name": 1}]}, "Unable to parse 'outputs'"),
        ({"inputs": [], "id": 3}, "Unable to parse 'id': attempt to access JSON non-string as string"),
        ({"inputs": [], "parameters": 3}, "Unable to parse 'parameters'"),
        ({"inputs": [], "parameters": {"priority": -1}}, "Unable to parse 'priority'"),
        ({"inputs": [], "parameters": {"timeout": "1"}}, "Unable to parse 'timeout'"),
        ({"inputs": [X | {"shape": None}]}, "Unable to parse 'shape'"),
        ({"inputs": [X | {"shape": [1.0, 2]}]}, "Unable to parse 'shape'"),
        ({"inputs": [X | {"shape": [3]}]}, "Unable to parse 'data': Shape does not match true shape of 'data' field"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}, "non-existing object member 'data'"),
    ],
)
def test_what_is_no_request_is_a_parse_error_in_tritons_words(document: dict[str, Any], said: str) -> None:
    """Triton says 500 for these."""
    assert said in refusal(ParseError, **document)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"3", b"\xff", b"[" * 5000])
def test_what_is_no_json_object_is_a_parse_error(body: bytes) -> None:
    """With the reason behind Triton's words."""
    with pytest.raises(ParseError, match="failed to parse the request JSON buffer: "):
        v2.read(body, None)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"inputs": [X, X]}, "[request id: <id_unknown>] input 'x' already exists in request"),
        ({"inputs": [X, X], "id": "7"}, "[request id: 7] input 'x' already exists in request"),
        ({"inputs": [X | {"datatype": "BF17"}]}, "has datatype 'BF17'"),
        ({"inputs": [X | {"shape": [-1, 2]}]}, "dimensions, and their product, are 0 to 2**31 - 1"),
        ({"inputs": [X | {"shape": [0, 2**31 - 1, 2**31 - 1, 2**31 - 1], "data": []}]}, "and their product"),
        ({"inputs": [X | {"shape": [2**40]}]}, "and their product"),
        ({"inputs": [X | {"data": [1, "a"]}]}, "Input 'x' has 'a' at [1]"),
        ({"inputs": [X | {"parameters": {"binary_data_size": 8}}]}, "has both 'data' and 'binary_data_size'"),
        ({"inputs": [X | {"parameters": {"shared_memory_region": "r"}}]}, "shared memory is not read on this route"),
        ({"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": 10**7}}]}, "at most 1000000"),
        ({"inputs": [], "parameters": {"triton_x": 1}}, "reserved for Triton usage: 'triton_x'"),
        ({"inputs": [], "parameters": {"a": [1]}}, "parameter 'a' has invalid type"),
        ({"inputs": [], "parameters": {"a": None}}, "parameter 'a' has invalid type"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(document: dict[str, Any], said: str) -> None:
    """400, on every route."""
    assert said in refusal(**document)


@pytest.mark.parametrize(
    ("data", "item", "said"),
    [
        (b"1234", {"parameters": {"binary_data_size": 9}}, "expecting 9 bytes, got 4"),
        (b"12345678", {"parameters": {"binary_data_size": 4}, "shape": [1]}, "unexpected additional input data"),
    ],
)
def test_binary_data_that_does_not_fit_is_refused(data: bytes, item: dict[str, Any], said: str) -> None:
    """Sizes that the body has not; what a tensor wants of its bytes is checked when it is read."""
    with pytest.raises(BadRequestError) as caught:
        binary(data, **item)

    assert said in caught.value.message


# ---- lengths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["99999", "-1", "x", "", "1.0", "٣", "9" * 5000])
def test_a_header_length_out_of_range_is_told_in_tritons_words(text: str) -> None:
    """Also one that no machine could count."""
    with pytest.raises(BadRequestError, match=r"inference header size should be in range \(0, 256\), got: "):
        v2.header_length(text, 256)


def test_a_header_length_in_range_is_a_number() -> None:
    """None without the header; the vendor type's is the same."""
    assert (v2.header_length(None, 9), v2.header_length("9", 9)) == (None, 9)
    assert v2.vendor_header_length(f"{v2.VENDOR} 7", 9) == 7
    with pytest.raises(BadRequestError, match="in range"):
        v2.vendor_header_length(v2.VENDOR, 9)


# ---- writing ---------------------------------------------------------------------------------------------------------

HEAD = {"model_name": "m", "model_version": "1"}


def test_an_answer_in_json_has_tritons_keys_in_tritons_order() -> None:
    """Clients compare whole texts."""
    body, header = v2.write(HEAD, {"y": np.array([[1.5]], np.float32)}, Question())

    assert header is None
    assert body == (
        b'{"model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1,1],"data":[1.5]}]}'
    )


def test_binary_outputs_follow_the_json_if_there_are_bytes() -> None:
    """Mixed, each as it was asked for."""
    question = Question(outputs=[Wanted("a", True), Wanted("b"), Wanted("c", True)])
    outputs = {"a": np.array([1], np.int16), "b": texts(b"x"), "c": np.empty((0, 2), np.float32)}
    body, header = v2.write(HEAD, outputs, question)
    document = json.loads(body[:header])

    assert body[header:] == b"\x01\x00"
    assert [each.get("parameters") for each in document["outputs"]] == [
        {"binary_data_size": 2},
        None,
        {"binary_data_size": 0},
    ]
    assert [each.get("data") for each in document["outputs"]] == [None, ["x"], None]
    assert v2.write(HEAD, {"c": outputs["c"]}, question)[1] is None


# ---- classification --------------------------------------------------------------------------------------------------


def test_the_best_classes_come_first_with_their_labels() -> None:
    """One row each where there is a batch, else one for all."""
    scores = np.array([[0.5, 30, 1], [2, 1, 0]], np.float32)

    assert v2.classified(scores, 2, ("a", "b"), has_batch=True).tolist() == [
        [b"30.000000:1:b", b"1.000000:2"],
        [b"2.000000:0:a", b"1.000000:1:b"],
    ]
    assert v2.classified(scores, 1, None, has_batch=False).tolist() == [b"30.000000:1"]
    ranks = np.array([3, 2**60 + 1])
    assert v2.classified(ranks, 2, ("a",), has_batch=False).tolist() == [b"1152921504606846977:1", b"3:0:a"]


def test_classes_of_odd_outputs_are_no_accident() -> None:
    """Empty ones, scalars, and those that have no order."""
    assert v2.classified(np.empty((0, 4)), 2, None, has_batch=True).shape == (0, 2)
    assert v2.classified(np.array(3.0), 2, None, has_batch=True).tolist() == [b"3.000000:0"]
    with pytest.raises(BadRequestError, match="unsupported type 'BYTES'"):
        v2.classified(texts(b"a"), 1, None, has_batch=False)
    with pytest.raises(BadRequestError, match="unsupported type 'BOOL'"):
        v2.classified(np.array([True]), 1, None, has_batch=False)
