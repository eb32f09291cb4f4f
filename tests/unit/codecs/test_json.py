"""JSON bodies to tensors and back."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.codecs import json, json_numbers
from serving.codecs.media import decode
from serving.errors import BadRequestError, NotAcceptableError
from serving.tensors import Array, Signature
from tests.unit.codecs.signatures import IMAGE, PAIR, ROWS, TEXT, UNTOLD, signature


def read(document: Any, wanted: Signature = ROWS) -> dict[str, Array]:
    """Decode a document, given as such or as bytes."""
    body = document if isinstance(document, bytes) else orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return decode(body, None, wanted).tensors


def refusal(document: Any, wanted: Signature = ROWS) -> str:
    """Return what the sender of a bad document is told."""
    with pytest.raises(BadRequestError) as fault:
        read(document, wanted)
    return fault.value.message


# -- forms


@pytest.mark.parametrize(
    ("document", "form"),
    [
        ({"instances": [[1, 2, 3, 4]]}, "instances"),
        ({"instances": [{"x": [1, 2, 3, 4]}]}, "instances"),
        ({"inputs": [[1, 2, 3, 4]]}, "inputs"),
        ({"inputs": [1, 2, 3, 4]}, "inputs"),
        ({"inputs": {"x": [[1, 2, 3, 4]]}}, "inputs"),
        ({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}, "v2"),
        ({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [[1, 2, 3, 4]]}]}, "v2"),
        ([[1, 2, 3, 4]], "bare"),
        ([1, 2, 3, 4], "bare"),
        ({"x": [[1, 2, 3, 4]]}, "bare"),
    ],
)
def test_every_form_says_the_same_tensor_and_is_remembered(document: Any, form: str) -> None:
    """One row of four reads alike in each form; the answer will be in kind."""
    decoded = decode(orjson.dumps(document), None, ROWS)

    assert decoded.form == form
    assert decoded.tensors["x"].dtype == np.float32
    assert decoded.tensors["x"].tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [{"a": [1, 2], "b": 5}, {"b": 6, "a": [3, 4]}]},
        {"inputs": {"b": [5, 6], "a": [[1, 2], [3, 4]]}},
        {"a": [[1, 2], [3, 4]], "b": [5, 6]},
        {
            "inputs": [
                {"name": "b", "shape": [2], "datatype": "INT64", "data": [5, 6]},
                {"name": "a", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]},
            ]
        },
    ],
)
def test_several_inputs_go_by_name_in_every_form(document: Any) -> None:
    """Their order is the model's, whatever the client's was."""
    tensors = read(document, PAIR)

    assert list(tensors) == ["a", "b"]
    assert (tensors["a"].tolist(), tensors["b"].tolist()) == ([[1, 2], [3, 4]], [5, 6])
    assert [str(array.dtype) for array in tensors.values()] == ["float32", "int64"]


def test_names_win_over_words_when_a_model_calls_its_inputs_so() -> None:
    """A model with inputs called 'inputs' and 'instances' can still be sent them by name."""
    odd = signature(("inputs", "FP32", (-1,)), ("instances", "FP32", (-1,)))

    assert read({"inputs": [1], "instances": [2]}, odd)["instances"].tolist() == [2]
    assert read({"inputs": {"inputs": [1], "instances": [2]}}, odd)["inputs"].tolist() == [1]


def test_a_text_alone_is_one_string() -> None:
    """What a text client sends: {"inputs": "..."}."""
    assert read({"inputs": "héllo"}, TEXT)["text"].tolist() == ["héllo".encode()]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"instances": []}, "'instances' is [] and wants an array of at least one row"),
        ({"instances": 3}, "'instances' is 3"),
        ({"instances": [[1, 2, 3, 4]], "signature_name": "s"}, "['signature_name'] beside 'instances'"),
        ({"inputs": [[1, 2, 3, 4]], "id": "7"}, "['id'] beside 'inputs'"),
        ({"y": [[1, 2, 3, 4]]}, "has inputs ['y'] and the model wants ['x']"),
        ({"inputs": {}}, "has inputs [] and the model wants ['x']"),
        ({"x": [[1, 2, 3, 4]], "y": 1}, "has inputs ['x', 'y'] and the model wants ['x']"),
        ({}, "has inputs [] and the model wants ['x']"),
        ({"instances": [{"x": [1, 2, 3, 4]}, [1, 2, 3, 4]]}, "Row 1 is [1, 2, 3, 4] and row 0 is an object of ['x']"),
        ({"instances": [{"x": [1, 2, 3, 4]}, {"y": 1}]}, "Row 1 is {'y': 1}"),
        ({"instances": [[1, 2, 3]]}, "has shape [1, 3] and the model wants [-1, 4]"),
    ],
)
def test_a_wrong_envelope_is_told_what_is_wrong(document: Any, said: str) -> None:
    """Missing, unknown and superfluous keys are named, as rows are by number."""
    assert said in refusal(document)


@pytest.mark.parametrize("document", [3, "text", None, True])
def test_a_lone_value_is_refused_for_several_inputs(document: Any) -> None:
    """It has no names either."""
    assert "A body of JSON without names is one unnamed tensor" in refusal(document, PAIR)


def test_an_array_without_names_is_refused_for_several_inputs() -> None:
    """The names of the inputs are in the message."""
    for document in ([[1, 2]], {"inputs": [[1, 2]]}, {"instances": [[1, 2]]}):
        assert "unnamed tensor and the model has inputs ['a', 'b']" in refusal(document, PAIR)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"datatype": "FP64"}, "'x' has datatype 'FP64' and the model wants ['FP32']"),
        ({"datatype": 3}, "'x' has datatype 3"),
        ({"shape": [2, 4]}, "'x' has 4 values and shape [2, 4]"),
        ({"shape": [-1, 4]}, "'x' has shape [-1, 4] and wants an array of sizes"),
        ({"shape": [True, 4]}, "'x' has shape [True, 4]"),
        ({"shape": 4}, "'x' has shape 4"),
        ({"shape": [0, 2**62], "data": []}, "'x' has 0 values"),
        ({"data": [1, 2, 3, "4"]}, "'x' has '4' at [3] and wants FP32"),
        ({"data": None}, "'x' has null at the top and wants FP32"),
        ({"name": "y"}, "has inputs ['y'] and the model wants ['x']"),
        ({"name": 1}, "A V2 input is"),
        ({"extra": {}}, "wants exactly the keys"),
    ],
)
def test_a_wrong_v2_tensor_is_told_what_is_wrong(change: dict[str, Any], said: str) -> None:
    """Name, shape, datatype and data each have their say."""
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]} | change

    assert said in refusal({"inputs": [tensor]})


def test_v2_tensors_are_refused_twice_or_without_being_objects() -> None:
    """Each input once, each an object."""
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}

    assert "Input 'x' is there twice" in refusal({"inputs": [tensor, tensor]})
    assert "A V2 input is 3" in refusal({"inputs": [tensor, 3]})


def test_a_v2_tensor_tells_the_type_that_the_model_does_not() -> None:
    """TorchScript has no types; V2 does."""
    tensor = {"name": "x", "shape": [2], "datatype": "INT8", "data": [1, 2]}

    assert read({"inputs": [tensor]}, UNTOLD)["x"].dtype == np.int8
    assert "has datatype 'BF16' and the model wants ['BOOL', 'UINT8'" in refusal(
        {"inputs": [tensor | {"datatype": "BF16"}]}, UNTOLD
    )


# -- faults and their places


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "The body is empty"),
        (b" \n", "The body is empty"),
        (b"[1,\n 2,,]", "not JSON at line 2, column 4"),
        (b'{"instances": [[1, NaN]]}', "not JSON at line 1, column 20"),
        (b"[[1, 2, 3, 4],]", "trailing comma"),
        (b"\xff", "not valid UTF-8"),
        (b"[" * 5000, "depth limit exceeded"),
        (b"[1e999]", "number is infinity"),
    ],
)
def test_a_syntax_error_has_its_line_and_column(body: bytes, said: str) -> None:
    """As orjson found them; large bodies too, which simdjson saw first."""
    assert said in refusal(body)
    assert said in refusal(body + b" " * 2048)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[1, 2, 3, 4], [1, 2]], "'x' is ragged: [1] has 2 elements and [0] has 4 elements"),
        ([[1, 2, 3, 4], 5], "'x' is ragged: [1] has no array (5) and [0] has 4 elements"),
        ([[[1], [2]], [[3], [4, 5]]], "'x' is ragged: [1][1] has 2 elements and [0][0] has 1 elements"),
        ([[1, [2], 3, 4]], "'x' is ragged: [0][1] has 1 elements and [0][0] has no array (1)"),
        ([[1, 2, None, 4]], "'x' has null at [0][2] and wants FP32"),
        ([[1, True, 3, 4]], "'x' has True at [0][1] and wants FP32"),
        ([[True, True, True, True]], "'x' has values of type bool and the model wants FP32"),
        ([["1", "2", "3", "4"]], "'x' has '1' at [0][0] and wants FP32"),
        ([[1, 2, {"b64": ""}, 4]], "'x' has {'b64': ''} at [0][2] and wants FP32"),
        ([[1, 2, 1e39, 4]], "'x' has 1e+39 at [0][2] and wants values that fit float32"),
    ],
)
def test_a_value_that_does_not_fit_is_told_its_place(values: Any, said: str) -> None:
    """The index is as a reader of the JSON would write it."""
    for document in ({"instances": values}, {"inputs": values}, {"x": values}, values):
        assert said in refusal(document)


def test_a_bomb_of_brackets_is_refused_however_deep() -> None:
    """Deeper than numpy goes, deeper than Python recurses, deeper than orjson parses."""
    assert "has inputs ['a']" in refusal(b'{"a":' * 1000 + b"1" + b"}" * 1000, ROWS)
    for depth in (65, 900, 1200, 200_000):
        body = b"[" * depth + b"1" + b"]" * depth
        assert "deep" in refusal(body, UNTOLD) or "depth" in refusal(body, UNTOLD)


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [[1,2,3,4]], "instances": [[5,6,7,8]]}',
        b'{"inputs": {"x": [[1,2,3,4]], "x" : [[5,6,7,8]]}}',
        b'{"instances": [{"x": [1,2,3,4], "x": [5,6,7,8]}]}',
        b'{"inputs": [{"name":"x","name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}',
    ],
)
def test_a_key_that_is_there_twice_is_refused(body: bytes) -> None:
    """Neither of the two is taken for the other, in bodies of any size."""
    assert "twice in one object" in refusal(body)
    assert "twice in one object" in refusal(body + b" " * 2048)


def test_colons_in_strings_are_no_keys() -> None:
    """What looks like a key that is there twice may be a smile."""
    assert read({"instances": [":)", '":', '"x":']}, TEXT)["text"].tolist() == [b":)", b'":', b'"x":']


# -- data types


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("INT8", [-128, 127]),
        ("UINT64", [0, 2**64 - 1]),
        ("INT64", [-(2**63), 2**53 + 1]),
        ("INT32", [1.0, 2]),
        ("FP16", [65504, -0.5]),
        ("FP64", [0.1, 3]),
        ("FP32", [2**62, 0.5]),
        ("BOOL", [True, False]),
    ],
)
def test_values_that_fit_are_exact(dtype: str, values: list[Any]) -> None:
    """Integers into floats, whole floats into integers, limits included."""
    wanted = signature(("x", dtype, (-1,)))

    assert read(values, wanted)["x"].tolist() == values
    many = values * 1000
    assert read(many, wanted)["x"].tolist() == many


@pytest.mark.parametrize(
    ("dtype", "value", "said"),
    [
        ("INT8", 128, "128 at [1] and wants values that fit int8"),
        ("UINT8", -1, "-1 at [1] and wants values that fit uint8"),
        ("INT64", 2**63, "wants values that fit int64"),
        ("UINT64", -1, "wants values that fit uint64"),
        ("INT32", 1.5, "1.5 at [1] and wants values that are whole numbers"),
        ("INT64", 1e17, "wants values that are whole numbers below 2**53"),
        ("INT64", float(2**53), "wants values that are whole numbers below 2**53"),
        ("FP16", 70000, "wants values that fit float16"),
        ("BOOL", 1, "has values of type int64 and the model wants BOOL"),
        ("BYTES", 1, "wants BYTES"),
        ("INT64", True, "has True at [1] and wants INT64"),
        ("UINT64", -(2**63), "wants values that fit uint64"),
        ("BOOL", "true", "has 0 at [0] and wants BOOL"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name_and_place(dtype: str, value: Any, said: str) -> None:
    """Nothing is rounded, wrapped or taken for something else."""
    for length in (1, 1000):
        assert said in refusal([0, value] * length, signature(("x", dtype, (-1,))))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1.5, 2], np.float32),
        ([1, 2], np.int64),
        ([2**63, 1], np.uint64),
        ([True], np.bool_),
        (["a"], np.object_),
        ([], np.float32),
        ([[], []], np.float32),
    ],
)
def test_a_model_that_tells_no_type_gets_the_json_s(values: Any, dtype: type) -> None:
    """Floats are FP32, integers INT64, booleans BOOL, strings BYTES; nothing is FP32."""
    array = read(values, UNTOLD)["x"]

    assert array.dtype == dtype
    assert array.tolist() == [value.encode() if isinstance(value, str) else value for value in values]


def test_mixed_types_are_refused_when_the_model_tells_none() -> None:
    """There is no guess at what was meant."""
    for values, said in (
        ([True, 2], "has 2 at [1] and wants values of one type"),
        (["a", 2], "has 2 at [1] and wants values of one type"),
        ([None], "has null at [0] and wants values of one type"),
    ):
        assert said in refusal(values, UNTOLD)


def test_bytes_come_as_text_or_base64() -> None:
    """The same convention as TensorFlow Serving's."""
    encoded = base64.b64encode(b"\xff\x00").decode()

    assert read({"instances": ["a", {"b64": encoded}]}, TEXT)["text"].tolist() == [b"a", b"\xff\x00"]
    assert read({"instances": [{"b64": encoded}]}, TEXT)["text"].tolist() == [b"\xff\x00"]
    assert read({"instances": [{"text": {"b64": encoded}}]}, TEXT)["text"].tolist() == [b"\xff\x00"]
    for wrong in ({"b64": "%%"}, {"b64": 3}, {"c": "a"}, {"b64": "é"}):
        assert "wants a string or" in refusal({"inputs": ["a", wrong]}, TEXT)


