"""A Hugging Face model split over the ranks of a group: each reads and holds its part of the layers (tensor parallel).

Who splits:

1. DeepSpeed, where the option `split = deepspeed` says so.
2. transformers, where it has a plan for the architecture (Llama, GPT-NeoX, Qwen and some 130 more).
3. A plan of ours (`_PLANS`): projections into attention and MLP by columns, those out of them by rows, so that a
   layer takes two all-reduces; embeddings and head stay whole.
4. DeepSpeed, where there is no plan or heads do not come out even, and it is installed.

What cannot be split is refused in words. Runs in a rank; `huggingface` and `djl_python.huggingface` call it. The GPU's
half (nccl) is unverified.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from serving.workers.dialects import deepspeed_split
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

    `device` is `cpu` or `cuda`; all ranks of the group must call this. Of `options`, `split` says by whom, the others
    are from_pretrained's. Raises `HandlerError` for what cannot be split, and `ModuleNotFoundError` for accelerate,
    which transformers wants for plans.
    """
    import transformers

    if task not in _CLASSES:
        raise HandlerError(
            f"The task '{task}' is not served by a group of {ranks} ranks, and {', '.join(_CLASSES)} are: set "
            "tensor_parallel_degree to 1, or bring a model.py."
        )
    trusts = {name: value for name, value in options.items() if name == "trust_remote_code"}
    config = transformers.AutoConfig.from_pretrained(folder, **trusts)
    is_by_deepspeed = _is_by_deepspeed(config, ranks, options.get("split"))
    options = {name: value for name, value in options.items() if name != "split"}
    _meet(device)
    loader = getattr(transformers, _CLASSES[task])
    if is_by_deepspeed:
        return deepspeed_split.split(loader.from_pretrained(folder, config=config, **options), ranks)
    import accelerate  # noqa: F401

    plan = _PLANS.get(config.model_type)
    rules = "auto" if plan is None else plan.full(_CLASSES[task])
    dealt = transformers.distributed.DistributedConfig(tp_size=ranks, tp_plan=rules)
    model = loader.from_pretrained(folder, config=config, distributed_config=dealt, **options).eval()
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


def _is_by_deepspeed(config: Any, ranks: int, split: str | None) -> bool:
    """Choose who splits; raises `HandlerError` where nobody can."""
    if split not in (None, "auto", "deepspeed"):
        raise HandlerError(f"The option split is '{split}' and wants auto or deepspeed.")
    wants = split == "deepspeed"
    refusal = _refusal(config, ranks)
    if (wants or refusal) and deepspeed_split.is_here():
        return True
    if wants:
        raise HandlerError("The option split is 'deepspeed', which is not installed here: use an image that has it.")
    if refusal:
        raise HandlerError(
            f"{refusal} Set tensor_parallel_degree to 1, or use an image with deepspeed, which may do it."
        )
    return False


def _refusal(config: Any, ranks: int) -> str:
    """Return why no plan can split this model, or nothing."""
    text = config.get_text_config()
    if not (config.model_type in _PLANS or getattr(text, "base_model_tp_plan", None)):
        return (
            f"A model of type '{config.model_type}' cannot be split over {ranks} ranks: neither transformers nor we "
            f"({', '.join(_PLANS)}) have a plan for it, and deepspeed is not installed here."
        )
    for name in _SHARED_OUT:
        count = getattr(text, name, None) or ranks
        if count % ranks:
            return (
                f"The model has {name} = {count}, which {ranks} ranks cannot share evenly, and deepspeed is not "
                "installed here."
            )
    return ""


def _meet(device: str) -> None:
    """Make the process group, as the environment of a rank says."""
    import torch
    import torch.distributed as dist

    if device != "cpu":
        torch.cuda.set_device(place(device))
    if not dist.is_initialized():
        dist.init_process_group("gloo" if device == "cpu" else "nccl")
