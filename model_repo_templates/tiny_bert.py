"""Tiny BERT: a text classifier as Hugging Face keeps it, with its tokenizer; two layers, random from a seed. 160 KB."""

from __future__ import annotations

import string
from pathlib import Path

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def vocabulary() -> dict[str, int]:
    """Return pieces and their numbers: letters and digits, at the start of a word and inside, spell any English."""
    letters = string.ascii_lowercase + string.digits
    pieces = (*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *string.punctuation)
    return {piece: number for number, piece in enumerate(pieces)}


def build_hf(folder: Path) -> None:
    """Write `tiny_bert_hf`: config.json, model.safetensors and the tokenizer's files."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer
    from transformers.utils.logging import disable_progress_bar

    pieces = vocabulary()
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        initializer_range=0.5,  # with BERT's own 0.02 every text would be half of each
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
    )
    disable_progress_bar()
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizer(vocab=pieces, model_max_length=config.max_position_embeddings).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone
