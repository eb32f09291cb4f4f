"""Every member of DJL's Input and PairList, by the peer's measured behaviour."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
import pytest

from serving.workers.compat.djl_python import Input, PairList
from serving.workers.compat.djl_python.encode_decode import decode
from serving.workers.compat.djl_python.np_util import from_nd_list, to_nd_list

ROW = np.array([[1.5, 2.5]], np.float32)
ONE = np.array([1.5])  # one element: lists of it compare


def made(*items: tuple[Any, bytes], **properties: Any) -> Input:
    inputs = Input()
    for key, value in items:
        inputs.content.add(key, bytearray(value))
    inputs.properties.update({name.replace("_", "-"): value for name, value in properties.items()})
    return inputs


def npy(array: Any) -> bytes:
    memory = io.BytesIO()
    np.save(memory, array)
    return memory.getvalue()


def npz(*arrays: Any) -> bytes:
    memory = io.BytesIO()
    np.savez(memory, *arrays)
    return memory.getvalue()


def batch() -> Input:
    inputs = made(("batch_000.data", b"a"), ("batch_001.data", b"b"), ("batch_001.more", b"c"))
    inputs.properties = {"batch_size": "2", "model_dir": "/m", "batch_000.Accept": "x", "batch_001.Accept": "y"}
    return inputs


def test_the_fields_are_plain_values() -> None:
    """Handlers reach into function_name, properties and content directly."""
    inputs = Input()
    assert (inputs.function_name, inputs.properties, inputs.content.size()) == (None, {}, 0)


def test_is_empty_means_no_content_at_all() -> None:
    """The warm-up has no item; an empty body still is one."""
    assert Input().is_empty()
    assert not made(("data", b"")).is_empty()


def test_the_function_name_is_the_handler_property() -> None:
    """As option.handler set it."""
    assert made(handler="answer").get_function_name() == "answer"


def test_get_properties_is_the_dict_itself() -> None:
    """Handlers change it."""
    inputs = Input()
    inputs.get_properties()["a"] = "b"
    assert inputs.properties == {"a": "b"}


def test_get_property_ignores_case() -> None:
    """The dict itself does not."""
    inputs = made(Content_Type="text/csv")
    assert inputs.get_property("content-type") == inputs.get_property("CONTENT-TYPE") == "text/csv"
    assert inputs.get_property("accept") is None


def test_get_content_and_contains_key() -> None:
    """Keys are exact in case."""
    inputs = made(("data", b"x"))
    assert inputs.get_content() is inputs.content
    assert (inputs.contains_key("data"), inputs.contains_key("Data")) == (True, False)


@pytest.mark.parametrize(
    ("items", "key", "wanted"),
    [
        ([], None, None),
        ([("a", b"1"), ("data", b"2")], None, bytearray(b"2")),
        ([("a", b"1"), ("b", b"2")], None, bytearray(b"1")),
        ([("a", b"1"), ("b", b"2")], "b", bytearray(b"2")),
        ([("a", b"")], "a", bytearray()),
    ],
)
def test_get_as_bytes(items: list[tuple[str, bytes]], key: str | None, wanted: bytearray | None) -> None:
    """The key's item, else `data`, else the first, as a bytearray; None of an empty Input."""
    found = made(*items).get_as_bytes(key)
    assert (found, type(found)) == (wanted, type(wanted))


def test_a_missing_key_is_named() -> None:
    """KeyError, in the peer's words."""
    with pytest.raises(KeyError, match="requested data for key:k is not found!"):
        made(("data", b"x")).get_as_bytes("k")


def test_get_as_string_is_utf8() -> None:
    """An empty Input has no text: AttributeError, as there."""
    assert made(("data", "é".encode())).get_as_string() == "é"
    with pytest.raises(AttributeError):
        Input().get_as_string()


def test_get_as_json() -> None:
    """Real JSON alone; an empty body is an error of JSON's."""
    assert made(("data", b'{"a": [1, null]}')).get_as_json() == {"a": [1, None]}
    for text in (b"", b"{'a': True}"):
        with pytest.raises(json.JSONDecodeError):
            made(("data", text)).get_as_json()


def test_get_as_image() -> None:
    """A PIL image."""
    image = pytest.importorskip("PIL.Image")
    memory = io.BytesIO()
    image.new("RGB", (3, 2)).save(memory, "PNG")
    assert made(("data", memory.getvalue())).get_as_image().size == (3, 2)


@pytest.mark.parametrize("encoded", [bytes(to_nd_list(ROW)), npz(ROW), npy(ROW)])
def test_get_as_numpy_is_a_list(encoded: bytes) -> None:
    """NDList, or npz and npy by their magic."""
    (found,) = made(("data", encoded)).get_as_numpy()
    assert found.dtype == np.float32
    assert found.tolist() == ROW.tolist()


