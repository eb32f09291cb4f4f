"""Diabetes: progression of the disease after a year from ten measures, a ridge regression. 1 KB."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def split() -> tuple[Any, Any, Any, Any]:
    """Return training rows, held-out rows [89, 10] (standardised), training and held-out progression (25 to 346)."""
    from sklearn.datasets import load_diabetes
    from sklearn.model_selection import train_test_split

    rows, progression = load_diabetes(return_X_y=True)
    return tuple(train_test_split(rows, progression, test_size=0.2, random_state=0))


def build(folder: Path) -> None:
    """Write `diabetes_onnx`."""
    from onnx_formats import save_sklearn
    from sklearn.linear_model import Ridge

    rows, _, progression, _ = split()
    save_sklearn(Ridge(alpha=0.1).fit(rows, progression), 10, folder)
