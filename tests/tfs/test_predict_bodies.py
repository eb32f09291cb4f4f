"""Bodies of predict: rows and columns become tensors, outputs become rows and columns, and what is wrong is told."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.codecs import tfs
from serving.errors import BadRequestError
from serving.tensors import Signature, Tensors, TensorSpec

FLOATS = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1,)),))
TEXTS = Signature((TensorSpec("t", "BYTES", (-1,)),), ())
PAIR = Signature((TensorSpec("a", "INT64", (-1,)), TensorSpec("b", "FP32", (-1, 2))), ())
OPEN = Signature((TensorSpec("x"),), ())


def read(document: Any, signature: Signature = FLOATS) -> Tensors:
    """Read a document as a client writes it."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return tfs.tensors(tfs.read_predict(body), signature)


def shapes(document: Any, signature: Signature) -> dict[str, tuple[int, ...]]:
    """Read a document; return the shape of each input."""
    return {name: array.shape for name, array in read(document, signature).items()}


@pytest.mark.parametrize("form", ["instances", "inputs"])
@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"x": rows}])
def test_one_input_needs_no_name(form: str, wrap: Any) -> None:
    """Its rows, or the whole of it; or by its name."""
    rows = [[1, 2.5], [3, 4]]
    value = [{"x": row} for row in rows] if form == "instances" and isinstance(wrap(rows), dict) else wrap(rows)
    found = read({form: value})
    assert found["x"].dtype == np.float32
    assert found["x"].tolist() == rows


def test_rows_are_objects_where_there_are_several_inputs() -> None:
    """Each input is its values of all the rows."""
    found = read({"instances": [{"a": 1, "b": [1, 2]}, {"a": 2, "b": [3, 4]}]}, PAIR)
    assert found["a"].tolist() == [1, 2]
    assert found["a"].dtype == np.int64
    assert found["b"].tolist() == [[1, 2], [3, 4]]


def test_columns_need_not_be_of_one_length() -> None:
    """Each has its own shape, none at all for one value."""
    assert shapes({"inputs": {"a": 7, "b": [[1, 2]]}}, PAIR) == {"a": (), "b": (1, 2)}


@pytest.mark.parametrize(
    ("document", "seen"),
    [
        ({"instances": ["a", {"b64": "/wA="}]}, [b"a", b"\xff\x00"]),
        ({"instances": [{"b64": "/wA="}]}, [b"\xff\x00"]),
        ({"instances": [{"b64": "/wA"}]}, [b"\xff\x00"]),  # padding may be left out, as there
        ({"instances": [{"t": {"b64": "/wA="}}]}, [b"\xff\x00"]),
        ({"inputs": [{"b64": "/wA="}, "é"]}, [b"\xff\x00", "é".encode()]),
        ({"inputs": {"t": ["x"]}}, [b"x"]),
        ({"inputs": {"b64": "/wA="}}, b"\xff\x00"),
    ],
)
def test_bytes_are_texts_or_base64(document: Any, seen: Any) -> None:
    """Every zero of them; a text is UTF-8."""
    assert read(document, TEXTS)["t"].tolist() == seen


def test_a_model_that_tells_nothing_of_its_inputs_takes_what_comes() -> None:
    """By whatever name."""
    assert shapes({"inputs": {"q": [1], "r": 2}}, OPEN) == {"q": (1,), "r": ()}
    assert shapes({"instances": [{"q": [1]}, {"q": [2]}]}, OPEN) == {"q": (2, 1)}


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
def test_what_is_not_finite_goes_in_and_out_as_a_token(token: str) -> None:
    """As Python's own parser knows them."""
    found = read(f'{{"instances": [[1, {token}]]}}'.encode())
    text = tfs.write_predict({"y": found["x"]}, "instances")
    assert text == f'{{"predictions":[[1.0,{token}]]}}'.encode()
    assert repr(json.loads(text)["predictions"][0][1]) == repr(float(token.replace("Infinity", "inf")))


@pytest.mark.parametrize(("signature", "said"), [(FLOATS, "without loss of precision"), (OPEN, "send numbers up to")])
@pytest.mark.parametrize("form", ["instances", "inputs"])
def test_a_whole_number_that_no_float_holds_is_refused(form: str, signature: Signature, said: str) -> None:
    """Python's own parser, which reads tokens, lets it through: between floats, and between whole numbers."""
    for values in (f"[1{'0' * 400}, NaN]", f"[-1, 1{'0' * 400}]"):
        with pytest.raises(BadRequestError, match=said):
            read(f'{{"{form}": [{values}], "id": NaN}}'.encode(), signature)


