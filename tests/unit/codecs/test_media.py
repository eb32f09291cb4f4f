"""Content-Type and Accept."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import orjson
import pytest

from serving.codecs.media import Decoded, decode, encode
from serving.errors import BadRequestError, NotAcceptableError, UnsupportedMediaTypeError
from serving.tensors import Array, Signature, TensorSpec
from tests.unit.codecs.signatures import PAIR, ROWS, TEXT, UNTOLD, signature

X = np.array([[1, 2, 3, 4]], np.float32)
OUTPUTS = {"y": X}
DEEP = {"y": np.ones((1, 2, 2), np.float32)}
RAW = "application/octet-stream"


def npy(array: Array) -> bytes:
    """Return what numpy.save writes."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (None, b"[[1,2,3,4]]"),
        ("", b"[[1,2,3,4]]"),
        (" ", b"[[1,2,3,4]]"),
        ("; charset=utf-8", b"[[1,2,3,4]]"),
        ("application/json", b"[[1,2,3,4]]"),
        ("application/json; charset=utf-8", b"[[1,2,3,4]]"),
        ("Application/JSON;charset=UTF-8", b"[[1,2,3,4]]"),
        ('application/json ; charset="us-ascii"; v=1', b"[[1,2,3,4]]"),
        ("text/csv", b"1,2,3,4"),
        ("text/csv; header=absent", b"1,2,3,4"),
        ("application/jsonlines", b"[1,2,3,4]"),
        ("application/x-jsonlines", b"[1,2,3,4]"),
        ("application/jsonl", b"[1,2,3,4]"),
        ("application/x-ndjson", b"[1,2,3,4]"),
        ("application/x-npy", npy(X)),
        (RAW, X.tobytes()),
    ],
)
def test_every_type_reads_the_same_row(content_type: str | None, body: bytes) -> None:
    """Whatever its spelling and parameters, and JSON when there is none."""
    tensors = decode(body, content_type, ROWS).tensors

    assert tensors["x"].dtype == np.float32
    assert np.array_equal(tensors["x"], X)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-recordio-protobuf", "json", "*/*", "/"])
def test_an_unknown_type_is_told_what_is_read(content_type: str) -> None:
    """415 with the list."""
    with pytest.raises(UnsupportedMediaTypeError, match=r"is not read here: send application/json, text/csv, .*x-npz"):
        decode(b"", content_type, ROWS)


def test_another_charset_is_not_taken_for_utf_8() -> None:
    """Latin-1 would read, and read wrongly."""
    with pytest.raises(UnsupportedMediaTypeError, match="Charset 'latin-1' is not read here"):
        decode("é".encode("latin-1"), "text/csv; charset=latin-1", TEXT)


def test_what_is_not_json_is_answered_in_rows() -> None:
    """The form of a request that has none is `instances`."""
    assert decode(b"1,2,3,4", "text/csv", ROWS).form == "instances"
    assert Decoded({}).form == "instances"


# -- JSON that calls itself octets


@pytest.mark.parametrize(
    ("body", "form"), [(b'{"inputs": [[1,2,3,4]]}', "inputs"), (b" \n[[1,2,3, 4]]", "bare"), (b"[1,2,3,4]", "bare")]
)
def test_octets_that_do_not_fit_and_are_json_are_json(body: bytes, form: str) -> None:
    """AWS clients send JSON as application/octet-stream."""
    decoded = decode(body, RAW, ROWS)

    assert decoded.form == form
    assert decoded.tensors["x"].tolist() == [[1, 2, 3, 4]]


def test_octets_that_fit_are_octets_even_when_they_look_like_json() -> None:
    """Sixteen bytes are four floats, whatever they spell."""
    body = b"[[1.0,2,3,4   ]]"

    assert decode(body, RAW, ROWS).tensors["x"].tobytes() == body


def test_octets_for_a_model_that_raw_bytes_cannot_feed_may_be_json() -> None:
    """Several inputs, or a shape that is not known."""
    assert decode(b'{"a": [[1, 2]], "b": [3]}', RAW, PAIR).tensors["b"].tolist() == [3]
    assert decode(b"[1.5]", RAW, UNTOLD).tensors["x"].tolist() == [1.5]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{1", "The body has 2 bytes and input 'x'"),
        (b"abc", "The body has 3 bytes and input 'x'"),
        (b'{"instances": [[1, "2", 3, 4]]}', "'x' has '2' at [0][1]"),
        (b'{"y": 1}', "has inputs ['y']"),
    ],
)
def test_the_reason_for_refusing_octets_is_of_what_they_are(body: bytes, said: str) -> None:
    """Bytes that do not parse are told the count; JSON that does not fit is told its fault."""
    with pytest.raises(BadRequestError) as fault:
        decode(body, RAW, ROWS)

    assert said in fault.value.message


def test_shapes_and_names_are_checked_against_the_signature_for_every_type() -> None:
    """The last word is the signature's."""
    for body, content_type in ((b"[[1,2,3]]", None), (b"1,2,3", "text/csv"), (npy(X[:, :3]), "application/x-npy")):
        with pytest.raises(BadRequestError, match=r"has shape \[1, 3\] and the model wants \[-1, 4\]"):
            decode(body, content_type, ROWS)
    assert list(decode(b'{"b": [1], "a": [[1, 2]]}', None, PAIR).tensors) == ["a", "b"]
    assert decode(b"5", None, signature(("x", "INT8", ()))).tensors["x"].shape == ()


# -- Accept


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, "application/json"),
        ("", "application/json"),
        (" , ", "application/json"),
        ("*/*", "application/json"),
        ("*", "application/json"),
        ("application/*", "application/json"),
        ("text/*", "text/csv"),
        ("text/csv", "text/csv"),
        ("Text/CSV; charset=utf-8", "text/csv"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("application/x-npy, application/json", "application/x-npy"),
        ("application/json, text/plain, */*", "application/json"),
        ("text/csv;q=0.5, application/x-npy;q=0.9, */*;q=0.1", "application/x-npy"),
        ("text/csv; q=.2, application/x-npz;q=1.0", "application/x-npz"),
        ("text/html, application/xhtml+xml, */*;q=0.8", "application/json"),
        ("application/json;q=0, */*", "text/csv"),
        ("application/json;q=0.1, */*", "text/csv"),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "application/json"),
        ("text/csv;q=high", "text/csv"),
        ("text/csv;;q=0.5;,,", "text/csv"),
    ],
)
def test_the_best_type_that_the_client_takes_is_written(accept: str | None, media: str) -> None:
    """Highest q, then the client's order, then ours; the most specific range decides; typing errors are forgiven."""
    body, written = encode(OUTPUTS, accept)

    assert written == media
    assert body


