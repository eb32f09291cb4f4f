"""TorchScript files (.pt): from a file to a program, frozen and optimised where that changes nothing.

Knows `torch.jit` and how configured names meet `forward()`'s arguments; knows no thread and no request. `torch` calls
it.

What is defended: the file's pickles are read by libtorch's own C++ reader, which builds tensors and TorchScript objects
and can name no Python function, so loading runs no Python of the file. What is not: TorchScript is itself a program and
runs in this process (it can loop for ever, allocate, or map a file that the server may read), so serve models of people
whom you trust with that.
"""

from __future__ import annotations

import logging
import time
import warnings
import zipfile
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from serving.backends.refine import check_demanded
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
from serving.logs import quoted
from serving.repository.layouts import ModelSpec
from serving.tensors import Signature, TensorSpec

log = logging.getLogger("wharf.backends.torch")

# The optimised graph may differ from the plain one by this much of the plain output's largest magnitude (or of 1).
# ResNet-50's differ by 2e-6 of it, BERT-base's by 4e-7.
AGREEMENT = 1e-4
_CONVOLUTIONS = ("aten::_convolution", "aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::conv_transpose2d")
# A file's code is a few hundred KiB; what is longer is not read on.
_CODE_BYTES, _CODE_FILES = 1 << 20, 1000


def load_torchscript(spec: ModelSpec, device: str) -> Program:
    """Load `spec.file` onto `device` and optimise it unless `spec.optimize` is false.

    Raises `InvalidArtifactError` when the configuration does not fit `forward()`; torch's own errors pass through.
    """
    _accept_deprecation()
    module = _read(spec, device)
    call, unconfigured = _calling(module, spec)
    arguments = spec.inputs or unconfigured
    outputs = tuple(output.name for output in spec.outputs) if spec.outputs else None
    declared, results = _declared_outputs(module), None
    sample = sample_inputs(arguments)
    if sample is not None:
        sample = {name: tensor.to(device) for name, tensor in sample.items()}
        only_reference, module = [module], None
        run = partial(_named_call, call, sample, outputs)
        module, results = _prepared(spec, device, only_reference, run)
    elif spec.optimize:
        log.info(
            "event=plain_graph model=%s reason=inputs_unknown advice=describe_inputs_in_wharf.toml", quoted(spec.name)
        )
    found = tuple(TensorSpec(name, dtype_name(tensor.dtype)) for name, tensor in (results or {}).items())
    return Program(Signature(arguments, spec.outputs or found or declared), partial(call, module), outputs)