def test_a_key_that_is_there_twice_is_refused() -> None:
    """Beside a token too, where another parser reads."""
    for value in ("1", "NaN"):
        with pytest.raises(BadRequestError, match="twice"):
            read(f'{{"inputs": [{value}], "inputs": [2]}}'.encode())


def test_what_the_api_does_not_know_is_not_looked_at() -> None:
    """As there: clients send what they like beside it."""
    assert read({"instances": [[1, 2]], "id": 3})["x"].tolist() == [[1, 2]]
    assert read({"inputs": {"x": [[1, 2]], "z": "?"}})["x"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"instances = [1]", "JSON Parse error: Invalid value"),
        (b'{"instances": [NaN}', "JSON Parse error: Invalid value"),
        (b"[1]", "JSON Value: [1] Is not object"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"instances": [1], "inputs": [1]}, "expecting only one of 'inputs' or 'instances' keys to exist"),
        ({"instances": 3}, "Excepting 'instances' to be an list/array"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": [[1, 2]], "signature_name": 100}, "'signature_name' key must be a string value."),
        ({"instances": [[1, "a"]]}, 'JSON Value: "a" Type: String is not of expected type: float'),
        ({"instances": [[1, True]]}, "JSON Value: true Type: True is not of expected type: float"),
        ({"instances": [[1, None]]}, "JSON Value: null Type: Null is not of expected type: float"),
        ({"instances": [[1, 1e39]]}, " to float without loss of precision."),
        (
            {"instances": [[1, 2], [3]]},
            "element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size",
        ),
        ({"instances": [[[1, 2]], [[1], [2]]]}, "Expecting shape [1,2] but got: [2,1]"),
        ({"instances": [[1, [2]]]}, "Encountered list at unexpected level: 1 expected < 1"),
        ({"instances": [[[1, 2], [3]]]}, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ({"instances": [[[1], 2]]}, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ({"instances": [[1, 2], {"x": [1, 2]}]}, "Expecting value/list but got object at item 1 of input list"),
        ({"instances": [{"x": [1, 2]}, [1, 2]]}, "Expecting object but got list at item 1 of input list"),
        (
            {"instances": [{"z": 1}]},
            "element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does",
        ),
        ({"instances": [{}]}, "keys must be equal to: x"),
        ({"instances": [{"x": [1, "a"]}]}, "Failed to process element: 0 key: x of 'instances' list."),
        ({"inputs": {"z": 1}}, "Missing named input: x in 'inputs' object."),
        ({"inputs": [[1, "a"]]}, 'JSON Value: "a" Type: String is not of expected type: float'),
    ],
)
def test_what_is_wrong_is_said_in_tensorflow_servings_words(document: Any, said: str) -> None:
    """Clients know the sentences."""
    with pytest.raises(BadRequestError) as caught:
        read(document)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"instances": [1]}, "instances is a plain list, but expecting list of objects as multiple input tensors"),
        ({"inputs": [1]}, "inputs is a plain value/list, but expecting an object as multiple input tensors"),
        ({"instances": [{"a": 1}]}, "keys must be equal to: a,b"),
        ({"instances": [{"a": 1, "b": [1, 2]}, {"a": 1}]}, "Failed to process element: 1 of 'instances' list."),
        ({"inputs": {"a": 1.5, "b": []}}, "JSON Value: 1.5 Type: Number is not of expected type: int64"),
        ({"inputs": {"a": 2**70, "b": []}}, "is not of expected type: int64"),
    ],
)
def test_several_inputs_want_their_names(document: Any, said: str) -> None:
    """All of them."""
    with pytest.raises(BadRequestError) as caught:
        read(document, PAIR)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"b64": "?"}, "Unable to base64 decode"),
        ({"b64": 3}, "not formatted correctly for base64"),
        (3, "type: string"),
    ],
)
def test_bytes_that_are_none_are_told(value: Any, said: str) -> None:
    """Base64 that is not, and what is neither text nor that."""
    with pytest.raises(BadRequestError, match=said):
        read({"inputs": [value]}, TEXTS)


def test_a_large_body_that_is_wrong_is_told_in_the_same_words() -> None:
    """Its numbers come from another parser."""
    with pytest.raises(BadRequestError, match=r"JSON Value: 1.5 Type: Number is not of expected type: int64"):
        read({"inputs": [1.5] * 5000}, Signature((TensorSpec("a", "INT64", (-1,)),), ()))


