"""Bodies of Triton's generate extension: a flat JSON object whose keys are inputs, and an answer as flat.

Scalars and flat lists only; what is no input is a parameter, `parameters` is merged into them. The model takes the
shape that fits its signature. `http/v2` calls it.
"""

from __future__ import annotations

from typing import Any

from serving.codecs import json
from serving.codecs.v2 import ParseError, Question, checked
from serving.errors import BadRequestError
from serving.tensors import Array, Signature, Tensors, TensorSpec


def read(body: bytes, signature: Signature) -> Question:
    """Read a request; raises `ParseError` for what is no object, `BadRequestError` for nested lists."""
    try:
        document = json.load(body)
    except BadRequestError as fault:
        raise ParseError(f"failed to parse the request JSON buffer: {fault.message}") from None
    if not isinstance(document, dict):
        raise ParseError("failed to parse the request JSON buffer: The document is no object.")
    question = Question(id=str(document.pop("id", "")))
    specs = {each.name: each for each in signature.inputs}
    for key, value in document.items():
        if key in specs:
            question.inputs[key] = (specs[key].dtype or "FP32", _array(key, value, specs[key]))
        elif key == "parameters" and isinstance(value, dict):
            question.parameters |= value
        else:
            question.parameters[key] = value
    checked(question.parameters)
    return question


def flat(head: dict[str, Any], outputs: Tensors) -> dict[str, Any]:
    """Return an answer as one object: outputs by name, a single value instead of a list of one."""
    found: dict[str, Any] = {name: _plain(array) for name, array in outputs.items()}
    return found | head


def _array(name: str, value: Any, spec: TensorSpec) -> Array:
    values = value.tolist() if hasattr(value, "tolist") else value
    values = values if isinstance(values, list) else [values]
    if any(isinstance(each, (list, dict)) for each in values):
        raise BadRequestError(f"attempt to access JSON non-scalar in '{name}': generate takes scalars and flat lists.")
    array = json.to_array(values, spec.dtype, name)
    dims = spec.dims or (-1,)
    if dims.count(-1) > 1:  # the batch is one
        dims = (1, *dims[1:])
    if dims.count(-1) > 1:
        return array
    try:
        return array.reshape(dims)
    except ValueError:
        raise BadRequestError(
            f"input '{name}' has {array.size} values and the model wants the shape {list(dims)}: send as many."
        ) from None


def _plain(array: Array) -> Any:
    values = [each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in array.ravel().tolist()]
    return values[0] if len(values) == 1 else values
