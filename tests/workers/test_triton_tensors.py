"""Tensors of Triton's Python backend: data types, strings on the wire, DLPack, and what leaves a worker."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.workers.compat import triton_python_backend_utils as pb_utils
from serving.workers.compat.triton_python_backend_utils import _tensor

# The numbers of TRITONSERVER_DataType and the names of a configuration.
TYPES = {
    "BOOL": (1, np.bool_),
    "UINT8": (2, np.uint8),
    "UINT16": (3, np.uint16),
    "UINT32": (4, np.uint32),
    "UINT64": (5, np.uint64),
    "INT8": (6, np.int8),
    "INT16": (7, np.int16),
    "INT32": (8, np.int32),
    "INT64": (9, np.int64),
    "FP16": (10, np.float16),
    "FP32": (11, np.float32),
    "FP64": (12, np.float64),
    "STRING": (13, np.object_),
}
ZEROS = np.zeros(2, np.float32)


@pytest.mark.parametrize("name", TYPES)
def test_types_have_a_number_a_name_and_a_numpy_type(name: str) -> None:
    """Each from the other."""
    number, numpy_type = TYPES[name]
    assert np.dtype(pb_utils.triton_string_to_numpy(f"TYPE_{name}")) == np.dtype(numpy_type)
    assert pb_utils.triton_to_numpy_type(number) is numpy_type
    assert pb_utils.numpy_to_triton_type(numpy_type) == number
    assert pb_utils.Tensor("x", np.zeros(1, numpy_type)).triton_dtype() == number


def test_types_that_are_none() -> None:
    """None by number and by numpy type; a name is a KeyError; numpy's bytes are strings, C's long long is an int64."""
    assert pb_utils.triton_to_numpy_type(99) is None
    assert pb_utils.numpy_to_triton_type(np.complex64) is None
    with pytest.raises(KeyError):
        pb_utils.triton_string_to_numpy("FP32")
    assert pb_utils.numpy_to_triton_type(np.bytes_) == 13
    assert pb_utils.numpy_to_triton_type(np.longlong) == 9


def test_a_tensor_is_a_name_and_an_array() -> None:
    """The very array, where it may be written to."""
    array = np.ones((2, 3), np.float32)
    tensor = pb_utils.Tensor("x", array)
    assert (tensor.name(), tensor.shape(), tensor.is_cpu()) == ("x", [2, 3], True)
    assert tensor.as_numpy() is array


def test_a_read_only_array_is_copied_once() -> None:
    """What comes by shared memory is a view, and people write to their inputs."""
    array = np.ones(2)
    array.flags.writeable = False
    tensor = pb_utils.Tensor("x", array)
    tensor.as_numpy()[0] = 5
    assert tensor.as_numpy().tolist() == [5, 1]
    assert array.tolist() == [1, 1]


@pytest.mark.parametrize("array", [np.array(["a"]), np.zeros(1, np.complex64), np.zeros(1, "M8[s]"), np.zeros(1, "V4")])
def test_a_type_that_triton_has_not_is_refused(array: Any) -> None:
    """With the type to use instead."""
    with pytest.raises(pb_utils.TritonModelException, match=r"'x' has the numpy type .*np\.object_"):
        pb_utils.Tensor("x", array)


@pytest.mark.parametrize("value", [[1.0], 1.0, np.float32(1), None])
def test_what_is_no_array_is_refused(value: Any) -> None:
    """A TypeError, as with Triton."""
    with pytest.raises(TypeError, match="wants a numpy array"):
        pb_utils.Tensor("x", value)


@pytest.mark.torch
def test_torch_takes_a_tensor_without_a_copy() -> None:
    """By to_dlpack's capsule or by the protocol."""
    torch = pytest.importorskip("torch")
    tensor = pb_utils.Tensor("x", np.ones(2, np.float32))
    torch.from_dlpack(tensor.to_dlpack()).add_(1)
    torch.from_dlpack(tensor).add_(1)
    assert tensor.as_numpy().tolist() == [3, 3]


