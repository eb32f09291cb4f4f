"""Iris: three kinds of flower from four lengths, a scaled logistic regression. 1 KB."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def split() -> tuple[Any, Any, Any, Any]:
    """Return training rows, held-out rows [45, 4] in cm, training labels, held-out labels (0, 1, 2)."""
    from sklearn.datasets import load_iris
    from sklearn.model_selection import train_test_split

    rows, labels = load_iris(return_X_y=True)
    return tuple(train_test_split(rows, labels, test_size=0.3, random_state=0, stratify=labels))


def build(folder: Path) -> None:
    """Write `iris_onnx`."""
    from onnx_formats import save_sklearn
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, _, labels, _ = split()
    save_sklearn(make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels), 4, folder)
