"""Bodies of Triton's generate extension: a flat JSON object whose keys are inputs, and an answer as flat.

Scalars and lists; what is no input is a parameter, `parameters` is merged into them. The model takes the shape that
fits its signature. Texts of errors are Triton's. `http/v2` calls it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from serving.codecs.json import datatype_of
from serving.codecs.v2 import ParseError, Question
from serving.codecs.v2_requests import checked, from_json, load, text_of
from serving.errors import BadRequestError
from serving.tensors import Array, Signature, Tensors, TensorSpec

NOT_ONE_ANSWER = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various number "
    "of responses"
)


def read(body: bytes, signature: Signature) -> Question:
    """Read a request; raises `ParseError` for what is no such object, `BadRequestError` for what fits no shape."""
    document = load(body)
    if not isinstance(document, dict):
        raise ParseError("attempt to get members for non-object")
    question = Question(id=text_of(document, "id") if "id" in document else "")
    specs = {each.name: each for each in signature.inputs}
    for key, value in document.items():
        if key in specs:
            array = _array(key, value, specs[key])
            question.inputs[key] = (specs[key].dtype or datatype_of(array), array)
        elif key == "parameters":
            question.parameters |= _merged(value)
        elif key != "id":
            question.parameters |= checked({key: value})
    return question


def _merged(parameters: Any) -> dict[str, Any]:
    if not isinstance(parameters, dict):
        raise ParseError("Expected JSON object for keyword: 'parameters': attempt to access JSON non-object as object")
    try:
        return checked(parameters)
    except ParseError:
        raise
    except BadRequestError as error:
        raise BadRequestError(f"Converting keyword: 'parameters': {error.message}") from None


def flat(head: dict[str, Any], outputs: Tensors) -> dict[str, Any]:
    """Return an answer as one object: outputs by name, a single value instead of a list of one."""
    found: dict[str, Any] = {name: _plain(array) for name, array in outputs.items()}
    return found | head


def _array(name: str, value: Any, spec: TensorSpec) -> Array:
    """Return a value in the shape that the model wants, however it is nested."""
    values = value if isinstance(value, (list, np.ndarray)) else [value]
    array = from_json(values, spec.dtype, name)
    dims = spec.dims or (-1,)
    if dims.count(-1) > 1:  # the batch is one
        dims = (1, *dims[1:])
    if dims.count(-1) > 1:
        return array
    try:
        return array.reshape(dims)
    except ValueError:
        raise BadRequestError(f"The schema can not convert input '{name}' to tensor with proper shape") from None


def _plain(array: Array) -> Any:
    values = [each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in array.ravel().tolist()]
    return values[0] if len(values) == 1 else values
