"""Protobuf to questions and from answers: what clients other than the vendor's send, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from serving.codecs.packed import Unread
from serving.codecs.v2 import Question, Wanted
from serving.errors import BadRequestError
from serving.grpc import messages
from serving.inference import Answer
from serving.repository.overrides import Override

pb = pytest.importorskip("tritonclient.grpc.service_pb2")

# A datatype, the field that it is typed in, values.
TYPED: list[tuple[str, str, list[Any]]] = [
    ("BOOL", "bool_contents", [True, False]),
    ("INT8", "int_contents", [-128, 127]),
    ("INT32", "int_contents", [-5, 5]),
    ("INT64", "int64_contents", [-(2**63), 1]),
    ("UINT16", "uint_contents", [65535, 0]),
    ("UINT64", "uint64_contents", [2**64 - 1, 0]),
    ("FP32", "fp32_contents", [0.5, -0.5]),
    ("FP64", "fp64_contents", [0.1, -0.1]),
    ("BYTES", "bytes_contents", [b"\xff", b""]),
]


def request(datatype: str = "FP32", shape: tuple[int, ...] = (2,), raw: bytes | None = None, **contents: Any) -> Any:
    """A request of one input."""
    made = pb.ModelInferRequest(model_name="m", id="7")
    made.inputs.add(name="x", datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(made.inputs[0].contents, field).extend(values)
    if raw is not None:
        made.raw_input_contents.append(raw)
    return made


@pytest.mark.parametrize(("datatype", "field", "values"), TYPED)
def test_typed_contents_become_arrays(datatype: str, field: str, values: list[Any]) -> None:
    """Each datatype from the field that the protocol has for it."""
    question, length = messages.read(request(datatype, (2,), None, **{field: values}))
    found, tensor = question.inputs["x"]
    assert isinstance(tensor, Unread)
    assert (found, tensor.read("", "m").tolist()) == (datatype, values)
    assert length > 0


def test_raw_contents_are_seen_in_place() -> None:
    """The array is a view of the message's bytes, whose number is what admission counts."""
    question, length = messages.read(request(raw=np.array([1, 2], np.float32).tobytes()))
    tensor = question.inputs["x"][1]
    assert isinstance(tensor, Unread)
    array = tensor.read("", "m")
    assert (array.tolist(), length, question.id) == ([1, 2], 8, "7")
    assert not array.flags.owndata


def _with(made: Any, change: Callable[[Any], object]) -> Any:
    change(made)
    return made


