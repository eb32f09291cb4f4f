"""Requests of the Open Inference protocol: read, and refused with Triton's words in Triton's order."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.codecs import v2, v2_requests
from serving.codecs.packed import to_bytes
from serving.codecs.v2 import ParseError, Question, Wanted
from serving.errors import BadRequestError
from serving.shared_memory import Regions
from serving.tensors import DTYPES, Array

X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
NO_DATA = {key: each for key, each in X.items() if key != "data"}
NO_FIELD = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
    "'shared_memory_region' in 'parameters'. But "
)
REGION = {"shared_memory_region": "r", "shared_memory_byte_size": 8}


def read(**document: Any) -> Question:
    """Read a JSON request."""
    return v2_requests.read(json.dumps(document).encode(), None, "m")


def refusal(kind: type[BadRequestError] = BadRequestError, **document: Any) -> str:
    """The sentence for a JSON request that is refused."""
    with pytest.raises(kind) as caught:
        read(**document)
    assert type(caught.value) is kind
    return caught.value.message


def without(key: str) -> dict[str, Any]:
    """One input that lacks a key."""
    return {each: value for each, value in X.items() if each != key}


def output(**parameters: Any) -> dict[str, Any]:
    """A request for one output with parameters."""
    return {"inputs": [], "outputs": [{"name": "y", "parameters": parameters}]}


def binary(data: bytes, **item: Any) -> Question:
    """Read a request of one binary input."""
    item = NO_DATA | {"parameters": {"binary_data_size": len(data)}} | item
    head = json.dumps({"inputs": [item]}).encode()
    return v2_requests.read(head + data, len(head), "m")


def tensor(question: Question, name: str = "x") -> Array:
    """What came for one input."""
    return question.array(name, "m")


# ---- what is read ----------------------------------------------------------------------------------------------------


def test_a_request_is_read_whole() -> None:
    """Id, parameters, inputs and outputs."""
    question = read(
        id="7",
        parameters={"priority": 2, "timeout": 9, "own": "a", "binary_data_output": True, "sequence_end": False},
        inputs=[X],
        outputs=[{"name": "y", "parameters": {"binary_data": True, "classification": 3}}, {"name": "z"}],
    )

    assert (question.id, question.priority, question.timeout_us, question.is_binary) == ("7", 2, 9, True)
    assert question.outputs == [Wanted("y", True, 3), Wanted("z", False, 0)]
    assert question.inputs["x"][0] == "FP32"
    assert tensor(question).tolist() == [[1, 2]]
    assert v2.own_parameters(question.parameters) == {"own": "a"}


def test_outputs_that_are_named_are_binary_only_where_they_say_so() -> None:
    """`binary_data_output` is about those that are not."""
    question = read(inputs=[], parameters={"binary_data_output": True}, outputs=[{"name": "y"}])

    assert question.outputs == [Wanted("y", is_binary=False)]


def test_parameters_of_an_input_or_output_that_are_no_object_are_none() -> None:
    """Triton does not look into them."""
    question = read(inputs=[X | {"parameters": []}], outputs=[{"name": "y", "parameters": 7}])

    assert tensor(question).tolist() == [[1, 2]]
    assert question.outputs == [Wanted("y")]


@pytest.mark.parametrize("sequence", [0, 7, 2**63, "a"])
def test_a_sequence_is_a_number_or_a_text(sequence: object) -> None:
    """As the sequence extension has it."""
    assert read(inputs=[], parameters={"sequence_id": sequence}).parameters == {"sequence_id": sequence}


def test_large_numbers_and_shapes_take_the_fast_parser_to_the_same_end() -> None:
    """Flat or nested, simdjson or orjson."""
    question = read(inputs=[{"name": "x", "datatype": "INT64", "shape": [2, 1000], "data": list(range(2000))}])

    assert tensor(question).shape == (2, 1000)
    assert "dimensions" in refusal(inputs=[X | {"shape": [1] * 400, "data": [1.5]}], id="x" * 2000)
    assert NO_FIELD in refusal(inputs=list(range(2000)))
    assert "non-signed-integer" in refusal(ParseError, inputs=[X | {"datatype": "INT8", "data": [0.5] * 2000}])


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_every_datatype_travels_in_binary_and_back(datatype: str) -> None:
    """The bytes that came are the bytes that go."""
    array = np.array([0, 1]).astype(DTYPES[datatype])
    if datatype == "BYTES":
        array[:] = [b"", b"\xff\x00"]
    data = to_bytes(array)
    found = tensor(binary(data, datatype=datatype, shape=[2]))

    assert found.dtype == array.dtype
    assert found.tolist() == array.tolist()
    assert to_bytes(found) == data


def test_binary_inputs_are_taken_in_turn_around_those_in_json() -> None:
    """Each so many bytes as it says."""
    items = [
        {"name": name, "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}
        for name, size in (("a", 2), ("b", 0), ("c", 1))
    ]
    head = json.dumps({"inputs": [items[0], X, *items[1:]]}).encode()
    question = v2_requests.read(head + b"\x01\x02\x03", len(head), "m")

    assert {name: tensor(question, name).tolist() for name in question.inputs} == {
        **{"a": [1, 2], "x": [[1, 2]]},
        **{"b": [], "c": [3]},
    }


def test_tensors_come_from_shared_memory_and_go_there(tmp_path: Path) -> None:
    """At an offset, by the names that clients registered."""
    (tmp_path / "k").write_bytes(bytes(4) + np.array([1, 2], "<f4").tobytes() + bytes(8))
    regions = Regions(is_on=True, folder=tmp_path)
    regions.register("r", "k", 0, 20)
    place = REGION | {"shared_memory_offset": 4}
    document = {
        "inputs": [NO_DATA | {"parameters": place}],
        "outputs": [{"name": "y", "parameters": place | {"shared_memory_offset": 12}}],
    }
    question = v2_requests.read(json.dumps(document).encode(), None, "m", regions)
    array = tensor(question)
    v2.write({}, {"y": array * 2}, question, regions)

    assert array.tolist() == [[1, 2]]
    assert np.frombuffer((tmp_path / "k").read_bytes(), "<f4").tolist() == [0, 1, 2, 2, 4]


@pytest.mark.parametrize(("body", "header"), [(b"\x00\x01", 0), (b"", 0), (b"", None)])
def test_a_header_of_zero_is_one_input_and_nothing_else(body: bytes, header: int | None) -> None:
    """Raw binary: the model says what it is. Nothing at all is that, too."""
    question = v2_requests.read(body, header, "m")

    assert (question.raw, question.is_binary) == (body, True)


# ---- what does not parse ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        ({"inputs": 3}, "Unable to parse 'inputs': attempt to access JSON non-array as array"),
        ({"inputs": None}, "Unable to parse 'inputs': attempt to access JSON non-array as array"),
        ({"inputs": [without("name")]}, "Unable to parse 'name': attempt to access non-existing object member 'name'"),
        ({"inputs": [X | {"name": 7}]}, "Unable to parse 'name': attempt to access JSON non-string as string"),
        ({"inputs": [without("datatype")]}, "non-existing object member 'datatype'"),
        ({"inputs": [without("shape")]}, "Unable to parse 'shape': attempt to access non-existing object member"),
        ({"inputs": [], "outputs": [{"name": 1}]}, "Unable to parse 'name': attempt to access JSON non-string"),
        ({"inputs": [], "outputs": [7]}, "Unable to parse 'name': attempt to access non-existing object member 'name'"),
        ({"inputs": [], "outputs": None}, "Unable to parse 'outputs': attempt to access JSON non-array as array"),
        ({"inputs": [], "id": 3}, "Unable to parse 'id': attempt to access JSON non-string as string"),
        ({"inputs": [], "id": None}, "Unable to parse 'id': attempt to access JSON non-string as string"),
        ({"parameters": 3}, "failed to get request params.: attempt to get members for non-object"),
        ({"parameters": {"priority": -1}}, "Unable to parse 'priority': attempt to access JSON non-unsigned-integer"),
        ({"parameters": {"timeout": "1"}}, "Unable to parse 'timeout'"),
        ({"parameters": {"sequence_start": 1}}, "Unable to parse 'sequence_start': attempt to access JSON non-boolean"),
        ({"parameters": {"binary_data_output": "yes"}}, "Unable to parse 'binary_data_output': attempt to access"),
        ({"parameters": {"sequence_id": -1}}, "Unable to parse 'sequence_id': attempt to access JSON non-string"),
        ({"parameters": {"sequence_id": True}}, "Unable to parse 'sequence_id': attempt to access JSON non-string"),
        ({"inputs": [X | {"shape": "2"}]}, "Unable to parse 'shape': attempt to access JSON non-array as array"),
        ({"inputs": [X | {"shape": [1.0, 2]}]}, "Unable to parse 'shape': attempt to access JSON non-unsigned-integer"),
        ({"inputs": [X | {"shape": [-1, 2]}]}, "Unable to parse 'shape': attempt to access JSON non-unsigned-integer"),
        ({"inputs": [X | {"shape": [True, 2]}]}, "Unable to parse 'shape': attempt to access JSON non-unsigned"),
        ({"inputs": [X | {"shape": [3]}]}, "Unable to parse 'data': Shape does not match true shape of 'data' field"),
        ({"inputs": [X | {"data": "1"}]}, "Unable to parse 'data': attempt to access JSON non-array as array"),
        ({"inputs": [X | {"data": None}]}, "Unable to parse 'data': attempt to access JSON non-array as array"),
        (output(classification="x"), "Unable to set 'classification': attempt to access JSON non-unsigned-integer"),
        (output(binary_data="yes"), "Unable to parse 'binary_data': attempt to access JSON non-boolean as boolean"),
        (output(shared_memory_region=7), "Unable to parse 'shared_memory_region': attempt to access JSON non-string"),
        ({"inputs": [NO_DATA | {"parameters": {"binary_data_size": -1}}]}, "Unable to parse 'binary_data_size'"),
    ],
)
def test_what_is_no_request_is_a_parse_error_in_tritons_words(document: dict[str, Any], said: str) -> None:
    """Triton says 500 for these."""
    assert said in refusal(ParseError, **document)


@pytest.mark.parametrize("body", [b"{", b"nope", b"\xff", b"[" * 5000])
def test_what_is_no_json_is_a_parse_error(body: bytes) -> None:
    """With the reason behind Triton's words."""
    with pytest.raises(ParseError, match="failed to parse the request JSON buffer: "):
        v2_requests.read(body, None, "m")


