"""Write a torch network as TorchScript, as an exported program and as ONNX.

Knows the three exporters and `wharf.toml`; knows no network. The builders of digits, ResNet-50 and BERT-base call it
with a module, one sample a named input (batch 2, so that no exporter takes the batch for a constant) and the
positions of the free dims.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

Samples = dict[str, Any]
# Input name: the positions of its free dims.
FreeDims = dict[str, tuple[int, ...]]


def save_torchscript(network: Any, samples: Samples, free: FreeDims, outputs: tuple[str, ...], folder: Path) -> None:
    """Trace `network` to `folder`/model.pt and write the wharf.toml that tells what the format does not."""
    import torch

    with torch.no_grad():
        torch.jit.trace(network, tuple(samples.values())).save(str(folder / "model.pt"))
    lines = ['format = "torchscript"']
    for name, sample in samples.items():
        dims = [-1 if axis in free.get(name, ()) else size for axis, size in enumerate(sample.shape)]
        dtype = {torch.float32: "FP32", torch.int64: "INT64"}[sample.dtype]
        lines += ["", "[[inputs]]", f'name = "{name}"', f'dtype = "{dtype}"', f"dims = {dims}"]
    for name in outputs:
        lines += ["", "[[outputs]]", f'name = "{name}"']
    (folder / "wharf.toml").write_text("\n".join(lines) + "\n")


def save_export(network: Any, samples: Samples, free: FreeDims, outputs: tuple[str, ...], folder: Path) -> None:
    """Export `network` to `folder`/model.pt2; only the names of the outputs need a wharf.toml."""
    import torch

    program = torch.export.export(network, tuple(samples.values()), dynamic_shapes=_dynamic(free))
    torch.export.save(program, folder / "model.pt2")
    named = "".join(f'\n[[outputs]]\nname = "{name}"\n' for name in outputs)
    (folder / "wharf.toml").write_text(f'format = "torch_export"\n{named}')


def save_onnx(network: Any, samples: Samples, free: FreeDims, outputs: tuple[str, ...], folder: Path) -> None:
    """Export `network` to `folder`/model.onnx, weights inside; ONNX tells everything itself."""
    import torch

    torch.onnx.export(
        network,
        tuple(samples.values()),
        folder / "model.onnx",
        input_names=list(samples),
        output_names=list(outputs),
        dynamic_shapes=_dynamic(free),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _dynamic(free: FreeDims) -> dict[str, dict[int, Any]]:
    import torch

    # DYNAMIC lets the exporter find out which dims are equal and how long they may be (512 tokens for BERT).
    return {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in free.items()}
