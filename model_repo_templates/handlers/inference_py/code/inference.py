"""Iris by the nearest centroid: SageMaker's inference.py with the four functions of the inference toolkit.

Each may take one argument more, the context. One that you leave out is the toolkit's own.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np


def model_fn(model_dir: str) -> dict[str, Any]:
    """Load the weights, once a worker: `centroids` [3, 4] in cm and `names` [3]."""
    with np.load(Path(model_dir) / "centroids.npz") as weights:
        return dict(weights)


def input_fn(body: str, content_type: str) -> Any:
    """Return the rows [n, 4] of a body: CSV, or JSON with `instances`."""
    if content_type.startswith("text/csv"):
        return np.loadtxt(io.StringIO(body), delimiter=",", ndmin=2)
    if content_type.startswith("application/json"):
        return np.array(json.loads(body)["instances"], np.float64)
    raise ValueError(f"The Content-Type is {content_type!r}: send application/json or text/csv.")


def predict_fn(rows: Any, model: dict[str, Any]) -> list[str]:
    """Name the flower whose centroid is the nearest, for each row."""
    distances = np.linalg.norm(rows[:, None] - model["centroids"], axis=-1)
    names: list[str] = model["names"][distances.argmin(axis=1)].tolist()
    return names


def output_fn(names: list[str], accept: str) -> tuple[str, str]:
    """Return the body and its type: a name a line where CSV is asked for, else JSON."""
    if accept.startswith("text/csv"):
        return "\n".join(names), "text/csv"
    return json.dumps({"predictions": names}), "application/json"
