"""A Hugging Face model split over the ranks of a group: each reads and holds its part of the layers (tensor parallel).

The split is transformers' own where it has a plan for the architecture (Llama, GPT-NeoX, Qwen and some 130 more), and
ours where it has none (`_PLANS`): projections into attention and MLP by columns, those out of them by rows, so that a
layer takes two all-reduces; embeddings and head stay whole. What cannot be split is refused before weights are read.
Runs in a rank; `huggingface` and `djl_python.huggingface` call it. The GPU's half (nccl) is unverified.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from serving.workers.handler import HandlerError

_IN, _OUT = "colwise", "rowwise"


@dataclass(frozen=True)
class _Plan:
    """`rules` are transformers' styles by the names of a layer's parts, `layers` where layers are below the base model.

    `prefix` is the base model's name in a model with a head. Attention counts the heads of this rank: `counts`.
    """

    prefix: str
    layers: str
    rules: dict[str, str]
    counts: tuple[str, ...]

    def full(self, auto_class: str) -> dict[str, str]:
        """Return the rules by their names from the top of a model of that class."""
        start = "" if auto_class == "AutoModel" else self.prefix + "."
        return {f"{start}{self.layers}.*.{name}": style for name, style in self.rules.items()}


# By config.json's model_type.
_PLANS = {
    "gptj": _Plan(
        "transformer",
        "h",
        dict.fromkeys(("attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.fc_in"), _IN)
        | dict.fromkeys(("attn.out_proj", "mlp.fc_out"), _OUT),
        ("num_attention_heads", "embed_dim"),
    ),
    "opt": _Plan(
        "model",
        "decoder.layers",
        dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "fc1"), _IN)
        | dict.fromkeys(("self_attn.out_proj", "fc2"), _OUT),
        ("num_heads", "embed_dim"),
    ),
}
# The tasks that run a model and nothing else, for which a part of it will do, and the class that loads it.
_CLASSES = {
    "text-generation": "AutoModelForCausalLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "feature-extraction": "AutoModel",
}
# What a plan deals out whole: heads always, and of the keys' as many as there are.
_SHARED_OUT = ("num_attention_heads", "num_key_value_heads")


def load_ranked(task: str, folder: str, ranks: int, device: str, options: dict[str, Any]) -> Any:
    """Return this rank's part of the model in `folder` for `task`, a module that answers like the whole one.

    `device` is `cpu` or `cuda`; all ranks of the group must call this. Raises `HandlerError` for what cannot be split,
    and `ModuleNotFoundError` for accelerate, which transformers wants for this.
    """
    import accelerate  # noqa: F401
    import transformers

    if task not in _CLASSES:
        raise HandlerError(
            f"The task '{task}' is not served by a group of {ranks} ranks, and {', '.join(_CLASSES)} are: set "
            "tensor_parallel_degree to 1, or bring a model.py."
        )
    trusts = {name: value for name, value in options.items() if name == "trust_remote_code"}
    config = transformers.AutoConfig.from_pretrained(folder, **trusts)
    _check(config, ranks)
    plan = _PLANS.get(config.model_type)
    _meet(device)
    rules = "auto" if plan is None else plan.full(_CLASSES[task])
    split = transformers.distributed.DistributedConfig(tp_size=ranks, tp_plan=rules)
    loader = getattr(transformers, _CLASSES[task])
    model = loader.from_pretrained(folder, config=config, distributed_config=split, **options).eval()
    if plan is None:
        return model
    for module in model.modules():
        if type(module).__name__.endswith("Attention"):
            for name in plan.counts:
                setattr(module, name, getattr(module, name) // ranks)
    return model


def place(device: str) -> str:
    """Return the device of this rank: its own of the group's GPUs."""
    return "cpu" if device == "cpu" else f"cuda:{os.environ['LOCAL_RANK']}"


def _check(config: Any, ranks: int) -> None:
    text = config.get_text_config()
    if not (config.model_type in _PLANS or getattr(text, "base_model_tp_plan", None)):
        raise HandlerError(
            f"A model of type '{config.model_type}' cannot be split over {ranks} ranks: neither transformers nor we "
            f"({', '.join(_PLANS)}) have a plan for it. Set tensor_parallel_degree to 1, or bring a model.py."
        )
    for name in _SHARED_OUT:
        count = getattr(text, name, None) or ranks
        if count % ranks:
            raise HandlerError(
                f"The model has {name} = {count}, which {ranks} ranks cannot share evenly: set tensor_parallel_degree "
                "to a divisor of it."
            )


def _meet(device: str) -> None:
    """Make the process group, as the environment of a rank says."""
    import torch
    import torch.distributed as dist

    if device != "cpu":
        torch.cuda.set_device(place(device))
    if not dist.is_initialized():
        dist.init_process_group("gloo" if device == "cpu" else "nccl")
