"""What a loaded model says of itself in Triton's language: its metadata and its whole configuration.

A model with a config.pbtxt has that, completed from its signature; one without gets the configuration that would
describe it. Pure functions of a spec and a signature; `inference` calls them. Source of the shapes: Triton's
model_config.proto and the extension documents.
"""

from __future__ import annotations

from typing import Any

from serving.repository.layouts import ModelSpec
from serving.repository.plain_files import KERAS
from serving.repository.saved_model_layout import SAVED_MODEL
from serving.tensors import Signature, TensorSpec

# Triton's name of what runs a format, and its platform.
_PLATFORMS = {
    "onnx": ("onnxruntime", "onnxruntime_onnx"),
    "torchscript": ("pytorch", "pytorch_libtorch"),
    "torch_export": ("pytorch", "torch_aoti"),
    "worker": ("python", ""),
    "fake": ("fake", ""),
}
# The same by who handles it, where that is no Python of somebody's.
_PLATFORMS_OF_HANDLERS = {SAVED_MODEL: ("tensorflow", "tensorflow_savedmodel"), KERAS: ("tensorflow", "")}


def metadata_of(spec: ModelSpec, signature: Signature) -> dict[str, Any]:
    """Return `{"name", "versions", "platform", "inputs", "outputs"}`; shapes with the batch, -1 where it is free."""
    backend, platform = _brand(spec)
    return {
        "name": spec.name,
        "versions": [each.version for each in (*spec.versions, spec)],
        "platform": platform or backend,
        "inputs": [_described(each) for each in signature.inputs],
        "outputs": [_described(each) for each in signature.outputs],
    }


def config_of(spec: ModelSpec, signature: Signature) -> dict[str, Any]:
    """Return the configuration with every field that has no presence of its own, as Triton prints it."""
    backend, platform = _brand(spec)
    found: dict[str, Any] = {**_DEFAULTS, **(spec.triton or {})}
    found["name"] = spec.name
    found["platform"], found["backend"] = platform, backend
    most = int(found["max_batch_size"])
    found["version_policy"] = found.get("version_policy") or {"latest": {"num_versions": 1}}
    found["input"] = found["input"] or [_tensor(each, most) | _INPUT for each in signature.inputs]
    found["output"] = found["output"] or [_tensor(each, most) | _OUTPUT for each in signature.outputs]
    found["instance_group"] = _groups(spec.name, found["instance_group"])
    # An ensemble, or what tritonserver runs, has no file but this: a client may send it back with a load.
    own_file = "" if spec.file.name == "config.pbtxt" else spec.file.name
    found["default_model_filename"] = found["default_model_filename"] or own_file
    found["optimization"] = found.get("optimization") or _OPTIMIZATION
    return found


def _brand(spec: ModelSpec) -> tuple[str, str]:
    backend, platform = _PLATFORMS.get(spec.format, (spec.format, ""))
    if spec.handler is not None:
        backend, platform = _PLATFORMS_OF_HANDLERS.get(spec.handler.dialect, _PLATFORMS["worker"])
    said = spec.triton or {}
    return said.get("backend") or backend, said.get("platform") or platform


def _described(each: TensorSpec) -> dict[str, Any]:
    return {"name": each.name, "datatype": each.dtype or "FP32", "shape": list(each.dims or (-1,))}


def _tensor(each: TensorSpec, most: int) -> dict[str, Any]:
    dims = list(each.dims or (-1,))
    dtype = {"BYTES": "STRING"}.get(each.dtype or "FP32", each.dtype or "FP32")
    return {"name": each.name, "data_type": f"TYPE_{dtype}", "dims": dims[1:] if most else dims}


def _groups(name: str, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Complete the groups of instances: names, and a count of 1 at least."""
    if not given:
        return [_group(name)]
    found = [_group(f"{name}_{number}") | each for number, each in enumerate(given)]
    for number, each in enumerate(found):
        each["name"] = each["name"] or f"{name}_{number}"
        each["count"] = each["count"] or 1
    return found


def _group(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "KIND_CPU",
        "count": 1,
        "gpus": [],
        "secondary_devices": [],
        "profile": [],
        "passive": False,
        "host_policy": "",
    }


_INPUT = {
    "format": "FORMAT_NONE",
    "is_shape_tensor": False,
    "allow_ragged_batch": False,
    "optional": False,
    "is_non_linear_format_io": False,
}
_OUTPUT = {"label_filename": "", "is_shape_tensor": False, "is_non_linear_format_io": False}
_OPTIMIZATION = {
    "priority": "PRIORITY_DEFAULT",
    "input_pinned_memory": {"enable": True},
    "output_pinned_memory": {"enable": True},
    "gather_kernel_buffer_threshold": 0,
    "eager_batching": False,
}
_DEFAULTS: dict[str, Any] = {
    "name": "",
    "platform": "",
    "backend": "",
    "runtime": "",
    "max_batch_size": 0,
    "input": [],
    "output": [],
    "batch_input": [],
    "batch_output": [],
    "instance_group": [],
    "default_model_filename": "",
    "cc_model_filenames": {},
    "metric_tags": {},
    "parameters": {},
    "model_warmup": [],
}
