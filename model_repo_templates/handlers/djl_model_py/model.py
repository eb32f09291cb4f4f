"""How friendly is a text, by the words that it holds: DJL Serving's model.py, which computes a whole batch at once.

`handle` is called without content once, to warm up, and then with one request or, by `batch_size` of
serving.properties, with several.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from djl_python import Input, Output


class Sentiment:
    """Words and their weights."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}
        self.weights: Any = None

    def load(self, properties: dict[str, Any]) -> None:
        """Read the lexicon; `properties` are those of the warm-up call."""
        lexicon = json.loads((Path(properties["model_dir"]) / "lexicon.json").read_text())
        self.words = {word: column for column, word in enumerate(lexicon)}
        self.weights = np.array(list(lexicon.values()), np.float64)

    def scores(self, texts: list[str]) -> list[float]:
        """Return a number from -1 to 1 a text: one product of matrices for all of them."""
        counts = np.zeros((len(texts), len(self.words)))
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                if word in self.words:
                    counts[row, self.words[word]] += 1
        scores: list[float] = np.tanh(counts @ self.weights / 4).round(3).tolist()
        return scores


_sentiment = Sentiment()


def handle(inputs: Input) -> Output | None:
    """Answer each request of a batch with its score; all of them share one status."""
    if inputs.is_empty():
        _sentiment.load(inputs.get_properties())
        return None
    texts = [item.get_as_json()["inputs"] for item in inputs.get_batches()]
    output = Output().add_property("Content-Type", "application/json")
    for index, score in enumerate(_sentiment.scores(texts)):
        answer = json.dumps(
            {"label": "POSITIVE" if score > 0 else "NEGATIVE" if score < 0 else "NEUTRAL", "score": score}
        )
        output.add(answer, batch_index=index if inputs.is_batch() else None)
    return output
