"""Tensors as values: data types, specs, signatures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from serving.errors import BadRequestError
from serving.tensors import DTYPES, Signature, TensorSpec

PAIR = Signature((TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", (-1,))), ())


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("BOOL", "bool"),
        ("UINT8", "uint8"),
        ("INT64", "int64"),
        ("FP16", "float16"),
        ("FP64", "float64"),
        ("BYTES", "O"),
    ],
)
def test_data_types_have_triton_s_names_and_numpy_s_types(name: str, dtype: str) -> None:
    """The widths are in the names."""
    assert DTYPES[name] == TensorSpec("x", name).numpy_dtype == np.dtype(dtype)


def test_every_data_type_is_native_and_there_once() -> None:
    """So that a type of numpy leads back to one name."""
    assert all(dtype.isnative for dtype in DTYPES.values())
    assert len(set(DTYPES.values())) == len(DTYPES) == 13


def test_a_spec_may_leave_its_type_and_dims_open() -> None:
    """TorchScript tells neither: nothing is checked and nothing is changed."""
    spec = TensorSpec("x")
    array = np.ones((2, 3))

    assert spec.numpy_dtype is None
    assert spec.check(array) is array


def test_specs_and_signatures_are_values() -> None:
    """Equal by content, usable as keys, and nobody changes them."""
    assert hash(TensorSpec("x", "FP32", (1,))) == hash(TensorSpec("x", "FP32", (1,)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAIR.inputs[0].name = "c"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("dims", "shape", "checked"),
    [
        ((-1, 2), (3, 2), (3, 2)),
        ((-1, 2), (2,), (1, 2)),
        ((1, 2), (2,), (1, 2)),
        ((-1,), (), (1,)),
        ((), (), ()),
        ((-1, -1), (0, 5), (0, 5)),
        ((4,), (4,), (4,)),
    ],
)
def test_a_shape_that_fits_passes_and_one_sample_gets_its_batch(
    dims: tuple[int, ...], shape: tuple[int, ...], checked: tuple[int, ...]
) -> None:
    """A free or single first dimension may be left out; -1 takes any size, 0 too."""
    array = np.ones(shape)
    result = TensorSpec("x", "FP64", dims).check(array)

    assert result.shape == checked
    assert np.shares_memory(result, array) or not array.size


@pytest.mark.parametrize(
    ("dims", "shape"),
    [((-1, 2), (3, 3)), ((4,), (3,)), ((4, 2), (2,)), ((), (1,)), ((-1, 2), (1, 1, 2)), ((-1, 2), ())],
)
def test_a_shape_that_does_not_fit_is_told_both_shapes(dims: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """The input, the shape found and the shape wanted."""
    with pytest.raises(BadRequestError) as fault:
        TensorSpec("x", "FP64", dims).check(np.ones(shape))

    assert fault.value.message.startswith("Input 'x' has shape [")
    assert f"the model wants {list(dims)} (-1 is free)" in fault.value.message


def test_a_signature_puts_tensors_in_the_model_s_order_and_shape() -> None:
    """Backends take them by position."""
    checked = PAIR.check({"b": np.array(1), "a": np.array([1, 2])})

    assert [(name, array.shape) for name, array in checked.items()] == [("a", (1, 2)), ("b", (1,))]


@pytest.mark.parametrize("names", [[], ["a"], ["a", "c"], ["a", "b", "c"]])
def test_missing_and_unknown_inputs_are_named(names: list[str]) -> None:
    """What came and what is wanted."""
    with pytest.raises(BadRequestError) as fault:
        PAIR.check(dict.fromkeys(names, np.ones((1, 2))))

    assert f"has inputs {names} and the model wants ['a', 'b']" in fault.value.message


@pytest.mark.parametrize(
    ("dims", "is_batched"), [((-1, 2), True), ((-1,), True), ((1, 2), False), ((), False), (None, False)]
)
def test_a_model_batches_when_the_first_dimension_of_every_input_is_free(
    dims: tuple[int, ...] | None, is_batched: bool
) -> None:
    """One input that does not spoils it, and so does one that does not tell."""
    assert Signature((TensorSpec("a", "FP32", dims),), ()).is_batched is is_batched
    assert Signature((*PAIR.inputs, TensorSpec("c", "FP32", dims)), ()).is_batched is is_batched


def test_an_optional_input_may_be_missing() -> None:
    """What came is checked as ever; who sends too little learns what may be left out."""
    signature = Signature((TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", is_optional=True)), ())
    row = np.ones((1, 2), np.float32)
    assert list(signature.check({"a": row})) == ["a"]
    assert list(signature.check({"b": row, "a": row})) == ["a", "b"]
    assert signature.accepts(["a"])
    with pytest.raises(BadRequestError, match=r"\['b'\] may be left out"):
        signature.check({"b": row})
    with pytest.raises(BadRequestError):
        signature.check({"a": row, "c": row})