@pytest.mark.parametrize("accept", ["image/png", "application/json;q=0", "*/*;q=0", "text/html, text/plain;q=0.5", "/"])
def test_a_type_that_nobody_writes_is_told_what_is_written(accept: str) -> None:
    """406 with the list."""
    with pytest.raises(NotAcceptableError, match=r"Nothing here writes Accept .*: accept application/json, text/csv"):
        encode(OUTPUTS, accept)


def test_a_type_that_cannot_hold_the_outputs_gives_way_to_the_next() -> None:
    """CSV has no third dimension; the client's second choice has."""
    assert encode(DEEP, "text/csv, application/x-npy")[1] == "application/x-npy"
    assert encode(DEEP, "text/csv;q=0.1, application/json;q=0.01")[1] == "application/json"
    with pytest.raises(NotAcceptableError, match="CSV has rows and columns"):
        encode(DEEP, "text/csv, image/png")


@pytest.mark.parametrize(
    ("accept", "body"),
    [
        ("application/json", b'{"predictions":[[1.0,2.0,3.0,4.0]]}'),
        ("text/csv", b"1.0,2.0,3.0,4.0\n"),
        ("application/jsonlines", b"[1.0,2.0,3.0,4.0]\n"),
        ("application/x-npy", npy(X)),
        (RAW, X.tobytes()),
    ],
)
def test_every_type_writes_the_same_row(accept: str, body: bytes) -> None:
    """Exactly these bytes, from native arrays and foreign ones."""
    assert encode(OUTPUTS, accept) == (body, accept)
    assert encode({"y": X.astype(">f4")}, accept) == (body, accept)