def test_json_that_is_nothing_but_space_is_told_its_length() -> None:
    """As Triton counts it."""
    with pytest.raises(ParseError, match="failed to parse the request JSON buffer: The document is empty. at 3"):
        v2_requests.load(b"   ")


@pytest.mark.parametrize("body", [b"[1]", b"3", b"null", b'"a"'])
def test_json_that_is_no_object_has_no_inputs(body: bytes) -> None:
    """That is all that is missed."""
    with pytest.raises(ParseError, match="non-existing object member 'inputs'"):
        v2_requests.read(body, None, "m")


@pytest.mark.parametrize(
    ("datatype", "data", "said"),
    [
        ("FP32", ["a", 1], "Unable to parse 'data': attempt to access JSON non-number as double"),
        ("FP64", [None, None], "Unable to parse 'data': attempt to access JSON non-number as double"),
        ("FP16", [True, True], "Unable to parse 'data': attempt to access JSON non-number as double"),
        ("FP32", [1, {}], "Unable to parse 'data': attempt to access JSON non-number as double"),
        ("INT32", [1.5, 1], "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer"),
        ("INT64", [2**63, 1], "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer"),
        ("UINT8", [[-1], [1]], "Unable to parse 'data': attempt to access JSON non-unsigned-integer as unsigned-"),
        ("BOOL", [1, 0], "Unable to parse 'data': attempt to access JSON non-boolean as boolean"),
        ("BYTES", [1, "a"], "Unable to parse JSON bytes array: attempt to access JSON non-string as string"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_in_tritons_words(datatype: str, data: list[Any], said: str) -> None:
    """Each kind of datatype has its own."""
    assert said in refusal(ParseError, inputs=[X | {"datatype": datatype, "data": data}])


@pytest.mark.parametrize(
    ("datatype", "data", "said"),
    [
        ("INT8", [300, 1], "Input 'x' has 300 at [0] and wants values that fit int8"),
        ("FP32", [1e300, 1], "Input 'x' has 1e+300 at [0] and wants values that fit float32"),
        ("FP32", [[1], [1, 2]], "Input 'x' is ragged"),
    ],
)
def test_a_value_that_would_become_another_one_is_refused(datatype: str, data: list[Any], said: str) -> None:
    """Triton reads these as something else."""
    assert said in refusal(inputs=[X | {"datatype": datatype, "data": data}])


# ---- what contradicts itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"inputs": [3]}, NO_FIELD + "no field is set"),
        ({"inputs": [[[]]]}, NO_FIELD + "no field is set"),
        ({"inputs": [NO_DATA]}, NO_FIELD + "no field is set"),
        ({"inputs": [X | {"parameters": {"binary_data_size": 8}}]}, NO_FIELD + "set 'data' 'binary_data_size'"),
        ({"inputs": [NO_DATA | {"parameters": REGION | {"binary_data_size": 8}}]}, "'binary_data_size' 'shared_memory"),
        ({"inputs": [X, X]}, "[request id: <id_unknown>] input 'x' already exists in request"),
        ({"id": "7", "inputs": [X, X]}, "[request id: 7] input 'x' already exists in request"),
        ({"inputs": [X | {"datatype": "BF17"}]}, "invalid datatype for input x"),
        ({"inputs": [X | {"shape": [0, 2**31 - 1, 2**31 - 1, 2**31 - 1], "data": []}]}, "and their product"),
        ({"inputs": [X | {"shape": [2**40]}]}, "and their product"),
        ({"inputs": [NO_DATA | {"parameters": REGION}]}, "shared memory is not read on this route"),
        (output(classification=10**7), "at most 1000000"),
        (output(**REGION, binary_data=True), "Output can't set both 'shared_memory_region' and 'binary_data'"),
        (output(**REGION, classification=1), "Output can't set both 'shared_memory_region' and 'classification'"),
        ({"parameters": {"triton_x": 1}}, "parameter keys starting with 'triton_' are reserved for Triton usage and"),
        ({"parameters": {"a": [1]}}, "parameter 'a' has invalid type. It should be either 'int', 'bool', or 'string'."),
        ({"parameters": {"a": None}}, "parameter 'a' has invalid type"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(document: dict[str, Any], said: str) -> None:
    """400, on every route."""
    assert said in refusal(**document)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"id": 7, "parameters": []}, "'id'"),
        ({"parameters": [], "inputs": {}}, "request params"),
        ({"inputs": {}, "outputs": {}}, "'inputs'"),
        ({"inputs": [X | {"name": 7, "datatype": 7}]}, "'name'"),
        ({"inputs": [X | {"datatype": 7, "shape": 7}]}, "'datatype'"),
        ({"inputs": [X | {"shape": 7, "data": 7}]}, "'shape'"),
    ],
)
def test_what_comes_first_is_told_first(document: dict[str, Any], said: str) -> None:
    """In the order in which Triton reads."""
    assert said in refusal(ParseError, **document)