def test_get_as_npz_keeps_the_order_of_the_file() -> None:
    """A list, whatever the names."""
    first, second = made(("data", npz(ROW, np.arange(3)))).get_as_npz()
    assert (first.tolist(), second.tolist()) == (ROW.tolist(), [0, 1, 2])


def test_get_as_csv() -> None:
    """Dicts by the names of the first line."""
    assert made(("data", b"a,b\n1,2\n3,4\n")).get_as_csv() == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.parametrize(
    ("content_type", "data", "wanted"),
    [
        ("application/json; charset=utf-8", b"[1]", [1]),
        ("text/plain", b"t", "t"),
        ("tensor/ndlist", bytes(to_nd_list(ONE)), [ONE]),
        ("tensor/npz", npz(ONE), [ONE]),
        ("application/octet-stream", b"o", bytearray(b"o")),
        (None, b"n", bytearray(b"n")),
    ],
)
def test_get_data_goes_by_the_content_type(content_type: str | None, data: bytes, wanted: Any) -> None:
    """JSON, text, arrays, else bytes."""
    properties = {} if content_type is None else {"content_type": content_type}
    assert made(("data", data), **properties).get_data() == wanted


@pytest.mark.parametrize(
    ("reader", "data", "wanted"),
    [
        ("get_as_bytes", b"k", bytearray(b"k")),
        ("get_as_string", b"k", "k"),
        ("get_as_json", b'{"k": 1}', {"k": 1}),
        ("get_as_csv", b"a\nk\n", [{"a": "k"}]),
        ("get_as_numpy", bytes(to_nd_list(ONE)), [ONE]),
        ("get_as_npz", npz(ONE), [ONE]),
        ("get_data", b"k", bytearray(b"k")),
    ],
)
def test_every_reader_takes_a_key(reader: str, data: bytes, wanted: Any) -> None:
    """Then it reads that item, and a missing one is a KeyError that names it."""
    inputs = made(("data", b"x"), ("k", data))
    assert getattr(inputs, reader)("k") == wanted
    with pytest.raises(KeyError, match="requested data for key:gone is not found!"):
        getattr(inputs, reader)("gone")


@pytest.mark.parametrize(
    ("reader", "error"),
    [("get_as_string", AttributeError), ("get_as_csv", AttributeError), ("get_as_json", TypeError)],
)
def test_an_empty_input_has_nothing_to_read(reader: str, error: type[Exception]) -> None:
    """The warm-up call: handlers that forget `is_empty` fail there, as at DJL's."""
    with pytest.raises(error):
        getattr(Input(), reader)()


def test_a_batch_has_three_digits() -> None:
    """Up to 999 requests, each found by its own."""
    inputs = made(*((f"batch_{number:03d}.data", b"%d" % number) for number in range(999)))
    inputs.properties["batch_size"] = "999"
    parts = inputs.get_batches()
    assert [part.get_as_string() for part in parts] == [str(number) for number in range(999)]


def test_get_data_of_an_image_and_of_nothing() -> None:
    """An image is PIL's; an empty Input is None."""
    image = pytest.importorskip("PIL.Image")
    memory = io.BytesIO()
    image.new("L", (4, 5)).save(memory, "PNG")
    assert made(("data", memory.getvalue()), Content_Type="image/png").get_data().size == (4, 5)
    assert Input().get_data() is None


def test_a_single_request_is_no_batch() -> None:
    """Its one part is itself."""
    inputs = made(("data", b"x"))
    assert (inputs.is_batch(), inputs.get_batch_size(), inputs.get_batches()) == (False, 1, [inputs])


def test_a_batch_is_split_by_the_prefix_of_its_keys() -> None:
    """Each part has its own content and properties; shared ones stay, and no part is a batch."""
    inputs = batch()
    first, second = inputs.get_batches()
    assert (inputs.is_batch(), inputs.get_batch_size()) == (True, 2)
    assert (first.content.keys, second.content.keys) == (["data"], ["data", "more"])
    assert (first.get_as_string(), second.get_as_string("more")) == ("a", "c")
    assert first.properties == {"model_dir": "/m", "Accept": "x"}
    assert not second.is_batch()


def test_only_questions_about_batches_are_noted() -> None:
    """That is how a handler that knows no batches is told."""
    inputs = batch()
    inputs.get_as_bytes()
    inputs.get_content()
    assert not inputs.is_batch_aware
    inputs.get_batches()
    assert inputs.is_batch_aware


def test_an_input_prints_properties_and_data() -> None:
    """One line for the properties and one an item."""
    assert str(made(("k", b"v"), a="b")) == "properties: {'a': 'b'}\nk: bytearray(b'v')"