@pytest.mark.torch
def test_a_tensor_is_made_of_torchs_without_a_copy() -> None:
    """Of the tensor itself, or of a capsule of it."""
    torch = pytest.importorskip("torch")
    source = torch.zeros(2, 2)
    made = [
        pb_utils.Tensor.from_dlpack("x", source),
        pb_utils.Tensor.from_dlpack("x", torch.utils.dlpack.to_dlpack(source)),
    ]
    source += 7
    assert [each.as_numpy().tolist() for each in made] == [[[7, 7], [7, 7]]] * 2


@pytest.mark.torch
@pytest.mark.parametrize("options", [{"requires_grad": True}, {"dtype": "bfloat16"}])
def test_what_numpy_cannot_take_of_torch_is_told(options: dict[str, Any]) -> None:
    """A gradient, or a type that numpy has not."""
    torch = pytest.importorskip("torch")
    if "dtype" in options:
        options = {"dtype": getattr(torch, options["dtype"])}
    with pytest.raises(pb_utils.TritonModelException, match="'x' cannot be made of this Tensor"):
        pb_utils.Tensor.from_dlpack("x", torch.zeros(1, **options))


def test_numpy_takes_a_tensor_and_the_other_way() -> None:
    """DLPack needs no torch."""
    array = np.arange(3)
    assert np.shares_memory(np.from_dlpack(pb_utils.Tensor("x", array)), array)
    assert np.shares_memory(_tensor.wire_array(pb_utils.Tensor.from_dlpack("x", array)), array)


def test_strings_have_no_dlpack() -> None:
    """And say what they have."""
    with pytest.raises(pb_utils.TritonModelException, match=r"'x' holds strings.*as_numpy"):
        pb_utils.Tensor("x", np.array([b"a"], object)).to_dlpack()


def test_strings_on_the_wire_are_lengths_and_bytes() -> None:
    """32 bits, little-endian, in C order; what is not bytes is written as its str."""
    array = np.array([[b"a", "bé"], [7, b""]], dtype=object)
    wire = b"\x01\0\0\0a" + b"\x03\0\0\0b\xc3\xa9" + b"\x01\0\0\x007" + b"\0\0\0\0"
    assert pb_utils.serialize_byte_tensor(array) == wire
    assert pb_utils.deserialize_bytes_tensor(wire).tolist() == [b"a", "bé".encode(), b"7", b""]
    assert pb_utils.serialize_byte_tensor(np.array([b"xy"])) == b"\x02\0\0\0xy"


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_strings_come_back_from_the_wire(values: list[bytes]) -> None:
    """Whatever they hold, and if there are none."""
    array = np.empty(len(values), object)
    array[:] = values
    found = pb_utils.deserialize_bytes_tensor(pb_utils.serialize_byte_tensor(array))
    assert (found.tolist(), found.dtype, found.shape) == (values, object, (len(values),))


@pytest.mark.parametrize("wire", [b"\x02\0\0\0a", b"\x01\0", b"\x01\0\0\0a\x01"])
def test_strings_that_break_off_are_told(wire: bytes) -> None:
    """With the place."""
    with pytest.raises(pb_utils.TritonModelException, match="breaks off in the element at byte"):
        pb_utils.deserialize_bytes_tensor(wire)


def test_numbers_are_no_strings() -> None:
    """They are not written as such."""
    with pytest.raises(pb_utils.TritonModelException, match="float32 is no tensor of bytes"):
        pb_utils.serialize_byte_tensor(ZEROS)


@pytest.mark.parametrize("array", [np.arange(6, dtype=">i4").reshape(2, 3).T, np.zeros(()), ZEROS[::2]])
def test_an_array_leaves_contiguous_and_in_native_order(array: Any) -> None:
    """Of the same shape and values."""
    found = _tensor.wire_array(pb_utils.Tensor("y", array))
    assert found.flags.c_contiguous
    assert found.dtype.isnative
    assert (found.shape, found.tolist()) == (array.shape, array.tolist())