@pytest.mark.parametrize(
    ("data", "item", "said"),
    [
        (b"12345678", {"parameters": {"binary_data_size": 4}}, "unexpected additional input data for model 'm'"),
        (b"1", {"parameters": {"binary_data_size": 0}}, "unexpected additional input data for model 'm'"),
        (
            b"1234",
            {"parameters": {"binary_data_size": 9}},
            "unexpected size for input 'x', expecting 5 additional bytes for model 'm'",
        ),
        (b"\x02", {"datatype": "BOOL", "shape": [1]}, "is BOOL and has bytes other than 0 and 1"),
        (b"\x05\x00\x00\x00abc", {"datatype": "BYTES", "shape": [1]}, "incomplete string data"),
        (b"\x05\x00", {"datatype": "BYTES", "shape": [1]}, "incomplete string"),
        (struct.pack("<I", 0), {"datatype": "BYTES", "shape": [2]}, "expected 2 string"),
        (struct.pack("<II", 0, 0), {"datatype": "BYTES", "shape": [1]}, "for inference input 'x'"),
    ],
)
def test_binary_data_that_does_not_fit_is_refused(data: bytes, item: dict[str, Any], said: str) -> None:
    """Too short, too long, cut within an element."""
    with pytest.raises(BadRequestError) as caught:
        tensor(binary(data, **item))

    assert said in caught.value.message


def test_binary_data_of_another_size_than_its_shape_is_refused() -> None:
    """A view of it would be too long or too short."""
    with pytest.raises(BadRequestError, match="input 'x'"):
        tensor(binary(b"1234"))


# ---- lengths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["99999", "-1", "x", "", "1.0", "٣", "9" * 5000])
def test_a_header_length_out_of_range_is_told_in_tritons_words(text: str) -> None:
    """Also one that no machine could count."""
    with pytest.raises(BadRequestError, match=r"inference header size should be in range \(0, 256\), got: "):
        v2_requests.header_length(text, 256)


def test_a_header_length_in_range_is_a_number() -> None:
    """None without the header; the vendor type's is the same."""
    assert (v2_requests.header_length(None, 9), v2_requests.header_length("9", 9)) == (None, 9)
    assert v2_requests.vendor_header_length(f"{v2.VENDOR} 7", 9) == 7
    with pytest.raises(BadRequestError, match="in range"):
        v2_requests.vendor_header_length(v2.VENDOR, 9)
