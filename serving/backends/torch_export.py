"""Exported programs (.pt2): loaded into a program, signature and all.

Knows what an `ExportedProgram` tells of its inputs and outputs; knows no thread and no request. What may be in the
file is the business of `pt2_archive`, which is asked first. `torch` calls this room.
"""

from __future__ import annotations

import linecache
import threading
import warnings
from collections.abc import Callable
from typing import Any

from serving.backends.pt2_archive import check_archive
from serving.backends.refine import check_demanded, refine
from serving.backends.torch_program import Program, TorchTensors, default_names, dtype_name
from serving.repository.layouts import ModelSpec
from serving.tensors import Signature, TensorSpec

# torch.export.load keeps its state in a module global and fails when a second thread enters.
_loading = threading.Lock()


def load_exported(spec: ModelSpec, device: str) -> Program:
    """Load `spec.file` onto `device`.

    Raises `InvalidArtifactError` for an archive that holds more than data; torch's own errors pass through.
    """
    check_archive(spec.name, spec.file)
    program, module = _load(str(spec.file), device)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    names = tuple(output.name for output in spec.outputs) if spec.outputs else None
    results = [values.get(name) for name in program.graph_signature.user_outputs if name is not None]
    found = names if names and len(names) == len(results) else _result_names(program, len(results))
    inputs = tuple(_described(name, values[name]) for name in program.graph_signature.user_inputs if name in values)
    outputs = tuple(_described(name, value) for name, value in zip(found, results, strict=True))
    outputs = refine(spec.name, "output", outputs, spec.outputs)
    return Program(
        Signature(refine(spec.name, "input", inputs, spec.inputs), outputs), _call(spec.name, program, module), names
    )


def _load(path: str, device: str) -> tuple[Any, Any]:
    import torch

    # torch warns of its own use of its own old names.
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
    with _loading:
        program = torch.export.load(path)
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        module = program.module()
        _forget_sources()
    return program, module


def _call(name: str, program: Any, module: Any) -> Callable[[TorchTensors], Any]:
    """Return a call that puts the tensors where the exported module takes them; constants keep their places."""
    import torch

    kind = torch.export.graph_signature.InputKind.USER_INPUT
    slots = [given.arg for given in program.graph_signature.input_specs if given.kind is kind]
    demanded = [slot.name for slot in slots if not hasattr(slot, "value")]
    tree, unflatten = program.call_spec.in_spec, torch.utils._pytree.tree_unflatten

    def call(tensors: TorchTensors) -> Any:
        check_demanded(name, demanded, tensors)
        flat = [tensors[slot.name] if slot.name in tensors else getattr(slot, "value", None) for slot in slots]
        arguments, named = unflatten(flat, tree)
        return module(*arguments, **named)

    return call


def _described(name: str, value: Any) -> TensorSpec:
    """Return the spec of a tensor of the graph; a symbolic size is a free dim."""
    import torch

    if not isinstance(value, torch.Tensor):
        return TensorSpec(name)
    return TensorSpec(name, dtype_name(value.dtype), tuple(n if type(n) is int else -1 for n in value.shape))


def _result_names(program: Any, count: int) -> tuple[str, ...]:
    """Return the keys when the program returns a flat dict, else the default names."""
    tree = program.call_spec.out_spec
    is_flat_dict = tree.type is dict and len(tree.context) == count
    return tuple(map(str, tree.context)) if is_flat_dict else default_names(count)


def _forget_sources() -> None:
    """Drop the Python source that torch.fx keeps for every module it ever made: 0.6 MiB a ResNet-50, for ever."""
    import torch

    sources = getattr(getattr(torch.fx.graph_module, "_loader", None), "eval_cache", {})
    for key in list(sources):
        sources.pop(key, None)
        linecache.cache.pop(key, None)