def has_convolutions(file: Path) -> bool:
    """Say whether the code in a TorchScript file speaks of convolutions, without reading its weights."""
    try:
        with zipfile.ZipFile(file) as archive:
            code = [name for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
            return any(b"conv" in archive.open(name).read(_CODE_BYTES) for name in code[:_CODE_FILES])
    except Exception:  # a damaged archive: what is wrong with it the load will say
        return False


def _read(spec: ModelSpec, device: str) -> Any:
    import torch

    return torch.jit.load(str(spec.file), map_location=device).eval()


def _by_name(module: Any, tensors: TorchTensors) -> Any:
    return module(**tensors)


def _by_dict(module: Any, tensors: TorchTensors) -> Any:
    return module(tensors)


def _named_call(
    call: Callable[[Any, TorchTensors], Any], tensors: TorchTensors, outputs: tuple[str, ...] | None, module: Any
) -> TorchTensors:
    return name_results(call(module, tensors), outputs)


def _by_order(spec: ModelSpec, names: Sequence[str]) -> Callable[[Any, TorchTensors], Any]:
    """Return a call that feeds arguments by position: Triton's `<anything>__<n>`, else the configuration's order."""
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
    return lambda module, tensors: module(*_leading(spec, by_position, tensors))


def _leading(spec: ModelSpec, by_position: Sequence[str], tensors: TorchTensors) -> list[Any]:
    """Return the arguments in order; only the last ones may be missing, as none can be skipped by position."""
    given = by_position[: max((n + 1 for n, name in enumerate(by_position) if name in tensors), default=0)]
    check_demanded(spec.name, given, tensors)
    return [tensors[name] for name in given]


def _guarded(
    spec: ModelSpec, call: Callable[[Any, TorchTensors], Any], required: int, by_name: Collection[str]
) -> Callable[[Any, TorchTensors], Any]:
    """Return `call`, with an answer for who leaves out what `forward()` demands."""
    if not any(described.is_optional for described in spec.inputs or ()):
        return call
    configured = [described.name for described in spec.inputs or ()]
    order = positions(configured) or range(len(configured))
    demanded = by_name or [name for name, n in zip(configured, order, strict=True) if n < required]

    def guarded(module: Any, tensors: TorchTensors) -> Any:
        check_demanded(spec.name, demanded, tensors)
        return call(module, tensors)

    return guarded


def _calling(module: Any, spec: ModelSpec) -> tuple[Callable[[Any, TorchTensors], Any], tuple[TensorSpec, ...]]:
    """Return how to call `forward()` with the configured inputs, and what its inputs are when none are configured.

    1. A single Dict[str, Tensor] takes the tensors as they are named.
    2. When all configured names are arguments, they are fed by name.
    3. Otherwise by position. Raises `InvalidArtifactError` for arguments that no request can fill.
    """
    arguments = module.forward.schema.arguments[1:]
    required = {argument.name: str(argument.type) for argument in arguments if not argument.has_default_value()}
    if list(required.values()) == ["Dict[str, Tensor]"]:
        if not spec.inputs:
            raise InvalidArtifactError(
                f"Model '{spec.name}' takes a dict and TorchScript does not say with which keys: describe its inputs "
                "in wharf.toml."
            )
        return _by_dict, ()
    tensors = [argument.name for argument in arguments if str(argument.type) in ("Tensor", "Optional[Tensor]")]
    if odd := [name for name in required if name not in tensors]:
        raise InvalidArtifactError(
            f"Model '{spec.name}' takes '{odd[0]}' of type {required[odd[0]]} and a request can only send tensors: "
            "wrap it in a module that takes tensors, or one Dict[str, Tensor]."
        )
    _check_count(spec, len(required), tensors)
    has_names = all(described.name in tensors for described in spec.inputs or ())
    call = _by_name if has_names else _by_order(spec, tensors)
    call = _guarded(spec, call, len(required), required if has_names else ())
    return call, tuple(map(TensorSpec, list(required) or tensors))


def _check_count(spec: ModelSpec, required: int, tensors: list[str]) -> None:
    if spec.inputs and not required <= len(spec.inputs) <= len(tensors):
        raise InvalidArtifactError(
            f"Model '{spec.name}' is configured with inputs {[described.name for described in spec.inputs]} and its "
            f"forward() takes {tensors}: describe exactly those in wharf.toml."
        )


def _prepared(
    spec: ModelSpec, device: str, only_reference: list[Any], run: Callable[[Any], TorchTensors]
) -> tuple[Any, TorchTensors | None]:
    """Return the module to serve and the results of a sample, when it ran.

    The plain module comes as the only reference to it, because packing while it is alive takes 350 MiB for ResNet-50
    instead of 244; should the plain graph be the right one after all, it is read again.
    """
    import torch

    plain, results = only_reference.pop(), None
    with torch.inference_mode():
        try:
            results = run(plain)
        # A made-up sample may not suit the model; that is no reason not to serve it.
        except Exception as error:
            log.warning("event=plain_graph model=%s reason=%r", quoted(spec.name), _reason(error))
        if results is None or not spec.optimize:
            return plain, results
        holder, plain = [plain], None
        return _optimised(spec, holder, results, run) or _read(spec, device), results


def _optimised(
    spec: ModelSpec, only_reference: list[Any], results: TorchTensors, run: Callable[[Any], TorchTensors]
) -> Any:
    """Return the optimised module, or None when it fails or differs from `results`."""
    import torch

    began = time.monotonic()
    try:
        frozen = torch.jit.freeze(only_reference.pop())
        optimised = _packed(frozen)
        # The second run is the one of the graph that the profiler of the first has specialised.
        reason = _difference(results, run(optimised)) or _difference(results, run(optimised))
    # Whatever the optimiser stumbles over, the plain graph is still right.
    except Exception as error:
        reason = _reason(error)
    if reason:
        log.warning("event=plain_graph model=%s reason=%r", quoted(spec.name), reason)
        return None
    log.info("event=optimised_graph model=%s duration_s=%.2f", quoted(spec.name), time.monotonic() - began)
    return optimised


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[-160:]}"


def _packed(frozen: Any) -> Any:
    """Pack the weights of a frozen graph for inference if it has convolutions.

    CPU ms a request on one thread, plain and packed: ResNet-50 74 and 49; BERT-base 42 and 41 (10 tokens), 235 and 246
    (128). So for linear layers packing buys nothing, and costs a second of loading.
    """
    import torch

    return torch.jit.optimize_for_inference(frozen) if any(map(frozen.graph.findNode, _CONVOLUTIONS)) else frozen


def _difference(expected: TorchTensors, found: TorchTensors) -> str:
    """Return where two results differ by more than `AGREEMENT`, or nothing."""
    import torch

    for name, tensor in expected.items():
        want, have = tensor.to_dense().double(), found[name].to_dense().double()
        limit = AGREEMENT * max(1.0, want.abs().max().item() if want.numel() else 1.0)
        if want.shape != have.shape or not torch.allclose(want, have, rtol=0, atol=limit, equal_nan=True):
            return f"output {name} of the optimised graph differs by more than {AGREEMENT} of its magnitude"
    return ""


def _declared_outputs(module: Any) -> tuple[TensorSpec, ...]:
    """Name the outputs by the type that `forward()` returns; empty where only a run can tell."""
    returned = module.forward.schema.returns[0].type
    if returned.kind() == "TensorType":
        return (TensorSpec("output"),)
    is_tuple = returned.kind() == "TupleType"
    return tuple(TensorSpec(name) for name in default_names(len(returned.elements()))) if is_tuple else ()


def _accept_deprecation() -> None:
    """Silence torch's advice to move to torch.export: the format is what the model's owner chose."""
    warnings.filterwarnings("ignore", r"`torch\.jit\..*` is deprecated", DeprecationWarning)
