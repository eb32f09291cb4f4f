"""Tokenizers of three kinds, made here: bytes, word pieces, and pieces that fall back to bytes (as Llama's)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.workers.huggingface_folders import WORDS

BYTES = 256
END = BYTES  # the byte tokenizer's only special token


def byte_tokenizer() -> Any:
    """A token a byte, as GPT-2's vocabulary begins, and an end: any text can be spelled, and much that is none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({sign: number for number, sign in enumerate(signs)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="</s>")


def word_tokenizer() -> Any:
    """Whole words and pieces of words."""
    from transformers import BertTokenizer

    words = [*WORDS, "##s", "n", "'", "t", ".", "do", "s", "!"]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def fallback_tokenizer() -> Any:
    """Pieces with the blank before a word in them; what has none is spelled in bytes."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "</s>", *(f"<0x{number:02X}>" for number in range(BYTES)), "▁hello", "▁", "world", "▁re", "d"]
    made = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, [], byte_fallback=True))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<unk>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")


def save_bytes(folder: Path, name: str = "bytes") -> Path:
    """Write a tiny Llama that speaks in bytes, most of them no text, to a folder of its own."""
    import torch
    import transformers

    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(
        **sizes, intermediate_size=48, vocab_size=BYTES + 1, bos_token_id=END, eos_token_id=END, pad_token_id=END
    )
    network = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)
    network.save_pretrained(folder / name)
    byte_tokenizer().save_pretrained(folder / name)
    return folder / name
