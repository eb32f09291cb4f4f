"""TorchScript files (.pt): from a file to a program, frozen and optimised where that changes nothing.

Knows `torch.jit` and how configured names meet `forward()`'s arguments; knows no thread and no request. `torch` calls it.

What is defended: the file's pickles are read by libtorch's own C++ reader, which builds tensors and TorchScript objects
and can name no Python function, so loading runs no Python of the file. What is not: TorchScript is itself a program and
runs in this process (it can loop for ever, allocate, or map a file that the server may read), so serve models of people
whom you trust with that.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from serving.backends.torch_program import (
    Program,
    TorchTensors,
    default_names,
    dtype_name,
    name_results,
    positions,
    sample_inputs,
)
from serving.errors import InvalidArtifactError
from serving.repository.layouts import ModelSpec
from serving.tensors import Signature, TensorSpec

log = logging.getLogger("wharf.backends.torch")

# The optimised graph may differ from the plain one by this much of the plain output's largest magnitude (at least of 1).
# ResNet-50's differ by 2e-6 of it, BERT-base's by 4e-7.
AGREEMENT = 1e-4
_CONVOLUTIONS = ("aten::_convolution", "aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::conv_transpose2d")


def load_torchscript(spec: ModelSpec, device: str) -> Program:
    """Load `spec.file` onto `device` and optimise it unless `spec.optimize` is false.

    Raises `InvalidArtifactError` when the configuration does not fit `forward()`; torch's own errors pass through.
    """
    import torch

    _accept_deprecation()
    module = torch.jit.load(str(spec.file), map_location=device).eval()
    names, takes_dict = _inputs_of(module, spec)
    arguments = spec.inputs or tuple(TensorSpec(name) for name in names)
    call = _by_dict if takes_dict else _by_name if arguments_match(arguments, names) else _by_order(spec, names)
    outputs = tuple(output.name for output in spec.outputs) if spec.outputs else None
    sample = sample_inputs(arguments)
    results: TorchTensors | None = None
    if sample is None and spec.optimize:
        log.info("event=plain_graph model=%s reason=inputs_unknown advice=describe_inputs_in_wharf.toml", spec.name)
    elif sample is not None:
        sample = {name: tensor.to(device) for name, tensor in sample.items()}
        module, results = _optimised(module, spec, lambda target: name_results(call(target, sample), outputs))
    signature = Signature(arguments, spec.outputs or _outputs_of(module, results))
    return Program(signature, lambda tensors: call(module, tensors), outputs)


def arguments_match(specs: Sequence[TensorSpec], names: Sequence[str]) -> bool:
    """Say whether every input is named like an argument of `forward()`."""
    return all(spec.name in names for spec in specs)


def _by_name(module: Any, tensors: TorchTensors) -> Any:
    return module(**tensors)


def _by_dict(module: Any, tensors: TorchTensors) -> Any:
    return module(tensors)


def _by_order(spec: ModelSpec, names: Sequence[str]) -> Callable[[Any, TorchTensors], Any]:
    """Return a call that feeds arguments by position: Triton's `<anything>__<n>`, else the order of the configuration."""
    configured = [described.name for described in spec.inputs or ()]
    order = positions(configured)
    if order is None:
        log.warning(
            "event=inputs_by_order model=%s configured=%s arguments=%s reason=names_differ",
            spec.name,
            ",".join(configured),
            ",".join(names),
        )
        order = list(range(len(configured)))
    by_position = [configured[order.index(n)] for n in range(len(configured))]
    return lambda module, tensors: module(*(tensors[name] for name in by_position))


