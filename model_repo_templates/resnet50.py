"""ResNet-50: the convolutional network of 25.6 million weights, random from a seed; nothing is downloaded. 102 MB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FREE = {"x": (0,)}
OUTPUTS = ("logits",)


def network() -> Any:
    """Return the module, in eval mode: x float32 [batch, 3, 224, 224] to logits [batch, 1000]."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # A ResNetConfig as it comes is ResNet-50.
            self.network = ResNetForImageClassification(ResNetConfig(num_labels=1000))

        def forward(self, x: Any) -> Any:
            return self.network(x).logits

    torch.manual_seed(0)
    return Logits().eval()


def samples() -> dict[str, Any]:
    """Return two images of noise."""
    import torch

    return {"x": torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))}


def build_torchscript(folder: Path) -> None:
    """Write `resnet50_torchscript`."""
    from torch_formats import save_torchscript

    save_torchscript(network(), samples(), FREE, OUTPUTS, folder)


def build_export(folder: Path) -> None:
    """Write `resnet50_export`."""
    from torch_formats import save_export

    save_export(network(), samples(), FREE, OUTPUTS, folder)


def build_onnx(folder: Path) -> None:
    """Write `resnet50_onnx`."""
    from torch_formats import save_onnx

    save_onnx(network(), samples(), FREE, OUTPUTS, folder)
