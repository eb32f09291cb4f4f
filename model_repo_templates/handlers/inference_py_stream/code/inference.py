"""A forecast that is sent step by step: SageMaker's inference.py with a transform_fn that streams.

What is yielded goes out at once. A client that leaves closes the generator. What fails before the first line is an
error with a status; what fails later breaks the stream off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from operator import mul
from pathlib import Path
from typing import Any


def model_fn(model_dir: str) -> dict[str, Any]:
    """Load the weights: each value is `constant` plus the last values, the newest first, times `coefficients`."""
    weights: dict[str, Any] = json.loads((Path(model_dir) / "model.json").read_text())
    return weights


def transform_fn(model: dict[str, Any], body: str, content_type: str, accept: str) -> tuple[Iterator[str], str]:
    """Forecast `steps` values after `history`: an event each where the client asks for events, else a line of JSON."""
    if not content_type.startswith("application/json"):
        raise ValueError(f"The Content-Type is {content_type!r}: send application/json.")
    question = json.loads(body)
    lines = (json.dumps(step) for step in forecast(model, question["history"], question["steps"]))
    if accept.startswith("text/event-stream"):
        return (f"data: {line}\n\n" for line in lines), "text/event-stream"
    return (f"{line}\n" for line in lines), "application/jsonlines"


def forecast(model: dict[str, Any], history: list[float], steps: int) -> Iterator[dict[str, Any]]:
    """Yield one value after the other; each needs those before it."""
    order = len(model["coefficients"])
    if len(history) < order:
        raise ValueError(f"history has {len(history)} values: send at least {order}.")
    newest = history[: -order - 1 : -1]
    for step in range(1, steps + 1):
        value = model["constant"] + sum(map(mul, model["coefficients"], newest))
        newest = [value, *newest[:-1]]
        yield {"step": step, "value": round(value, 4)}