def test_pair_list_adds_in_order() -> None:
    """At the end, at an index, as a pair; None values are ignored, empty ones are not."""
    pairs = PairList()
    pairs.add("b", 2)
    pairs.add("a", 1, index=0)
    pairs.add(pair=("c", b""))
    pairs.add("d", None)
    assert (pairs.keys, pairs.values) == (["a", "b", "c"], [1, 2, b""])
    assert (pairs.get_keys(), pairs.get_values()) == (pairs.keys, pairs.values)
    assert (pairs.key_at(1), pairs.value_at(1), pairs.size(), pairs.is_empty()) == ("b", 2, 3, False)


def test_pair_list_finds_the_first_of_a_key() -> None:
    """And None where there is none."""
    pairs, other = PairList(), PairList()
    pairs.add("a", 1)
    other.add("a", 2)
    pairs.add_all(other)
    pairs.add_all(None)
    assert (pairs.get("a"), pairs.get("b"), pairs.values) == (1, None, [1, 2])


def test_an_ndlist_has_exactly_these_bytes() -> None:
    """Count, magic, version, no name, `default`, type, shape with layout, order, length, data."""
    wanted = struct.pack(">ih4siB", 1, 4, b"NDAR", 3, 0) + b"\0\7default" + b"\0\7FLOAT32"
    wanted += struct.pack(">iqqi", 2, 1, 2, 2) + b"\0?\0?" + b"<" + struct.pack(">i", 8) + ROW.tobytes()
    assert bytes(to_nd_list(ROW)) == wanted


def test_ndlists_carry_every_shape_and_order() -> None:
    """Scalars, empty arrays, booleans, big-endian ones and several at once come back as they were."""
    arrays: list[Any] = [np.array(2.0), np.zeros((0, 3), np.int8), np.array([True]), np.array([1], ">i4")]
    found = from_nd_list(to_nd_list(arrays))
    assert [(each.shape, each.tolist()) for each in found] == [(each.shape, each.tolist()) for each in arrays]


def test_a_named_ndlist_of_java_is_read() -> None:
    """Java names arrays, writes big-endian and says BOOLEAN."""
    head = struct.pack(">ih4siB", 1, 4, b"NDAR", 3, 1) + b"\0\1x" + b"\0\7default" + b"\0\7BOOLEAN"
    encoded = head + struct.pack(">iqiH", 1, 2, 1, ord("?")) + b">" + struct.pack(">i", 2) + b"\1\0"
    assert from_nd_list(encoded)[0].tolist() == [True, False]


@pytest.mark.parametrize(
    "encoded", [b"", b"\0\0\0\1\0\4NOPE\0\0\0\3", bytes(to_nd_list(ROW))[:-1], b"\0\0\0\1\xff\xff"]
)
def test_broken_ndlists_are_value_errors(encoded: bytes) -> None:
    """Cut short, or none at all: never an array of the wrong bytes."""
    with pytest.raises(ValueError, match="NDList"):
        from_nd_list(encoded)


def test_a_tuple_is_no_ndlist() -> None:
    """AttributeError, as there."""
    with pytest.raises(AttributeError):
        to_nd_list((ROW, ROW))


@pytest.mark.parametrize(
    ("content_type", "data", "wanted"),
    [
        (None, b"", {"inputs": ""}),
        (None, b'{"a": 1}', {"a": 1}),
        ("application/json", b"[1]", [1]),
        ("text/csv", b"inputs\nx\ny\n", {"inputs": ["x", "y"]}),
        ("text/csv", b"question,context\nq,c\n", {"inputs": [{"question": "q", "context": "c"}]}),
        ("text/plain", b"t", {"inputs": ["t"]}),
        ("audio/wav", b"w", {"inputs": b"w"}),
        ("application/octet-stream", b"o", {"inputs": b"o"}),
        ("application/x-npy", bytes(to_nd_list(ONE)), {"inputs": [ONE]}),
        ("tensor/npz", npz(ONE), {"inputs": [ONE]}),
        ("application/x-www-form-urlencoded", b"f", {"inputs": "f"}),
    ],
)
def test_decode_goes_by_the_content_type(content_type: str | None, data: bytes, wanted: Any) -> None:
    """JSON as it is, all else under `inputs`."""
    assert decode(made(("data", data)), content_type) == wanted


def test_decode_reads_bare_numbers_when_asked() -> None:
    """And refuses CSV of words without a header."""
    numbers = decode(made(("data", b"1,2\n3,4\n")), "text/csv", require_csv_headers=False)
    assert numbers.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="wants a header"):
        decode(made(("data", b"1,2\n")), "text/csv")
    with pytest.raises(ValueError, match="no number"):
        decode(made(("data", b"1,x\n")), "text/csv", require_csv_headers=False)
