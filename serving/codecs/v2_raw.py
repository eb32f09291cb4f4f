"""Raw binary requests of Triton's infer route: the whole body is the bytes of the model's one input.

What the input is called, its type and its shape are the model's; one free dimension is found out from the number of
bytes, a batch is one row. A BYTES input takes the body as its one element. Checks and texts are Triton's. `inference`
calls it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from serving.codecs.packed import Unread
from serving.codecs.v2 import Question
from serving.errors import BadRequestError
from serving.tensors import DTYPES, Array, Signature, TensorSpec


def fill(question: Question, signature: Signature, model: str, *, has_batch: bool) -> None:
    """Make the raw bytes of a question its one input; raises `BadRequestError` for a model that has no such input.

    `has_batch`: the first of the model's dimensions is that of the batch.
    """
    about = question.about
    demanded = [spec for spec in signature.inputs if not spec.is_optional]
    if len(demanded) != 1:
        raise BadRequestError(
            f"{about}Raw request must only have 1 input (found 1) to be deduced but got {len(signature.inputs)} inputs "
            f"in '{model}' model configuration"
        )
    spec, body = demanded[0], question.raw or b""
    if spec.dtype is None or spec.dims is None:
        raise BadRequestError(
            f"{about}The type or shape of the raw input '{spec.name}' is not known before model '{model}' runs: send "
            "it as JSON, or as binary data behind JSON."
        )
    shape = _shape(about, spec.name, DTYPES[spec.dtype], (1, *spec.dims[1:]) if has_batch else spec.dims, len(body))
    question.inputs = {spec.name: (spec.dtype, _array(about, model, spec, shape, body))}


def _shape(about: str, name: str, dtype: np.dtype[Any], dims: tuple[int, ...], body_bytes: int) -> list[int]:
    if dtype.kind == "O":
        shape = [1 if dim == -1 else dim for dim in dims]
        if math.prod(shape) != 1:
            raise BadRequestError(f"{about}For BYTE datatype raw input '{name}', the model must have input shape [1]")
        return shape
    if dims.count(-1) > 1:
        raise BadRequestError(
            f"{about}The shape of the raw input '{name}' can not be deduced because there are more than one "
            "variable-sized dimension"
        )
    step_bytes = dtype.itemsize * math.prod(dim for dim in dims if dim != -1)
    free = body_bytes // step_bytes if step_bytes else 0
    return [free if dim == -1 else dim for dim in dims]


def _array(about: str, model: str, spec: TensorSpec, shape: list[int], body: bytes) -> Array:
    if spec.dtype == "BYTES":
        array = np.empty(1, object)
        array[0] = body
        return array.reshape(shape)
    dtype = spec.dtype or ""
    expected_bytes = DTYPES[dtype].itemsize * math.prod(shape)
    if len(body) != expected_bytes:
        raise BadRequestError(
            f"{about}input byte size mismatch for input 'raw_input' for model '{model}'. Expected {expected_bytes}, "
            f"got {len(body)}"
        )
    return Unread(spec.name, dtype, tuple(shape), memoryview(body)).read(about, model)
