"""Tensors as values: data types, specs and a model's signature.

The names of data types are Triton's (`FP32`), the arrays are numpy's. A dimension of -1 is free; a model that batches
has a free first dimension in all its inputs. A spec that leaves dtype or dims open (`None`) belongs to a format that
does not tell, such as TorchScript. This room knows no wire format and no backend; codecs and backends call it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import BadRequestError

Array = npt.NDArray[Any]
Tensors = dict[str, Array]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What one input or output is: its name, its Triton data type and its full dims (batch included, -1 is free).

    `dtype` and `dims` are `None` where the format does not tell. `reshape` is the shape that the model itself takes or
    gives, where it is another than `dims`, which is what clients see. `labels` are the classes of an output, in order.
    """

    name: str
    dtype: str | None = None
    dims: tuple[int, ...] | None = None
    reshape: tuple[int, ...] | None = None
    is_optional: bool = False
    labels: tuple[str, ...] | None = None

    @property
    def numpy_dtype(self) -> np.dtype[Any] | None:
        """The numpy type of `dtype`, or None."""
        return None if self.dtype is None else DTYPES[self.dtype]

    def check(self, array: Array) -> Array:
        """Return `array` in the shape that this spec wants.

        An array of one dimension less than a spec whose first dimension is free or 1 is one sample: it gets the
        leading axis. Raises `BadRequestError` that names the input, the shape found and the shape wanted.
        """
        if self.dims is None:
            return array
        if array.ndim == len(self.dims) - 1 and self.dims[0] in (-1, 1):
            array = array[np.newaxis]
        if array.ndim == len(self.dims):
            for want, got in zip(self.dims, array.shape, strict=True):
                if want not in (-1, got):
                    break
            else:
                return array
        raise BadRequestError(
            f"Input '{self.name}' has shape {list(array.shape)} and the model wants {list(self.dims)} "
            "(-1 is free): send it in that shape."
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a model, in its own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def is_batched(self) -> bool:
        """True when every input has a free first dimension."""
        return all(spec.dims is not None and spec.dims[:1] == (-1,) for spec in self.inputs)

    def check(self, tensors: Tensors) -> Tensors:
        """Return `tensors` in the order and shapes of the inputs; an optional one that is missing stays so.

        Raises `BadRequestError` that names a missing, an unknown or a misshapen input.
        """
        if not self.accepts(tensors):
            names = [spec.name for spec in self.inputs]
            raise BadRequestError(
                f"The request has inputs {sorted(tensors)} and the model wants {names}: send exactly those names"
                f"{self._may_be_left_out()}."
            )
        return {spec.name: spec.check(tensors[spec.name]) for spec in self.inputs if spec.name in tensors}

    def accepts(self, names: Collection[str]) -> bool:
        """Say whether `names` are those of the inputs, optional ones there or not."""
        found = sum(spec.name in names for spec in self.inputs)
        return found == len(names) and all(spec.is_optional or spec.name in names for spec in self.inputs)

    def _may_be_left_out(self) -> str:
        optional = [spec.name for spec in self.inputs if spec.is_optional]
        return f" ({optional} may be left out)" if optional else ""


@dataclass(frozen=True, slots=True)
class Method:
    """One of several ways to call a model; `name` is TensorFlow's of what it does (tensorflow/serving/predict)."""

    signature: Signature
    name: str = ""
