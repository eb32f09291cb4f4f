"""Iris: three kinds of flower from four lengths; scaled logistic regression, trees of two libraries. 1 to 92 KB."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def split() -> tuple[Any, Any, Any, Any]:
    """Return training rows, held-out rows [45, 4] in cm, training labels, held-out labels (0, 1, 2)."""
    from sklearn.datasets import load_iris
    from sklearn.model_selection import train_test_split

    rows, labels = load_iris(return_X_y=True)
    return tuple(train_test_split(rows, labels, test_size=0.3, random_state=0, stratify=labels))


def regression() -> Any:
    """Return the scaled regression, not fitted."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression())


def build(folder: Path) -> None:
    """Write `iris_onnx`."""
    from onnx_formats import save_sklearn

    rows, _, labels, _ = split()
    save_sklearn(regression().fit(rows, labels), 4, folder)


def build_sklearn(folder: Path) -> None:
    """Write `iris_sklearn`: the same regression as an object, its labels the names of the flowers."""
    import joblib
    from sklearn.datasets import load_iris

    rows, _, labels, _ = split()
    joblib.dump(regression().fit(rows, load_iris().target_names[labels]), folder / "model.joblib")


def build_xgboost(folder: Path) -> None:
    """Write `iris_xgboost`: 20 rounds of one tree a kind; on one thread, whose sums are the same every time."""
    import xgboost

    rows, _, labels, _ = split()
    parameters = {"objective": "multi:softprob", "num_class": 3, "max_depth": 3, "nthread": 1}
    xgboost.train(parameters, xgboost.DMatrix(rows, labels), 20).save_model(folder / "model.ubj")


def build_lightgbm(folder: Path) -> None:
    """Write `iris_lightgbm`: the same in LightGBM; 105 rows want smaller leaves than its default of 20."""
    import lightgbm

    rows, _, labels, _ = split()
    parameters = {"objective": "multiclass", "num_class": 3, "min_data_in_leaf": 5, "num_threads": 1, "verbose": -1}
    parameters |= {"deterministic": True, "seed": 0}
    lightgbm.train(parameters, lightgbm.Dataset(rows, labels), 20).save_model(folder / "model.txt")


def build_centroids(folder: Path) -> None:
    """Write the weights of `inference_py`: the mean of each kind's rows."""
    import numpy as np
    from sklearn.datasets import load_iris

    rows, _, labels, _ = split()
    centroids = [rows[labels == kind].mean(axis=0) for kind in range(3)]
    np.savez(folder / "centroids.npz", centroids=centroids, names=load_iris().target_names)
