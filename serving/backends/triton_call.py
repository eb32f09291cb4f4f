"""One call of a model in tritonserver: which tensors lie in shared memory, which are in the message, and the answer.

Inputs from a size on lie in a region that is lent for the call, and behind them the outputs whose size can be told
before: of a fixed shape, but for the batch, which is the inputs'. Everything else is in the message: small tensors,
texts, outputs of free shapes, all where no region is to be had. A model that answers more than its configuration says
is asked a second time, and has its outputs in the message from then on. `triton` makes one `Caller` a model.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np

from serving.backends.triton_memory import Region, Regions
from serving.backends.triton_messages import Place, is_too_large, message_of, tensors_of
from serving.tensors import DTYPES, Array, Tensors, TensorSpec
from serving.workers.handler import Request

log = logging.getLogger("wharf.tritonserver")

# CPU us of a request, ours and tritonserver's, by gRPC and by shared memory: 16 KiB 675 and 700, 32 KiB 1000 and 1000,
# 128 KiB 1025 and 875, 256 KiB 1775 and 950, 588 KiB 3300 and 1250, 2 MiB 10900 and 1700 (2.51, Python backend).
LEAST_BYTES = 32 << 10
"""From here on a tensor lies in shared memory."""
# Of a cache line: so that vector instructions find tensors aligned.
_ALIGNED_BYTES = 64


@dataclass(slots=True)
class _Plan:
    """Where tensors are to lie in a region: offset and size, in bytes."""

    size: int = 0
    inputs: dict[str, tuple[int, int]] = field(default_factory=dict)
    outputs: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, places: dict[str, tuple[int, int]], name: str, size: int) -> None:
        places[name] = (self.size, size)
        self.size += -(-size // _ALIGNED_BYTES) * _ALIGNED_BYTES


class Caller:
    """Calls the model `key`, whose `outputs` have a free first dimension where it `is_batching`."""

    def __init__(self, key: str, outputs: tuple[TensorSpec, ...], *, is_batching: bool) -> None:
        self._key = key
        self._outputs = [each.name for each in outputs]
        self._row_bytes = {each.name: size for each in outputs if (size := _row_bytes(each, is_batching=is_batching))}
        self._is_batching = is_batching

    def call(self, stub: Any, regions: Regions, request: Request, deadline: float) -> Tensors:
        """Return the outputs by name, before `deadline` (of the monotonic clock).

        Raises what gRPC raises, `UnsupportedError` for a type that arrays have not.
        """
        plan = self._plan(request)
        try:
            with regions.lent(plan.size) as region:
                if region is None:
                    message = message_of(self._key, request)
                    return tensors_of(stub.ModelInfer(message, timeout=_left_s(deadline)))
                return self._exchange(stub, region, plan, request, deadline)
        except Exception as error:
            if not plan.outputs or not is_too_large(error):
                raise
            log.warning("event=outputs_not_shared model=%s reason='larger than its configuration says'", self._key)
            self._row_bytes = {}
        return self.call(stub, regions, request, deadline)

    def _exchange(self, stub: Any, region: Region, plan: _Plan, request: Request, deadline: float) -> Tensors:
        tensors = request.tensors or {}
        for name, (offset, _) in plan.inputs.items():
            _array(region, tensors[name].dtype, tensors[name].shape, offset)[...] = tensors[name]
        inputs = {name: Place(region.name, *at) for name, at in plan.inputs.items()}
        outputs: Mapping[str, Place | None] = {
            name: Place(region.name, *plan.outputs[name]) if name in plan.outputs else None
            for name in self._asked(request)
        }
        message = message_of(self._key, request, inputs, outputs)
        response = stub.ModelInfer(message, timeout=_left_s(deadline))
        view = memoryview(region.map)
        return tensors_of(response, {name: view[at : at + size] for name, (at, size) in plan.outputs.items()})

    def _asked(self, request: Request) -> list[str]:
        return list(request.about.get("outputs", ())) or self._outputs

    def _plan(self, request: Request) -> _Plan:
        plan = _Plan()
        tensors = request.tensors or {}
        for name, array in tensors.items():
            if array.dtype.kind not in "OSU" and array.nbytes >= LEAST_BYTES:
                plan.add(plan.inputs, name, array.nbytes)
        if self._row_bytes and not request.about.get("sequence_id"):  # a sequence's request cannot be sent again
            rows = next((int(each.shape[0]) for each in tensors.values() if each.ndim), 1) if self._is_batching else 1
            for name in self._asked(request):
                size = rows * self._row_bytes.get(name, 0)
                if size >= LEAST_BYTES:
                    plan.add(plan.outputs, name, size)
        return plan


def _left_s(deadline: float) -> float:
    return max(0.001, deadline - monotonic())


def _array(region: Region, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> Array:
    """Return a part of a region as an array; its memory is only ours until the region is given back."""
    return np.frombuffer(region.map, dtype.newbyteorder("<"), math.prod(shape), offset).reshape(shape)


def _row_bytes(spec: TensorSpec, *, is_batching: bool) -> int:
    """Return what an output takes for each row of a batch, in bytes; 0 where that cannot be told."""
    dims = (spec.dims or ())[1:] if is_batching else spec.dims or ()
    if spec.dtype is None or spec.dtype not in DTYPES or spec.dtype == "BYTES" or min(dims, default=1) < 1:
        return 0
    return math.prod(dims) * DTYPES[spec.dtype].itemsize