def _inputs_of(module: Any, spec: ModelSpec) -> tuple[list[str], bool]:
    """Return `forward()`'s tensor arguments and whether it takes a single dict; refuse what no request can fill."""
    arguments = module.forward.schema.arguments[1:]
    required = [argument for argument in arguments if not argument.has_default_value()]
    if len(required) == 1 and str(required[0].type) == "Dict[str, Tensor]":
        if not spec.inputs:
            raise InvalidArtifactError(
                f"Model '{spec.name}' takes a dict and TorchScript does not say with which keys: describe its inputs "
                "in wharf.toml."
            )
        return [], True
    tensors = [argument.name for argument in arguments if str(argument.type) in ("Tensor", "Optional[Tensor]")]
    if odd := [argument for argument in required if argument.name not in tensors]:
        raise InvalidArtifactError(
            f"Model '{spec.name}' takes '{odd[0].name}' of type {odd[0].type} and a request can only send tensors: "
            "wrap it in a module that takes tensors, or one Dict[str, Tensor]."
        )
    _check_count(spec, len(required), tensors)
    return [name for name in tensors if any(name == argument.name for argument in required)] or tensors, False


def _check_count(spec: ModelSpec, required: int, tensors: list[str]) -> None:
    if spec.inputs and not required <= len(spec.inputs) <= len(tensors):
        raise InvalidArtifactError(
            f"Model '{spec.name}' is configured with inputs {[described.name for described in spec.inputs]} and its "
            f"forward() takes {tensors}: describe exactly those in wharf.toml."
        )


def _optimised(
    plain: Any, spec: ModelSpec, run: Callable[[Any], TorchTensors]
) -> tuple[Any, TorchTensors | None]:
    """Return the optimised module when it agrees with `plain`, else `plain`; and the results of a sample, if it ran."""
    import torch

    began, results = time.monotonic(), None
    with torch.inference_mode():
        try:
            results = run(plain)
            if not spec.optimize:
                return plain, results
            optimised = _optimise(plain)
            # The second run is the one of the graph that the profiler of the first has specialised.
            reason = _difference(results, run(optimised)) or _difference(results, run(optimised))
        # Whatever the optimiser or the sample stumble over, the plain graph is still right.
        except Exception as error:  # noqa: BLE001
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[-160:]}"
    if reason:
        log.warning("event=plain_graph model=%s reason=%r", spec.name, reason)
        return plain, results
    log.info("event=optimised_graph model=%s duration_s=%.2f", spec.name, time.monotonic() - began)
    return optimised, results


def _optimise(plain: Any) -> Any:
    """Freeze, and pack for inference what has convolutions.

    Threads 1, CPU ms a request, plain and packed: ResNet-50 74 and 49; BERT-base 42 and 41 (10 tokens), 235 and 246 (128),
    so for a graph of linear layers packing only costs a second of loading and the memory of a second copy.
    """
    import torch

    frozen = torch.jit.freeze(plain)
    has_convolutions = any(frozen.graph.findNode(kind) for kind in _CONVOLUTIONS)
    return torch.jit.optimize_for_inference(frozen) if has_convolutions else frozen


def _difference(expected: TorchTensors, found: TorchTensors) -> str:
    """Return where two results differ by more than `AGREEMENT`, or nothing."""
    import torch

    for name, tensor in expected.items():
        want, have = tensor.to_dense().double(), found[name].to_dense().double()
        limit = AGREEMENT * max(1.0, want.abs().max().item() if want.numel() else 1.0)
        if want.shape != have.shape or not torch.allclose(want, have, rtol=0, atol=limit, equal_nan=True):
            return f"output {name} of the optimised graph differs by more than {AGREEMENT} of its magnitude"
    return ""


def _outputs_of(module: Any, results: TorchTensors | None) -> tuple[TensorSpec, ...]:
    """Name the outputs by a sample's results, else by the type that `forward()` returns; empty when neither tells."""
    if results is not None:
        return tuple(TensorSpec(name, dtype_name(tensor.dtype)) for name, tensor in results.items())
    returned = module.forward.schema.returns[0].type
    if returned.kind() == "TensorType":
        return (TensorSpec("output"),)
    is_tuple = returned.kind() == "TupleType"
    return tuple(TensorSpec(name) for name in default_names(len(returned.elements()))) if is_tuple else ()


def _accept_deprecation() -> None:
    """Silence torch's advice to move to torch.export: the format is what the model's owner chose."""
    warnings.filterwarnings("ignore", r"`torch\.jit\..*` is deprecated", DeprecationWarning)