# -- large bodies


def image(**changes: Any) -> Any:
    """Return a random picture as nested lists."""
    return np.random.default_rng(7).random((1, 3, 32, 32)).astype(np.float32)


@pytest.mark.parametrize("form", ["instances", "rows", "inputs", "named", "v2", "bare", "names"])
def test_a_large_body_takes_the_quick_way_in_every_form(form: str) -> None:
    """Values survive bit by bit, and simdjson did read them."""
    x = image()
    documents = {
        "instances": {"instances": x},
        "rows": {"instances": [{"x": x[0]}]},
        "inputs": {"inputs": x},
        "named": {"inputs": {"x": x}},
        "v2": {"inputs": [{"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel()}]},
        "bare": x,
        "names": {"x": x},
    }
    body = orjson.dumps(documents[form], option=orjson.OPT_SERIALIZE_NUMPY)

    assert json_numbers.read_numbers(body) is not None
    assert np.array_equal(read(body, IMAGE)["x"], x)


@pytest.mark.parametrize(
    "row", ["[1, 2, [3, 4], []]", "[1, 2, 3]", "[[1, 2], [3, 4]]", "[]", "[1, 2, 3, [4]]", '[1, 2, 3, "[4"]']
)
def test_rows_that_only_add_up_are_not_rectangular(row: str) -> None:
    """simdjson flattens arrays; the right number of leaves is no proof, not even with the right width."""
    rows = ["[1, 2, 3, 4]"] * 1000
    body = f'{{"instances": [{", ".join([*rows, row])}]}}'.encode()

    assert json_numbers.read_numbers(body) is None
    assert "Input 'x'" in refusal(body)


numbers = st.integers(-3, 3) | st.sampled_from([0.5, -1.25, True, None, "[", 2**53 + 1, 2**63])
shapes: Any = st.recursive(st.lists(numbers, max_size=4), lambda inner: st.lists(inner, max_size=3), max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(shapes, st.integers(0, 2))
def test_the_quick_way_reads_what_the_slow_way_reads_or_nothing(values: Any, depth: int) -> None:
    """For nested arrays of any raggedness the two parsers agree, wherever simdjson answers at all."""
    body = orjson.dumps(values)
    quick = json_numbers.read_numbers(body)

    if isinstance(quick, np.ndarray):
        assert np.array_equal(quick, np.asarray(values))
        assert quick.shape == np.asarray(values).shape


def test_large_integers_keep_their_last_digit_in_large_bodies() -> None:
    """2**53 + 1 does not go through a double."""
    values = [2**53 + 1] * 1000

    assert read(values, signature(("x", "INT64", (-1,))))["x"].tolist() == values
    assert read([2**64 - 1] * 1000, signature(("x", "UINT64", (-1,))))["x"].tolist() == [2**64 - 1] * 1000


def test_ragged_rows_of_objects_are_refused_in_large_bodies() -> None:
    """The arrays of two rows are read one by one and must have one shape."""
    rows = [{"x": list(range(1000))}, {"x": list(range(1001))}]

    assert "row 1 has shape [1001] and row 0 [1000]" in refusal({"instances": rows * 10}, UNTOLD)


def test_a_large_integer_among_floats_is_refused_rather_than_rounded() -> None:
    """2**53 + 1 beside 1.0 would be 2**53 without a word; and no type holds 2**63 beside -1."""
    for values in ([2**53 + 1, 1.0], [1.0, 2**53 + 1], [2**63, -1]):
        for length in (1, 1000):
            assert "wants values that are whole numbers" in refusal(values * length, signature(("x", "INT64", (-1,))))
    rows = [{"x": [2**53 + 1] * 1000}, {"x": [0.5, *[1] * 999]}]
    said = refusal({"instances": rows}, signature(("x", "INT64", (-1, 1000))))
    assert "'x' has 9007199254740992.0 at [0][0] and wants values that are whole numbers below 2**53" in said


def test_a_body_of_nothing_but_keys_is_refused_in_good_time() -> None:
    """simdjson looks keys up one after the other; half a million would take minutes."""
    document = {f"k{number}": 1 for number in range(200_000)}

    said = refusal(document)
    assert "has inputs ['k0', 'k1', 'k10'" in said
    assert len(said) < 500


def test_many_small_objects_are_read_all_the_same() -> None:
    """By orjson, which makes them quicker."""
    document = {"instances": [{"a": [1, 2], "b": 3}] * 500}

    assert json_numbers.read_numbers(orjson.dumps(document)) is None
    assert read(document, PAIR)["a"].shape == (500, 2)


def test_large_texts_are_read_the_slow_way() -> None:
    """Strings are no numbers to simdjson."""
    assert read({"instances": ["a"] * 2000}, TEXT)["text"].shape == (2000,)


# -- answers


def write(outputs: dict[str, Any], form: str) -> Any:
    """Write outputs and read them back as a client would."""
    return orjson.loads(json.write({name: np.asarray(value) for name, value in outputs.items()}, form))


ONE = {"y": [[1, 2], [3, 4]]}
TWO = {"y": [[1, 2], [3, 4]], "z": [5.5, 6.5]}
APART = {"y": [1, 2], "z": [3]}


@pytest.mark.parametrize(
    ("outputs", "form", "answer"),
    [
        (ONE, "instances", {"predictions": [[1, 2], [3, 4]]}),
        (ONE, "inputs", {"outputs": [[1, 2], [3, 4]]}),
        (ONE, "bare", [[1, 2], [3, 4]]),
        (TWO, "instances", {"predictions": [{"y": [1, 2], "z": 5.5}, {"y": [3, 4], "z": 6.5}]}),
        (TWO, "inputs", {"outputs": TWO}),
        (TWO, "bare", TWO),
        (APART, "instances", {"outputs": APART}),
        ({"y": 3}, "instances", {"outputs": 3}),
        ({"y": 3}, "bare", 3),
        ({}, "instances", {"outputs": {}}),
        (ONE, "v2", {"outputs": [{"name": "y", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4]}]}),
        ({"y": 0.5}, "v2", {"outputs": [{"name": "y", "shape": [], "datatype": "FP64", "data": [0.5]}]}),
    ],
)
def test_an_answer_is_in_the_form_of_its_question(outputs: dict[str, Any], form: str, answer: Any) -> None:
    """Rows for rows, columns for columns, V2 for V2, nothing around the bare."""
    assert write(outputs, form) == answer


def test_an_answer_holds_every_layout_and_type_that_a_model_may_have() -> None:
    """Strided and half-precision arrays, empty ones, strings, bytes that are no text."""
    x = np.arange(6, dtype=np.float16).reshape(2, 3)
    texts = np.array([b"a", "é", b"\xff"], object)

    assert write({"y": x.T}, "bare") == [[0, 3], [1, 4], [2, 5]]
    assert write({"y": np.empty((0, 3))}, "instances") == {"predictions": []}
    assert write({"y": texts}, "bare") == ["a", "é", {"b64": "/w=="}]
    assert write({"y": np.array([b"s"]), "z": np.array(["u"])}, "instances") == {"predictions": [{"y": "s", "z": "u"}]}
    assert write({"y": texts[:1]}, "v2")["outputs"][0]["datatype"] == "BYTES"


def test_what_json_has_no_number_for_is_null() -> None:
    """NaN and both infinities."""
    assert write({"y": [np.nan, np.inf, -np.inf, 1]}, "bare") == [None, None, None, 1]


def test_a_type_that_json_does_not_have_is_refused_with_a_way_out() -> None:
    """Complex numbers are for .npz."""
    for form, value in itertools.product(("instances", "v2"), ([1j], 1j, [object()])):
        with pytest.raises(NotAcceptableError, match=r"accept application/x-npz"):
            json.write({"y": np.asarray(value)}, form)