def test_what_is_shown_of_a_body_is_short() -> None:
    """A message does not echo megabytes, nor fall over what is nested deep."""
    for document in ({"a": "x" * 10**6}, {"instances": "y" * 10**6}):
        with pytest.raises(BadRequestError) as caught:
            read(document)
        assert len(str(caught.value)) < 400
    for depth in (60, 100, 900, 5000):
        with pytest.raises(BadRequestError):
            read(b'{"instances": [1, ' + b"[" * depth + b"]" * depth + b"]}")


# ---- answers ---------------------------------------------------------------------------------------------------------

ONE = {"y": np.array([[0.1], [2]], np.float32)}
TWO = {"y": np.array([0.5, 1], np.float32), "label": np.array([b"a", b"b"], object)}


@pytest.mark.parametrize(
    ("outputs", "form", "written"),
    [
        (ONE, "instances", '{"predictions":[[0.1],[2.0]]}'),
        (ONE, "inputs", '{"outputs":[[0.1],[2.0]]}'),
        (TWO, "instances", '{"predictions":[{"y":0.5,"label":"a"},{"y":1.0,"label":"b"}]}'),
        (TWO, "inputs", '{"outputs":{"y":[0.5,1.0],"label":["a","b"]}}'),
        ({"y": np.float32(3)}, "inputs", '{"outputs":3.0}'),
        ({"image_bytes": np.array([b"a"], object)}, "instances", '{"predictions":[{"b64":"YQ=="}]}'),
        ({"image": np.array([b"\xff"], object)}, "instances", '{"predictions":[{"b64":"/w=="}]}'),
    ],
)
def test_one_output_loses_its_name(outputs: Any, form: str, written: str) -> None:
    """Several keep theirs, in every row or once; those that end in _bytes are base64."""
    arrays = {name: np.asarray(array) for name, array in outputs.items()}
    assert tfs.write_predict(arrays, form).decode() == written


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"y": np.float32(3)}, "Tensor name: y has no shape information"),
        ({"a": np.zeros(1), "b": np.zeros(2)}, "Tensor name: b has inconsistent batch size: 2 expecting: 1"),
        ({}, "Cannot convert empty tensor map to JSON"),
    ],
)
def test_outputs_that_are_no_rows_are_no_answer_in_rows(outputs: Any, said: str) -> None:
    """As there; columns hold them."""
    with pytest.raises(BadRequestError, match=said):
        tfs.write_predict({name: np.asarray(array) for name, array in outputs.items()}, "instances")


numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(
    st.lists(st.tuples(numbers, st.text(max_size=5)), min_size=1, max_size=6), st.sampled_from(["instances", "inputs"])
)
def test_what_is_written_is_read_as_it_was(rows: list[tuple[float, str]], form: str) -> None:
    """Numbers to the last bit, not finite ones too, beside any text, `null` among them."""
    texts = np.array([f"{text}null".encode("utf-8", "replace") for _, text in rows], object)
    outputs = {"y": np.array([number for number, _ in rows], np.float32), "t": texts}
    found = json.loads(tfs.write_predict(outputs, form))
    if form == "instances":
        got = [(row["y"], row["t"]) for row in found["predictions"]]
    else:
        got = list(zip(found["outputs"]["y"], found["outputs"]["t"], strict=True))
    for (number, text), expected, raw in zip(got, rows, texts, strict=True):
        assert np.float32(number) == np.float32(expected[0]) or (math.isnan(number) and math.isnan(expected[0]))
        assert text == raw.decode()


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3), st.just({"b64": "AAA="})
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abxt"), inner, max_size=3)),
    max_leaves=12,
)
documents = st.one_of(values, st.dictionaries(st.sampled_from(["instances", "inputs", "signature_name"]), values))


@given(documents, st.sampled_from([FLOATS, TEXTS, PAIR, OPEN]))
def test_any_document_is_read_or_refused(document: Any, signature: Signature) -> None:
    """Never anything else; what is read has the types of the signature."""
    types = {spec.name: spec.numpy_dtype for spec in signature.inputs}
    try:
        found = read(document, signature)
    except BadRequestError as error:
        assert error.message
        return
    for name, array in found.items():
        assert types.get(name) in (None, array.dtype)


@pytest.mark.parametrize("form", ["instances", "inputs"])
def test_a_large_body_is_refused_by_its_reader_alone(form: str) -> None:
    """A walk over a million values in Python would take seconds; the place of the wrong one is told all the same."""
    with pytest.raises(BadRequestError) as caught:
        read({form: [*([[1, 2]] * 60_000), [1, "a"]]})
    assert caught.value.message == "Input 'x' has 'a' at [60000][1] and wants FP32."


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Also within what looks like a request."""
    for text in (body, b'{"instances": [' + body + b"]}", b'{"inputs": NaN' + body + b"}"):
        try:
            read(text)
        except BadRequestError:
            continue
