"""The text of tokens that come one by one: pieces that are whole characters, and together what all tokens decode to.

One token may be half a character, and may change how those before it are spelled; so a few tokens are decoded again
with each new one, and of the text only what can change no more is given away. Knows a tokenizer's `decode` and nothing
else of it; `huggingface_tokens` calls it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

# What bytes that are no character (yet) decode to. Where a tokenizer falls back to bytes, an unfinished character makes
# such signs of whole ones before it too, until it is finished.
_UNFINISHED = re.compile("\ufffd+$")
# What transformers' clean_up_tokenization may still join to what follows: " n ' t" becomes "n't", " ." ".".
_LOOSE = re.compile(" n? ?'? ?[vr]?$")


class TokenTexts:
    """`decode` turns ids into text; `is_cleaned` says that it removes blanks before punctuation.

    `before` are tokens that these continue, whose text is not told: the first word then has the blank before it.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], *, is_cleaned: bool = False, before: Sequence[int] = ()
    ) -> None:
        self._decode = decode
        self._is_cleaned = is_cleaned
        self._ids = list(before)  # what is decoded again
        self._fresh = len(self._ids)  # where those begin that were not yet there when all was given away last
        self._given = len(decode(self._ids)) if before else 0  # characters of their text

    def add(self, token: int) -> str:
        """Return what is new in the text, which may be nothing, or that of several tokens."""
        self._ids.append(token)
        text = self._decode(self._ids)
        end = len(text) - self._unsettled(text)
        piece = text[self._given : end]
        self._given = max(self._given, end)
        if end == len(text) and piece:  # special tokens are no text, and a first word has no blank before it
            rest = self._ids[self._fresh :]
            text = self._decode(rest)
            if not self._unsettled(text):  # by itself, without what was before it
                self._ids, self._fresh, self._given = rest, len(rest), len(text)
        return piece

    def rest(self) -> str:
        """Return what was held back, when no token comes any more: half a character is told as what it is."""
        return self._decode(self._ids)[self._given :]

    def _unsettled(self, text: str) -> int:
        """Return how many characters at the end may still become others."""
        loose = _UNFINISHED.search(text) or (_LOOSE.search(text) if self._is_cleaned else None)
        return len(loose[0]) if loose else 0
