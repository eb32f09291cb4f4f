"""Tiny causal language models with seeded random weights and four attention heads, of every kind that tests split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.workers.huggingface_folders import WORDS

KINDS = ("gptj", "gpt_neox", "llama", "opt")
_LONG = 64


def save_causal(folder: Path, kind: str, *, tokenizer: bool = True, heads: int = 4) -> Path:
    """Write a model of that `model_type` to a folder of its own; without a tokenizer it takes token ids."""
    import torch
    import transformers

    torch.manual_seed(3)
    place = folder / (kind if tokenizer else kind + "-bare")
    network = transformers.AutoModelForCausalLM.from_config(_config(kind, heads))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)  # else all tokens are about as likely, and a wrong split chooses the same
    network.save_pretrained(place)
    if tokenizer:
        vocabulary = {word: number for number, word in enumerate(WORDS)}
        transformers.BertTokenizer(vocab=vocabulary).save_pretrained(place)
    return place


def _config(kind: str, heads: int) -> Any:
    import transformers

    common: dict[str, Any] = {"vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    if kind == "gptj":
        sizes = {"n_embd": 8 * heads, "n_layer": 2, "n_head": heads, "n_positions": _LONG, "rotary_dim": 4}
        return transformers.GPTJConfig(**common, **sizes)
    common |= {"hidden_size": 8 * heads, "num_hidden_layers": 2, "num_attention_heads": heads}
    common |= {"max_position_embeddings": _LONG}
    if kind == "opt":
        return transformers.OPTConfig(**common, ffn_dim=48, word_embed_proj_dim=8 * heads)
    if kind == "llama":
        return transformers.LlamaConfig(**common, intermediate_size=48, num_key_value_heads=2)
    if kind == "gpt2":
        return transformers.GPT2Config(vocab_size=len(WORDS), n_embd=8 * heads, n_layer=2, n_head=heads)
    return transformers.GPTNeoXConfig(**common, intermediate_size=48)
