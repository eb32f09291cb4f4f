"""Which of tritonserver's models use a GPU, what they are expected to take there, and how one is kept to its device.

Left to itself tritonserver makes the instances of a group on every GPU that it sees; a group that names none gets the
device that the house gave room on. Reads what config.pbtxt says and nothing else; `triton` calls it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from serving.devices import PROCESS_BYTES
from serving.repository import triton_schema
from serving.repository.layouts import ModelSpec

# Backends that ask for the CPU where a group says KIND_AUTO or nothing (their GetBackendAttribute), and names no GPU.
_ON_CPU = frozenset(("python", "openvino"))
# What an instance takes beside its weights: on a T4 (AWS' own rerun of 2023) 173 MiB for ResNet-50 and 47 for BERT-base
# in libtorch, some 100 for BERT-base in TensorRT; what an engine's profile adds is measured afterwards.
_WORKSPACE_BYTES = 128 << 20


def device_footprint(spec: ModelSpec) -> tuple[int, tuple[int, ...]]:
    """Return the bytes that a model is expected to take on each of its devices, and the devices that it names.

    0 bytes for one that stays on the CPU; no devices where it names none. KIND_MODEL leaves it to the model, of which
    nothing is known. A model of the Python backend has a process of its own, and that a context.
    """
    anywhere, named = 0, Counter[int]()
    groups: Sequence[Mapping[str, Any]] = (spec.triton or {}).get("instance_group") or ({},)
    for group in groups:
        kind = group.get("kind", "KIND_AUTO")
        if kind not in _gpu_kinds(spec) and not (kind == "KIND_AUTO" and group.get("gpus")):
            continue
        count = max(1, int(group.get("count") or 0))
        anywhere += 0 if group.get("gpus") else count
        named.update({int(index): count for index in group.get("gpus") or ()})
    instances = anywhere + max(named.values(), default=0)
    each = spec.bytes + (PROCESS_BYTES if has_process(spec) else _WORKSPACE_BYTES)
    return instances * each, tuple(sorted(named))


def has_process(spec: ModelSpec) -> bool:
    """Say whether each instance is a process beside the server's."""
    return _backend(spec) == "python"


def kept_to(text: str, spec: ModelSpec) -> str:
    """Return a config.pbtxt that names the devices of the model's placement where it leaves them open."""
    if not spec.placement.devices:
        return text
    config = triton_schema.parse(text)
    if not config.instance_group:
        config.instance_group.add()
    kinds = _gpu_kinds(spec)
    for group in config.instance_group:
        if not group.gpus and triton_schema.enum_name(group, "kind") in kinds:
            group.gpus.extend(spec.placement.devices)
    return triton_schema.as_text(config)


def _gpu_kinds(spec: ModelSpec) -> tuple[str, ...]:
    return ("KIND_GPU",) if _backend(spec) in _ON_CPU else ("KIND_GPU", "KIND_AUTO")


def _backend(spec: ModelSpec) -> str:
    """Return the backend's name; where none is written, the Python backend's by its file, else of no interest here."""
    config = spec.triton or {}
    written = str(config.get("backend") or config.get("platform") or "").partition("_")[0]
    is_python = not written and spec.folder is not None and any(spec.folder.glob("*/model.py"))
    return "python" if is_python else written
