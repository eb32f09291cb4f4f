"""A request is read as protobuf reads it, and its tensors stay where they are."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

pb = pytest.importorskip("tritonclient.grpc.service_pb2")

from google.protobuf.message import DecodeError  # noqa: E402

from serving.grpc import messages  # noqa: E402
from serving.grpc.infer_request import InferRequest  # noqa: E402

LARGE = bytes(range(256)) * 256


def serialized(*raw: bytes) -> bytes:
    """A request with everything in it that the protocol has, serialized."""
    made = pb.ModelInferRequest(model_name="m", model_version="1", id="7", raw_input_contents=raw)
    made.parameters["priority"].int64_param = 3
    for number, data in enumerate(raw):
        made.inputs.add(name=f"x{number}", datatype="UINT8", shape=[len(data)])
    made.outputs.add(name="y")
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("raw", [[], [b""], [b"12"], [LARGE], [b"1", LARGE, b"", LARGE[:300]]])
def test_a_request_says_what_protobuf_reads(raw: list[bytes]) -> None:
    """Every field, large or small; the raw contents are cut out of the message where that saves a copy."""
    read, wanted = InferRequest.read(serialized(*raw)), pb.ModelInferRequest.FromString(serialized(*raw))
    assert [bytes(each) for each in read.raw_input_contents] == raw
    del wanted.raw_input_contents[:], read.message.raw_input_contents[:]
    assert read.message == wanted
    assert (read.id, read.model_name) == ("7", "m")


def test_a_large_tensor_is_seen_in_place() -> None:
    """No byte of it is copied on the way to the array."""
    data = serialized(LARGE)
    question, length = messages.read(InferRequest.read(data))
    array = question.array("x0", "m")
    assert (array.tobytes(), length) == (LARGE, len(LARGE))
    start = array.__array_interface__["data"][0] - np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    assert data[start : start + len(LARGE)] == LARGE


def test_typed_contents_are_protobufs() -> None:
    """A large request without raw contents has them where they were."""
    made = pb.ModelInferRequest(model_name="m")
    made.inputs.add(name="x", datatype="BYTES", shape=[1]).contents.bytes_contents.append(LARGE)
    read = InferRequest.read(made.SerializeToString())
    assert (read.raw_input_contents, read.message) == ([], made)
    assert messages.read(read)[0].array("x", "m").tolist() == [LARGE]


@pytest.mark.parametrize("field", [b"\x0a\x00", b"\x3a\x00"], ids=["names", "tensors"])
def test_a_pile_of_fields_is_left_to_protobuf(field: bytes) -> None:
    """A small message must not become millions of objects on the one thread that reads them."""
    data = field * (1 << 18)
    tracemalloc.start()
    try:
        InferRequest.read(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 << 20


UNKNOWN = {
    "a field of another wire type": b"\x40\x05",
    "a field that the message has not": b"\x42\x01a",
    "a field of a high number": b"\xc2\x3e\x01a",
}


@pytest.mark.parametrize("more", UNKNOWN.values(), ids=UNKNOWN)
@pytest.mark.parametrize("is_first", [True, False])
def test_unknown_fields_are_passed_over(more: bytes, is_first: bool) -> None:
    """A later version of the protocol may have them."""
    data = serialized(LARGE)
    read = InferRequest.read(more + data if is_first else data + more)
    assert (read.model_name, bytes(read.raw_input_contents[0])) == ("m", LARGE)


@pytest.mark.parametrize(
    "broken",
    [
        serialized(LARGE)[:-1],
        serialized(LARGE) + b"\x0a",
        b"\x3a" + b"\xff" * 9 + b"\x01" + LARGE,
        b"\x3a\x80\x80\x80\x80\x80\x01" + LARGE,
    ],
    ids=["cut short", "a field without its size", "a size beyond 64 bits", "a size beyond 32 bits"],
)
def test_what_is_no_message_is_refused_by_protobuf(broken: bytes) -> None:
    """gRPC answers INTERNAL for it."""
    with pytest.raises(DecodeError):
        InferRequest.read(broken)
