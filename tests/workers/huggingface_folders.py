"""Tiny Hugging Face folders with seeded random weights: one line of text makes a tokenizer, nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "hello",
    "world",
    "where",
    "is",
    "it",
    "in",
    "the",
    "red",
    "house",
]
_SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def save(folder: Path, architecture: str, *, tokenizer: bool = True) -> Path:
    """Write a model of that class with its tokenizer (or image processor) to `folder`/`architecture`."""
    import torch
    import transformers

    torch.manual_seed(0)
    place = folder / (architecture if tokenizer else architecture + "-bare")
    network: Any = getattr(transformers, architecture)(_config(architecture))
    network.save_pretrained(place)
    if architecture.startswith("ViT"):
        from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(place)
    elif tokenizer:
        vocabulary = {word: number for number, word in enumerate(WORDS)}
        transformers.BertTokenizer(vocab=vocabulary).save_pretrained(place)
    return place


def _config(architecture: str) -> Any:
    import transformers

    if architecture.startswith("GPT2"):
        return transformers.GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    if architecture.startswith("T5"):
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        return transformers.T5Config(vocab_size=len(WORDS), decoder_start_token_id=0, **sizes)
    if architecture.startswith("ViT"):
        return transformers.ViTConfig(image_size=32, patch_size=16, **_SIZES)
    return transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **_SIZES)
