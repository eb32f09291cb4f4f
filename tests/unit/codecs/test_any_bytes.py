"""No bytes, header or outputs whatsoever are our fault: an answer, or an error that a caller may see."""

from __future__ import annotations

import io
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.codecs.media import Decoded, decode, encode
from serving.errors import ServingError
from serving.tensors import Array, Signature
from tests.unit.codecs.signatures import EVERY, IMAGE, ROWS, UNTOLD

TYPES = (
    "application/json",
    "text/csv",
    "application/jsonlines",
    "application/x-npy",
    "application/x-npz",
    "application/octet-stream",
)
FORMS = ("instances", "inputs", "v2", "bare")
KINDS = ("float16", "float32", ">f8", "int8", ">i4", "uint64", "bool", "S3", "U3", "complex64", "datetime64[s]")

leaves = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=5)
keys = st.sampled_from(["instances", "inputs", "name", "shape", "datatype", "data", "x", "a", "b", "text", "b64", "id"])
documents = st.recursive(
    leaves | st.sampled_from(["FP32", "BYTES", [2, 2], [-1], [4], "x"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=30,
)
arrays: st.SearchStrategy[Array] = st.sampled_from(KINDS).flatmap(
    lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
)


def reads(body: bytes, content_type: str | None, signature: Signature) -> Decoded | None:
    """Decode, or say that a caller was told why not; anything else fails the test."""
    try:
        return decode(body, content_type, signature)
    except ServingError as fault:
        assert 400 <= fault.status < 500, fault
        assert fault.message
        return None


@settings(max_examples=600, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(TYPES), st.sampled_from(EVERY))
@example(b"[" * 100_000, "application/json", ROWS)
@example(b'{"instances":' + b"[" * 70 + b"1" + b"]" * 70 + b"}", "application/json", UNTOLD)
@example(b"[" * 70 + b"1" + b"]" * 70, "application/octet-stream", ROWS)
@example(b'{"a":' * 2000 + b"1" + b"}" * 2000, "application/json", IMAGE)
@example(b"\x93NUMPY\x01\x00\xff\xff", "application/x-npy", ROWS)
def test_any_bytes_of_any_type_are_tensors_or_a_4xx(body: bytes, content_type: str, signature: Signature) -> None:
    """Random bytes never raise anything but the errors that callers may see."""
    reads(body, content_type, signature)


@settings(max_examples=800, deadline=None)
@given(documents, st.sampled_from(EVERY), st.integers(0, 2))
def test_any_json_document_is_tensors_or_a_4xx(document: Any, signature: Signature, kind: int) -> None:
    """Documents made of our own words, as JSON, as lines and as octets."""
    body = orjson.dumps(document, default=str, option=orjson.OPT_PASSTHROUGH_SUBCLASS) if _fits(document) else b"{"
    reads(body, ("application/json", "application/jsonlines", "application/octet-stream")[kind], signature)


def _fits(document: Any) -> bool:
    try:
        orjson.dumps(document)
    except TypeError:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(documents, st.sampled_from(EVERY))
def test_a_large_document_is_read_as_a_small_one_is(document: Any, signature: Signature) -> None:
    """Blanks make simdjson read what orjson read: tensors, types and refusals are the same."""
    body = orjson.dumps(document) if _fits(document) else b"[[1, 2], [3]]"
    small, large = (reads(text, None, signature) for text in (body, body + b" " * 2048))

    assert (small is None) == (large is None)
    if small and large:
        assert small.form == large.form
        for name, array in small.tensors.items():
            assert array.dtype == large.tensors[name].dtype
            assert np.array_equal(array, large.tensors[name])


@settings(max_examples=400, deadline=None)
@given(st.text("0123456789.,-+eE\r\n \"'naif;x_", max_size=60), st.sampled_from(EVERY))
def test_any_table_is_tensors_or_a_4xx(text: str, signature: Signature) -> None:
    """Text that is nearly CSV."""
    reads(text.encode(), "text/csv", signature)


@settings(max_examples=400, deadline=None)
@given(arrays, st.sampled_from(EVERY), st.booleans(), st.integers(0, 400), st.binary(max_size=3))
def test_any_array_file_even_a_damaged_one_is_tensors_or_a_4xx(
    array: Array, signature: Signature, is_archive: bool, position: int, damage: bytes
) -> None:
    """Bytes written over a .npy or .npz at any place."""
    file = io.BytesIO()
    (np.savez_compressed if is_archive else np.save)(file, array)
    body = bytearray(file.getvalue())
    body[position : position + len(damage)] = damage
    reads(bytes(body), "application/x-npz" if is_archive else "application/x-npy", signature)


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=80), st.text("*/;=q.,0159 aplictonjsx", max_size=60))
def test_any_header_is_served_or_a_4xx(content_type: str, accept: str) -> None:
    """Content-Type and Accept are text from anybody."""
    reads(b"[[1, 2, 3, 4]]", content_type, ROWS)
    try:
        encode({"y": np.ones(1)}, accept)
    except ServingError as fault:
        assert fault.status == 406


@settings(max_examples=400, deadline=None)
@given(st.lists(arrays, max_size=3), st.sampled_from(TYPES), st.sampled_from(FORMS))
def test_any_outputs_are_written_or_a_406(outputs: list[Array], accept: str, form: str) -> None:
    """Whatever a model computes, in any byte order and shape, is written or refused with the reason."""
    try:
        body, media = encode({f"y{number}": array for number, array in enumerate(outputs)}, accept, form)
    except ServingError as fault:
        assert fault.status == 406
    else:
        assert media == accept
        assert isinstance(body, bytes)
