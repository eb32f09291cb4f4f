"""A language model of one page: DJL Serving's model.py that streams, word after word, what may follow a word.

The stream is an iterator; each of its items becomes a line of JSON with the key `outputs` and goes out at once. A
client that leaves closes it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from djl_python import Input, Output

_followers: dict[str, list[str]] = defaultdict(list)


def handle(inputs: Input) -> Output | None:
    """Continue `inputs` by `max_new_tokens` words, the same ones for the same `seed`."""
    if inputs.is_empty():  # the call that warms up
        text = (Path(inputs.get_properties()["model_dir"]) / "corpus.txt").read_text()
        words = text.lower().replace(".", " .").split()
        for place, word in enumerate(words[1:]):
            _followers[words[place]].append(word)
        return None
    question = inputs.get_as_json()
    parameters = question.get("parameters", {})
    last = question["inputs"].lower().split()[-1]
    if last not in _followers:
        return Output().error(f"'{last}' is no word of the corpus: try 'the'.", code=400, message="unknown word")
    words = generate(last, parameters.get("max_new_tokens", 20), random.Random(parameters.get("seed", 0)))
    return Output().add_property("Content-Type", "application/jsonlines").add_stream_content(words)


def generate(word: str, count: int, dice: random.Random) -> Iterator[str]:
    """Yield `count` words, each one of those that follow the last one in the corpus; it begins anew at its end."""
    for _ in range(count):
        word = dice.choice(_followers.get(word) or list(_followers))
        yield word