def test_the_form_of_the_request_reaches_the_json_of_the_answer() -> None:
    """And only JSON has forms."""
    assert encode(OUTPUTS, None, "bare")[0] == b"[[1.0,2.0,3.0,4.0]]"
    assert encode(OUTPUTS, "application/json;q=1", "inputs")[0] == b'{"outputs":[[1.0,2.0,3.0,4.0]]}'
    assert encode(OUTPUTS, "text/csv", "v2")[0] == b"1.0,2.0,3.0,4.0\n"


@pytest.mark.parametrize("kind", ["datetime64[s]", "timedelta64[s]", "complex64"])
@pytest.mark.parametrize("accept", ["application/json", "text/csv", "application/x-npy", "*/*"])
def test_outputs_of_no_wire_type_are_a_406(kind: str, accept: str) -> None:
    """Dates and complex numbers have no data type here; a NaT once made half a JSON document."""
    with pytest.raises(NotAcceptableError, match=r"Output 'y' has values of type"):
        encode({"y": np.array([1, "NaT"] if kind != "complex64" else [1], kind)}, accept)


# -- inputs that may be left out

OPTIONAL = Signature((TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", (-1,), is_optional=True)), ())


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": [[1, 2]]}',
        b'{"instances": [{"a": [1, 2]}]}',
        b'{"instances": [[1, 2]]}',
        b'{"inputs": {"a": [[1, 2]]}}',
        b'{"inputs": [{"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}',
    ],
)
def test_an_optional_input_may_be_left_out_of_json(body: bytes) -> None:
    """In every form; where there are no names, the one that is demanded is meant."""
    assert {name: array.tolist() for name, array in decode(body, None, OPTIONAL).tensors.items()} == {"a": [[1, 2]]}


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_an_optional_input_may_be_left_out_of_an_archive(names: list[str]) -> None:
    """Of numpy's; it is read where it is there."""
    stream = io.BytesIO()
    arrays: dict[str, Any] = {"a": np.ones((1, 2), np.float32), "b": np.ones(1, np.int64)}
    chosen: dict[str, Any] = {name: arrays[name] for name in names}
    np.savez(stream, **chosen)
    assert list(decode(stream.getvalue(), "application/x-npz", OPTIONAL).tensors) == names


@pytest.mark.parametrize("names", [[], ["b"], ["a", "c"], ["a", "b", "c"]])
def test_what_is_not_optional_has_to_be_there(names: list[str]) -> None:
    """And what is unknown must not."""
    stream = io.BytesIO()
    arrays: dict[str, Any] = {name: np.ones((1, 2)) for name in names}
    np.savez(stream, **arrays)
    with pytest.raises(BadRequestError):
        decode(stream.getvalue(), "application/x-npz", OPTIONAL)
    with pytest.raises(BadRequestError):
        decode(orjson.dumps({"inputs": {name: [[1, 2]] for name in names}}), None, OPTIONAL)


def test_v2_json_under_octet_stream_is_json_even_where_its_length_would_fit() -> None:
    """Chance must not make numbers of text; what only begins like it stays raw."""
    anything = Signature((TensorSpec("x", "UINT8", (-1,)),), ())
    text = b'{"inputs": [{"name": "x", "datatype": "UINT8", "shape": [2], "data": [1, 2]}]}'

    assert decode(text, "application/octet-stream", anything).tensors["x"].tolist() == [1, 2]
    assert decode(b'{"id": \x00', "application/octet-stream", anything).tensors["x"].size == 8