WRONG: dict[str, tuple[Any, str]] = {
    "fewer raw contents than inputs": (
        _with(request(raw=b"12345678"), lambda made: made.inputs.add(name="y", datatype="FP32", shape=[1])),
        "expected 2 raw_input_contents for model 'm', got 1",
    ),
    "raw and typed at once": (
        request(raw=b"12345678", fp32_contents=[1, 2]),
        "contents field must not be specified when using raw_input_contents for 'x'",
    ),
    "another type's field": (
        request("INT64", int_contents=[1, 2]),
        "unexpected explicit tensor data for input tensor 'x' for model 'm' of type 'INT32', expected datatype 'INT64'",
    ),
    "no datatype": (request("FP33", fp32_contents=[1, 2]), "of type 'FP32', expected datatype '<invalid>'"),
    "no typed field": (request("FP16"), "unable to find data for input tensor 'x' for model 'm' in request."),
    "an input twice": (
        _with(request(fp32_contents=[1, 2]), lambda made: made.inputs.append(made.inputs[0])),
        "[request id: 7] input 'x' already exists in request",
    ),
    "values out of range": (request("INT8", int_contents=[1, 300]), "values that INT8 does not hold"),
    "a great rank": (request(shape=(1,) * 65, raw=b"1234"), "input 'x' has 65 dimensions: there are at most 64."),
    "a reserved parameter": (
        _with(request(), lambda made: made.parameters["triton_x"].MergeFrom(pb.InferParameter(bool_param=True))),
        "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with "
        "'triton_' are allowed: triton_enable_empty_final_response",
    ),
    "a negative priority": (
        _with(request(), lambda made: made.parameters["priority"].MergeFrom(pb.InferParameter(int64_param=-1))),
        "invalid value for 'priority', expected value >= 0.",
    ),
    "a number of classes below 0": (
        _with(
            request(),
            lambda made: (
                made.outputs.add(name="y").parameters["classification"].MergeFrom(pb.InferParameter(int64_param=-1))
            ),
        ),
        "invalid value for 'classification' parameter, expected >= 0",
    ),
    "classes in words": (
        _with(
            request(),
            lambda made: (
                made.outputs.add(name="y").parameters["classification"].MergeFrom(pb.InferParameter(string_param=""))
            ),
        ),
        "invalid value type for 'classification' parameter, expected int64_param",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_requests_that_contradict_themselves_are_told(case: str) -> None:
    """The input or the parameter by name."""
    made, text = WRONG[case]
    with pytest.raises(BadRequestError) as caught:
        messages.read(made)
    assert text in caught.value.text


@pytest.mark.parametrize(
    ("name", "kind", "value", "expected"),
    [
        ("priority", "string_param", "x", "int64_param or uint64_param."),
        ("timeout", "uint64_param", 1, "int64_param."),
        ("sequence_id", "bool_param", True, "int64_param or string_param."),
        ("sequence_start", "int64_param", 1, "bool_param."),
        ("sequence_end", "", None, "bool_param."),
        ("own", "uint64_param", 1, "int64_param, bool_param, or string_param."),
        ("own", "", None, "int64_param, bool_param, or string_param."),
    ],
)
def test_a_parameter_of_another_type_is_told_in_tritons_words(name: str, kind: str, value: Any, expected: str) -> None:
    """One without a value is of none."""
    made = request(raw=b"12345678")
    made.parameters[name].MergeFrom(pb.InferParameter(**({kind: value} if kind else {})))
    with pytest.raises(BadRequestError) as caught:
        messages.read(made)
    assert caught.value.text == f"invalid value type for '{name}' parameter, expected {expected}"


def test_a_tensor_of_nothing_needs_no_contents() -> None:
    """It has none."""
    tensor = messages.read(request(shape=(0, 3)))[0].inputs["x"][1]
    assert isinstance(tensor, Unread)
    assert tensor.read("", "m").shape == (0, 3)


@pytest.mark.parametrize("datatype", ["NONSENSE", "BF16", ""])
def test_a_tensor_of_nothing_has_a_datatype_all_the_same(datatype: str) -> None:
    """An unknown one is the client's mistake, not a failure of the server."""
    with pytest.raises(BadRequestError, match=f"input 'x' has datatype '{datatype}'"):
        messages.read(request(datatype, (0, 3)))


def test_outputs_may_ask_for_classes() -> None:
    """At most a million."""
    made = request(fp32_contents=[1, 2])
    made.outputs.add(name="y").parameters["classification"].int64_param = 3
    assert messages.read(made)[0].outputs == [Wanted("y", is_binary=True, classes=3)]
    made.outputs[0].parameters["classification"].int64_param = 10**6 + 1
    with pytest.raises(BadRequestError, match="at most 1000000"):
        messages.read(made)


def test_parameters_keep_their_types_both_ways() -> None:
    """What gRPC has no type for travels as JSON; a value that is none is None."""
    given = {"b": True, "i": -1, "f": 0.5, "s": "text", "l": [1], "n": 2**80}
    entries = pb.ModelInferResponse().parameters
    messages.write_parameters(entries, given)
    assert messages.read_parameters(entries) == given | {"l": "[1]", "n": str(2**80)}
    empty = pb.ModelInferRequest()
    empty.parameters["x"].MergeFrom(pb.InferParameter())
    assert messages.read_parameters(empty.parameters) == {"x": None}


def test_the_marker_of_streams_is_no_parameter_of_the_model() -> None:
    """And priority and timeout are the question's own."""
    made = request(fp32_contents=[1, 2])
    made.parameters[messages.WANTS_FINAL].bool_param = True
    made.parameters["priority"].uint64_param = 2
    made.parameters["timeout"].int64_param = 5
    question, _ = messages.read(made)
    assert messages.WANTS_FINAL not in question.parameters
    assert (question.priority, question.timeout_us) == (2, 5)


def test_an_answer_is_written_raw() -> None:
    """Names, datatypes and shapes beside the bytes."""
    texts = np.array([b"ab"], np.object_)
    answer = Answer("m", "1", "7", {"y": np.ones((1, 2), np.float32), "t": texts}, {"p": 1})
    written = messages.write(answer, Question())
    assert [(each.name, each.datatype, list(each.shape)) for each in written.outputs] == [
        ("y", "FP32", [1, 2]),
        ("t", "BYTES", [1]),
    ]
    assert list(written.raw_output_contents) == [np.ones(2, np.float32).tobytes(), b"\x02\x00\x00\x00ab"]
    assert (written.model_version, written.id, written.parameters["p"].int64_param) == ("1", "7", 1)


def test_a_load_brings_a_configuration_and_files() -> None:
    """Nothing said, nothing brought."""
    request = pb.RepositoryModelLoadRequest()
    assert messages.read_load(request.parameters) is None
    request.parameters["config"].string_param = "{}"
    request.parameters["file:1/model.py"].bytes_param = b"code"

    assert messages.read_load(request.parameters) == Override("{}", {"1/model.py": b"code"})


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("1/model.py", {"bytes_param": b""}, "unrecognized load parameter '1/model.py'."),
        ("config", {"bytes_param": b""}, "invalid value type for load parameter 'config', expected string_param."),
        ("file:a", {"string_param": ""}, "invalid value type for load parameter 'file:a', expected bytes_param."),
        ("file:a", {}, "invalid value type for load parameter 'file:a', expected bytes_param."),
    ],
)
def test_parameters_of_a_load_that_are_none_are_refused(name: str, value: dict[str, Any], error: str) -> None:
    """In Triton's words."""
    with pytest.raises(BadRequestError) as caught:
        messages.read_load({name: pb.ModelRepositoryParameter(**value)})
    assert caught.value.message == error


def test_an_unload_says_whether_members_go_too() -> None:
    """A boolean or nothing."""
    assert messages.read_unload({}) is False
    assert messages.read_unload({"unload_dependents": pb.ModelRepositoryParameter(bool_param=True)}) is True
    with pytest.raises(BadRequestError, match="expected bool_param"):
        messages.read_unload({"unload_dependents": pb.ModelRepositoryParameter(string_param="x")})
