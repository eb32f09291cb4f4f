"""The five networks of AWS' multi-model measurement, random from a seed, as TorchScript with what the CPU answers.

`build(name, folder, device)` traces on the device that will serve it (a trace keeps the device of what it makes
itself), and writes model.pt, wharf.toml, and question.json and answer.json for a check. `is_tiny` has the same layers,
fewer and narrower, to try the whole path. Called by `gpu` in a process of its own, so that no context of ours is in its
figures: python benchmarks/networks.py NAME FOLDER DEVICE [--tiny]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "model_repo_templates"))

# transformers' names of configuration and model, what makes it this network, and what makes it tiny.
NETWORKS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "resnet50": (
        "ResNetConfig",
        "ResNetForImageClassification",
        {"num_labels": 1000},
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    ),
    "convnext_base": (
        "ConvNextConfig",
        "ConvNextForImageClassification",
        {"num_labels": 1000, "depths": [3, 3, 27, 3], "hidden_sizes": [128, 256, 512, 1024]},
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]},
    ),
    "vit_large": (
        "ViTConfig",
        "ViTForImageClassification",
        {"num_labels": 1000, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
         "intermediate_size": 4096},
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    ),
    "bert_base": (
        "BertConfig",
        "BertForSequenceClassification",
        {"num_labels": 2},
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    ),
    "roberta_large": (
        "RobertaConfig",
        "RobertaForSequenceClassification",
        {"num_labels": 2, "vocab_size": 50265, "hidden_size": 1024, "num_hidden_layers": 24,
         "num_attention_heads": 16, "intermediate_size": 4096, "max_position_embeddings": 514, "type_vocab_size": 1},
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    ),
}  # fmt: skip
IMAGES = ("resnet50", "convnext_base", "vit_large")
# A text as the seed sends it: "This is a sample", padded to 128.
TOKENS, PADDED = 6, 128


def build(name: str, folder: Path, device: str, *, is_tiny: bool = False) -> None:
    """Write the network, a question and the CPU's answer to it."""
    import torch
    from torch_formats import save_torchscript

    network, samples = _network(name, is_tiny=is_tiny), _samples(name)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        answer = network(*samples.values())
    inputs = [
        {"name": key, "shape": list(each.shape), "datatype": _datatype(each), "data": each.flatten().tolist()}
        for key, each in samples.items()
    ]
    (folder / "question.json").write_text(json.dumps({"inputs": inputs}))
    (folder / "answer.json").write_text(json.dumps(answer.flatten().tolist()))
    there = {key: each.to(device) for key, each in samples.items()}
    save_torchscript(network.to(device), there, dict.fromkeys(samples, (0,)), ("logits",), folder)


def _network(name: str, *, is_tiny: bool) -> Any:
    import torch
    import transformers

    config_name, model_name, own, tiny = NETWORKS[name]
    # Eager attention is what tracing can follow; networks of convolutions have none.
    attention = {} if name in ("resnet50", "convnext_base") else {"attn_implementation": "eager"}
    config = getattr(transformers, config_name)(**own | (tiny if is_tiny else {}) | attention)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = getattr(transformers, model_name)(config)

    class Image(Logits):
        def forward(self, x: Any) -> Any:
            return self.network(x).logits

    class Text(Logits):
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.network(input_ids=input_ids, attention_mask=attention_mask).logits

    torch.manual_seed(0)
    return (Image if name in IMAGES else Text)().eval()


def _samples(name: str) -> dict[str, Any]:
    """Return one image of noise, or one padded text."""
    import torch

    noise = torch.Generator().manual_seed(1)
    if name in IMAGES:
        return {"x": torch.randn(1, 3, 224, 224, generator=noise)}
    padding = 1 if name == "roberta_large" else 0
    ids = torch.full((1, PADDED), padding)
    ids[0, :TOKENS] = torch.randint(1000, 30000, (TOKENS,), generator=noise)
    return {"input_ids": ids, "attention_mask": (torch.arange(PADDED) < TOKENS).long()[None]}


def _datatype(tensor: Any) -> str:
    return "FP32" if tensor.is_floating_point() else "INT64"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("device")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is ever downloaded
    warnings.simplefilter("ignore")
    build(options.name, options.folder, options.device, is_tiny=options.tiny)


if __name__ == "__main__":
    main()
