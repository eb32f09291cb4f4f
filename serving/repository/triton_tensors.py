"""The inputs and outputs of config.pbtxt as specs: dims, reshape, optional, labels.

`dims` is what clients see, `reshape` what the model itself takes or gives; max_batch_size above 0 is one more free dim
before both. The rules of a reshape are Triton's (model_config_utils.cc: ValidateIOShape). Labels are read here, from
a file in the model's folder. `config_pbtxt` calls this room.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from serving.errors import InvalidArtifactError
from serving.repository.limits import quoted
from serving.repository.model_config import checked_specs
from serving.repository.triton_schema import enum_name, set_fields
from serving.tensors import DTYPES, TensorSpec

_REFUSED = {
    "is_shape_tensor": "that is TensorRT's, leave it out",
    "is_non_linear_format_io": "that is TensorRT's, leave it out",
}
_USED = frozenset(("name", "data_type", "dims", "reshape", "optional", "label_filename"))
# Requests that are not joined may differ.
_USED_BY_PYTHON = _USED | {"allow_ragged_batch"}

# ImageNet's thousand classes take 30 KB.
_LABELS_BYTES = 16 << 20


def read_tensors(
    model: str, tensors: Iterable[Any], max_batch_size: int, folder: Path
) -> tuple[TensorSpec, ...] | None:
    """Return the specs of `tensors`, None for none; raises `InvalidArtifactError` that names the field and the tensor.

    Files of labels are looked for in `folder`, the model's.
    """
    found = list(tensors)
    if not found:
        return None
    source = f"config.pbtxt {_kind(found[0])}"
    return checked_specs((_spec(model, each, max_batch_size, folder) for each in found), source)


def idle_of_tensors(tensors: Iterable[Any], *, is_python: bool) -> list[str]:
    """Return the fields of `tensors` that nobody acts on."""
    used = _USED_BY_PYTHON if is_python else _USED
    return [f"{_kind(each)}.{name}" for each in tensors for name in set_fields(each) if name not in used]


def _kind(tensor: Any) -> str:
    return "input" if "Input" in tensor.DESCRIPTOR.name else "output"


def _spec(model: str, tensor: Any, max_batch_size: int, folder: Path) -> TensorSpec:
    for name in set_fields(tensor):
        if name in _REFUSED:
            raise _refused(model, tensor, name, _REFUSED[name])
    dtype = enum_name(tensor, "data_type").removeprefix("TYPE_")
    dtype = "BYTES" if dtype == "STRING" else dtype
    if dtype not in DTYPES:
        raise InvalidArtifactError(
            f"config.pbtxt gives '{tensor.name}' the data_type TYPE_{dtype}: served are {', '.join(DTYPES)}."
        )
    batch, reshape = (-1,) if max_batch_size else (), None
    if _kind(tensor) == "input" and enum_name(tensor, "format") != "FORMAT_NONE" and len(tensor.dims) != 3:
        raise _refused(model, tensor, "format", f"that wants 3 dims and there are {len(tensor.dims)}")
    if tensor.HasField("reshape"):
        _check_reshape(model, tensor, has_batch=bool(batch))
        reshape = (*batch, *tensor.reshape.shape)
    labels = _labels(model, tensor, folder) if _kind(tensor) == "output" and tensor.label_filename else None
    is_optional = _kind(tensor) == "input" and tensor.optional
    return TensorSpec(tensor.name, dtype, (*batch, *tensor.dims), reshape, is_optional, labels)


def _check_reshape(model: str, tensor: Any, *, has_batch: bool) -> None:
    """Raise `InvalidArtifactError` for a reshape that could not be made of any array of these dims.

    Between the free dims, which stay in their order, there are as many elements on both sides.
    """
    shape, dims = list(tensor.reshape.shape), list(tensor.dims)
    if not shape and not has_batch:
        raise _refused(model, tensor, "reshape", "a model without max_batch_size takes no scalars, give it a shape")
    if any(dim != -1 and dim < 1 for dim in shape):
        raise _refused(model, tensor, "reshape", f"{shape} has dims below 1 that are not -1, correct it")
    if _trunks(shape) != _trunks(dims):
        raise _refused(model, tensor, "reshape", f"{shape} and the dims {dims} hold different numbers, correct one")


def _trunks(dims: Sequence[int]) -> list[int]:
    edges = [-1, *(axis for axis, dim in enumerate(dims) if dim == -1), len(dims)]
    return [math.prod(dims[start + 1 : end]) for start, end in itertools.pairwise(edges)]


def _labels(model: str, tensor: Any, folder: Path) -> tuple[str, ...]:
    name = tensor.label_filename
    file = folder / name
    if "\0" in name or not os.path.realpath(file).startswith(os.path.realpath(folder) + "/"):
        raise _refused(
            model, tensor, "label_filename", f"{quoted(name)} leads out of the model's folder, put it inside"
        )
    try:
        with file.open("rb") as stream:
            text = stream.read(_LABELS_BYTES + 1)
        if len(text) > _LABELS_BYTES:
            raise _refused(model, tensor, "label_filename", f"{quoted(name)} has over {_LABELS_BYTES} bytes")
        return tuple(text.decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise _refused(model, tensor, "label_filename", f"{quoted(name)} cannot be read ({why}), add it") from error


def _refused(model: str, tensor: Any, field: str, why: str) -> InvalidArtifactError:
    return InvalidArtifactError(f"config.pbtxt of '{model}' sets {field} for '{tensor.name}': {why}.")
