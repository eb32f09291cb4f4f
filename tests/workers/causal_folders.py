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

    place = folder / (kind if tokenizer else kind + "-bare")
    torch.manual_seed(3)
    _save(transformers.AutoModelForCausalLM.from_config(_config(kind, heads)), place)
    if tokenizer:
        vocabulary = {word: number for number, word in enumerate(WORDS)}
        transformers.BertTokenizer(vocab=vocabulary).save_pretrained(place)
    return place


def save_uneven(folder: Path, kind: str) -> Path:
    """Write a model that no plan can split over two ranks, without a tokenizer."""
    import torch
    import transformers as library

    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    words = {"vocab_size": len(WORDS)}
    made: Any
    if kind == "gptj":
        made = library.GPTJForCausalLM(_config(kind, 3))
    elif kind == "llama":
        made = library.LlamaForCausalLM(library.LlamaConfig(**words, **sizes, num_key_value_heads=1))
    elif kind == "gpt_neo":
        types = [[["global", "local"], 1]]
        layers = {"hidden_size": 32, "num_layers": 2, "num_heads": 4}
        made = library.GPTNeoForCausalLM(library.GPTNeoConfig(**words, **layers, attention_types=types))
    elif kind == "persimmon":
        made = library.PersimmonForCausalLM(library.PersimmonConfig(**words, **sizes))
    else:
        made = library.BertForSequenceClassification(library.BertConfig(**words, **sizes))
    return _save(made, folder / kind)


def _save(network: Any, place: Path) -> Path:
    import torch

    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)  # else all tokens are about as likely, and a wrong split chooses the same
    network.save_pretrained(place)
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
