"""Texts of tokens that come one by one: whole characters, and together what all the tokens decode to."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from serving.workers.dialects.token_texts import TokenTexts
from tests.workers.spellings import byte_tokenizer, fallback_tokenizer, word_tokenizer

pytest.importorskip("transformers")

TEXTS = ("plain words", "é", "grüß Gott, 日本 und 🏠🏠!", " blank before", "e\u0301 joined", "𝄞")
MAKERS = {"bytes": byte_tokenizer, "words": word_tokenizer}


def spelled(ids: list[int], tokenizer: Any, **how: Any) -> tuple[list[str], str]:
    """Return the pieces of tokens that come one by one, and what they all decode to."""
    texts = TokenTexts(lambda some: str(tokenizer.decode(some, skip_special_tokens=True, **how)), is_cleaned=bool(how))
    return [texts.add(each) for each in ids], str(tokenizer.decode(ids, skip_special_tokens=True, **how))


@pytest.mark.parametrize("text", TEXTS)
def test_characters_of_several_tokens_come_whole(text: str) -> None:
    """With their last byte; never a sign for something broken."""
    tokenizer = byte_tokenizer()
    pieces, whole = spelled(tokenizer.encode(text, add_special_tokens=False), tokenizer)
    assert ("".join(pieces), whole) == (text, text)
    assert len(pieces) == len(text.encode())
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("seed", range(20))
def test_whatever_tokens_come_their_pieces_begin_the_whole_text(kind: str, seed: int) -> None:
    """Bytes that are no text, special tokens and half words among them; only signs of broken ones are held back."""
    tokenizer = MAKERS[kind]()
    draw = random.Random(seed)
    ids = [draw.randrange(len(tokenizer)) for _ in range(200)]
    pieces, whole = spelled(ids, tokenizer)
    told = "".join(pieces)
    assert whole.startswith(told)
    assert whole[len(told) :].strip("\ufffd") == ""


@pytest.mark.parametrize("seed", range(20))
def test_characters_that_a_tokenizer_spells_in_bytes_come_whole(seed: int) -> None:
    """Between its pieces; of bytes that are no character it would spoil the good ones before them as well."""
    tokenizer = fallback_tokenizer()
    draw = random.Random(seed)
    pieces = [[token] for token in range(len(tokenizer) - 5, len(tokenizer))]
    drawn = [draw.choice(pieces) if draw.random() < 0.5 else _bytes(draw.choice("aé日🏠")) for _ in range(100)]
    found, whole = spelled([token for each in drawn for token in each], tokenizer)
    assert "".join(found) == whole
    assert "\ufffd" not in whole


def _bytes(character: str) -> list[int]:
    return [2 + byte for byte in character.encode()]


def test_a_word_after_special_tokens_keeps_its_blank() -> None:
    """They are decoded to nothing, and a text does not begin with them anew."""
    tokenizer = word_tokenizer()
    ids = [5, 0, 4, 6]
    assert spelled(ids, tokenizer) == (["hello", "", "", " world"], "hello world")


def test_what_continues_a_text_has_the_blank_after_it() -> None:
    """The text that is continued is not told again."""
    tokenizer = word_tokenizer()
    texts = TokenTexts(lambda some: str(tokenizer.decode(some, skip_special_tokens=True)), before=[2, 5])
    assert [texts.add(each) for each in (6, 7)] == [" world", " where"]


@pytest.mark.parametrize("words", ["do n ' t", "hello . it ' s it", "the world s n", "it '", "do n"])
def test_a_blank_that_may_be_cleaned_away_is_held_back(words: str) -> None:
    """What was given away stays true ("do n" may become "don't"), and the rest is what might have changed."""
    tokenizer = word_tokenizer()
    table = tokenizer.get_vocab()
    names = {number: word for word, number in table.items()}

    def decode(ids: list[int]) -> str:
        return str(tokenizer.clean_up_tokenization(" ".join(names[each] for each in ids)))

    texts = TokenTexts(decode, is_cleaned=True)
    ids = [table[word] for word in words.split()]
    told = "".join(texts.add(each) for each in ids)
    assert decode(ids).startswith(told)
    assert len(decode(ids)) - len(told) <= 4


@pytest.mark.parametrize("seed", range(60))
def test_blanks_that_are_cleaned_away_take_no_letter_with_them(seed: int) -> None:
    """Apostrophes, points and half words in any order."""
    tokenizer = word_tokenizer()
    draw = random.Random(seed)
    ids = [draw.randrange(len(tokenizer)) for _ in range(60)]
    pieces, whole = spelled(ids, tokenizer, clean_up_tokenization_spaces=True)
    assert whole.startswith("".join(pieces))


@pytest.mark.parametrize(
    ("text", "told", "rest"),
    [(b"A", "A", ""), (b"A\xe6\x97\xa5", "A日", ""), (b"A\xe6", "A", "\ufffd"), (b"AB\xe6", "AB", "\ufffd")],
)
def test_what_was_held_back_is_told_at_the_end(text: bytes, told: str, rest: str) -> None:
    """As what it is by then."""
    tokenizer = fallback_tokenizer()
    texts = TokenTexts(lambda some: str(tokenizer.decode(some)))
    assert "".join(texts.add(2 + byte) for byte in text) == told
    assert texts.rest() == rest


def test_few_tokens_are_decoded_again() -> None:
    """However long the text is."""
    longest = 0

    def decode(ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return "".join(f" {each}" for each in ids)

    texts: Callable[[int], str] = TokenTexts(decode).add
    assert "".join(texts(each) for each in range(1000)) == decode(list(range(5))) + "".join(
        f" {each}" for each in range(5, 1000)
    )
    assert longest <= 5
