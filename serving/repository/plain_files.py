"""Model files that need a Python library to load: which name is whose, by names alone.

scikit-learn's pickles, XGBoost's, LightGBM's and Keras' own files, and folders in the manner of Hugging Face. Nothing
is opened here, least of all unpickled: that is for the model's worker. `folders` asks what counts as a model,
`handlers` which dialect of `workers` runs it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

SKLEARN, TREES, KERAS, HUGGING_FACE = "sklearn", "trees", "keras", "huggingface"

_SKLEARN_SUFFIXES = (".joblib", ".pkl", ".pickle", ".skops")
_TREES_SUFFIXES = (".ubj", ".xgb", ".bst", ".lgb")

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")

SUFFIXES = (*_SKLEARN_SUFFIXES, *_TREES_SUFFIXES, *KERAS_SUFFIXES)
"""Endings of files that are models by themselves."""

# What SageMaker's, Triton's and the libraries' own examples call them; `.json` and `.txt` alone tell nothing.
_TREES_NAMES = frozenset(
    ("xgboost-model", "model.json", "xgboost.json", "xgboost.model", "model.txt", "lightgbm-model")
)

_HUGGING_FACE_CONFIG = "config.json"
_HUGGING_FACE_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def plain_dialect(name: str) -> str | None:
    """Return the dialect that loads a file of this name: "sklearn", "trees", "keras", or None for any other."""
    if name.endswith(_SKLEARN_SUFFIXES):
        return SKLEARN
    if name.endswith(KERAS_SUFFIXES):
        return KERAS
    return TREES if name in _TREES_NAMES or name.endswith(_TREES_SUFFIXES) else None


def is_preferred(name: str) -> bool:
    """Say whether a file's name says that it is the model among several: `model.*`, or a library's own name."""
    return name.startswith("model.") or name in _TREES_NAMES


def hugging_face_weights(names: Iterable[str]) -> list[str]:
    """Return the weights among the names of a folder that transformers loads, none where it has no config.json."""
    found = list(names)
    if _HUGGING_FACE_CONFIG not in found:
        return []
    return [name for name in found if any(fnmatch.fnmatchcase(name, each) for each in _HUGGING_FACE_WEIGHTS)]
