"""What both torch formats become: a program that takes and gives tensors by name.

Knows how a nest of results turns into named outputs, and what a sample input looks like; knows no file and no thread.
`torchscript` and `torch_export` make programs, `torch` runs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.errors import ModelFailedError
from serving.tensors import Signature, TensorSpec

# torch.Tensor by name; torch is imported in functions only, so the type has no name here.
TorchTensors = dict[str, Any]

# Triton's `<anything>__<n>`: the n-th argument or result.
_POSITION = re.compile(r".+__(\d+)")
# A free dim that is not the batch: long enough for five halvings of an image, short enough for any text model.
SAMPLE_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Program:
    """A signature, and the callable that turns a tensor for each input into whatever the network returns.

    `output_names` is None where the results name themselves (dict keys, fields, `output`).
    """

    signature: Signature
    call: Callable[[TorchTensors], Any]
    output_names: tuple[str, ...] | None = None

    def __call__(self, inputs: TorchTensors) -> TorchTensors:
        """Return the outputs by name.

        Raises `ModelFailedError` for a result that is not a tensor or a flat collection of tensors, or not as many
        as the configuration names.
        """
        return name_results(self.call(inputs), self.output_names)


def positions(names: Sequence[str]) -> list[int] | None:
    """Return n of each `<anything>__<n>`, or None when a name has no such end or the positions are not 0 to n-1."""
    found = [int(match[1]) for name in names if (match := _POSITION.fullmatch(name))]
    return found if sorted(found) == list(range(len(names))) else None


def name_results(result: Any, configured: tuple[str, ...] | None) -> TorchTensors:
    """Give every tensor of `result` its name.

    1. A dict, and a tuple with fields, bring their own names; when the configuration names some, those are answered.
    2. Anything else is named by the configuration: by position `<anything>__<n>`, some of them too, else in its order.
    3. Without one: `output` for a single tensor, `output_0`, `output_1`, ... for several.
    """
    own = _own_names(result)
    if own is not None and (configured is None or all(name in own for name in configured)):
        return {name: _tensor(own[name], name) for name in configured or own}
    values = list(own.values()) if own is not None else list(result) if isinstance(result, (tuple, list)) else [result]
    names = configured or default_names(len(values))
    numbers = [int(match[1]) for name in names if (match := _POSITION.fullmatch(name))]
    if numbers and len(set(numbers)) == len(names) and max(numbers) < len(values):
        return {name: _tensor(values[n], name) for name, n in zip(names, numbers, strict=True)}
    if len(names) != len(values):
        raise ModelFailedError(
            f"The model returns {len(values)} outputs and its configuration names {len(names)} ({', '.join(names)}): "
            "describe exactly those in wharf.toml."
        )
    return {name: _tensor(value, name) for name, value in zip(names, values, strict=True)}


def default_names(count: int) -> tuple[str, ...]:
    """Return the names of `count` outputs that nobody named."""
    return ("output",) if count == 1 else tuple(f"output_{n}" for n in range(count))


def sample_inputs(specs: Sequence[TensorSpec]) -> TorchTensors | None:
    """Return one input that fits `specs`, or None where dtype or dims are not known.

    The batch is 1 and other free dims are `SAMPLE_LENGTH`. Floats are seeded noise; integers are 1, which is a token, a
    mask and a segment to any text model.
    """
    import torch

    if any(spec.dims is None or spec.dtype in (None, "BYTES") for spec in specs):
        return None
    noise, sample = torch.Generator().manual_seed(0), {}
    for spec in specs:
        shape = [(1 if axis == 0 else SAMPLE_LENGTH) if dim == -1 else dim for axis, dim in enumerate(spec.dims or ())]
        dtype = torch_dtypes()[str(spec.dtype)]
        values = torch.randn(shape, generator=noise) if dtype.is_floating_point else torch.ones(shape)
        sample[spec.name] = values.to(dtype)
    return sample


def torch_dtypes() -> Mapping[str, Any]:
    """Return Triton's names of the types that a torch model may take, and the torch types."""
    import torch

    return {
        "BOOL": torch.bool,
        "UINT8": torch.uint8,
        "UINT16": torch.uint16,
        "UINT32": torch.uint32,
        "UINT64": torch.uint64,
        "INT8": torch.int8,
        "INT16": torch.int16,
        "INT32": torch.int32,
        "INT64": torch.int64,
        "FP16": torch.float16,
        "FP32": torch.float32,
        "FP64": torch.float64,
    }


def dtype_name(dtype: Any) -> str | None:
    """Return Triton's name of a torch type; bfloat16 is answered as FP32, because numpy has no such type."""
    import torch

    if dtype is torch.bfloat16:
        return "FP32"
    return next((name for name, known in torch_dtypes().items() if known is dtype), None)


def _own_names(result: Any) -> dict[str, Any] | None:
    if isinstance(result, Mapping):
        return {str(key): value for key, value in result.items()}
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return dict(zip(result._fields, result, strict=True))
    return None


def _tensor(value: Any, name: str) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value
    raise ModelFailedError(
        f"The model's output '{name}' is a {type(value).__name__} and has to be a tensor: wrap the model so that it "
        "returns a tensor, or a flat tuple, list or dict of tensors."
    )
