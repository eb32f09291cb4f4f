"""BERT-base: the text encoder of 110 million weights with a two-class head, random from a seed. 438 MB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FREE = {"input_ids": (0, 1), "attention_mask": (0, 1)}
OUTPUTS = ("logits",)


def network() -> Any:
    """Return the module, in eval mode: input_ids and attention_mask int64 [batch, length] to logits [batch, 2]."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # A BertConfig as it comes is BERT-base; eager attention is what every exporter can follow.
            self.network = BertForSequenceClassification(BertConfig(num_labels=2, attn_implementation="eager"))

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.network(input_ids=input_ids, attention_mask=attention_mask).logits

    torch.manual_seed(0)
    return Logits().eval()


def samples() -> dict[str, Any]:
    """Return two texts of 16 tokens, the second padded after 10."""
    import torch

    ids = torch.randint(1000, 30000, (2, 16), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def build_torchscript(folder: Path) -> None:
    """Write `bert_base_torchscript`."""
    from torch_formats import save_torchscript

    save_torchscript(network(), samples(), FREE, OUTPUTS, folder)


def build_export(folder: Path) -> None:
    """Write `bert_base_export`."""
    from torch_formats import save_export

    save_export(network(), samples(), FREE, OUTPUTS, folder)


def build_onnx(folder: Path) -> None:
    """Write `bert_base_onnx`."""
    from torch_formats import save_onnx

    save_onnx(network(), samples(), FREE, OUTPUTS, folder)
