"""Torch networks to ONNX, held to what torch says: TorchScript, torch.export's .pt2, or a transformers folder.

Called by `compile_tensorrt.py`; knows neither TensorRT nor Triton.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

Samples = dict[str, Any]
# How far ONNX Runtime may be from torch, of the largest output: rounding of 32 bits through a deep network, and of 16.
TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2}
_TYPES = {"fp32": "float32", "int64": "int64", "int32": "int32"}


def load(source: Path) -> Any:
    """Return a network that is called with tensors: of model.pt, model.pt2, or a folder with a config.json."""
    import torch

    if (source / "config.json").is_file():
        import transformers

        kind = transformers.AutoConfig.from_pretrained(source).architectures[0]
        return getattr(transformers, kind).from_pretrained(source, return_dict=False).eval()
    if source.suffix == ".pt2":
        return torch.export.load(source).module()
    return torch.jit.load(source, map_location="cpu").eval()


def samples_of(inputs: dict[str, tuple[str, list[int]]]) -> Samples:
    """Return one sample of batch 2 for each input `name: (type, dims)`: noise, or small whole numbers."""
    import torch

    torch.manual_seed(0)
    found: Samples = {}
    for name, (kind, dims) in inputs.items():
        is_float = kind == "fp32"
        made = torch.randn(2, *dims) if is_float else torch.randint(0, 2, (2, *dims))
        found[name] = made.to(getattr(torch, _TYPES[kind]))
    return found


def export(network: Any, samples: Samples, file: Path, *, is_half: bool) -> list[str]:
    """Write `file`, the first dimension of everything free; return the outputs' names."""
    import torch

    names = [f"output_{number}" for number in range(len(outputs_of(network, samples)))]
    if is_half:
        network, samples = network.half(), {n: s.half() if s.is_floating_point() else s for n, s in samples.items()}
    arguments: dict[str, Any] = {"input_names": list(samples), "output_names": names}
    if isinstance(network, torch.jit.ScriptModule):
        arguments |= {"dynamo": False, "dynamic_axes": {name: {0: "batch"} for name in (*samples, *names)}}
    else:
        free = {0: torch.export.Dim.DYNAMIC}
        arguments |= {"dynamo": True, "external_data": False, "verbose": False}
        arguments["dynamic_shapes"] = tuple(free for _ in samples)
    torch.onnx.export(network, tuple(samples.values()), file, **arguments)
    return names


def outputs_of(network: Any, samples: Samples) -> list[Any]:
    """Return what torch computes, as a list."""
    import torch

    with torch.inference_mode():
        found = network(*samples.values())
    return list(found) if isinstance(found, (tuple, list)) else [found]


def difference(file: Path, samples: Samples, wanted: list[Any]) -> float:
    """Return how far ONNX Runtime is from torch: the largest difference over the largest value."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    kinds = {each.name: each.type for each in session.get_inputs()}
    fed = {n: s.numpy().astype("float16") if kinds[n] == "tensor(float16)" else s.numpy() for n, s in samples.items()}
    pairs = zip(session.run(None, fed), wanted, strict=True)
    return max(float(abs(mine - theirs.numpy()).max() / max(1e-6, abs(theirs).max())) for mine, theirs in pairs)
