"""scikit-learn estimators and pipelines from joblib, pickle and skops files: rows in, `predict` out.

Knows what such files hold in the wild: pipelines over text (BYTES in), over the named columns of a data frame (one
input a column), classifiers with string labels, models of another scikit-learn version, XGBoost's and LightGBM's
wrappers. What a model answers is `predictions`; `probabilities` come along where the option `outputs` names them.
Knows no channel and no codec, and leaves the file to `pickles`; `main` calls `load`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from serving.workers.dialects.pickles import unpickle
from serving.workers.dialects.rows import (
    PREDICTIONS,
    PROBABILITIES,
    RowsHandler,
    Tensors,
    decode_texts,
    missing,
    one_array,
    path_of,
    plain,
    spec,
    wanted_outputs,
)
from serving.workers.handler import HandlerError, Launch

_NAMELESS = "X does not have valid feature names"


def load(launch: Launch) -> RowsHandler:
    """Load `launch.file`; raises `HandlerError` for a missing module, a class that is gone, or no model."""
    path = path_of(launch)
    model = unpickle(launch, path)
    if type(model).__module__.startswith("xgboost.core"):
        from serving.workers.dialects import trees

        return trees.xgboost_handler(model, launch)
    if not hasattr(model, "predict"):
        raise HandlerError(
            f"Model file '{launch.file}' holds a {type(model).__name__} and something with predict() was wanted: "
            "save the fitted estimator or pipeline itself, or bring an inference.py that knows what to do with it."
        )
    outputs = wanted_outputs(launch, (PREDICTIONS, PROBABILITIES))
    if PROBABILITIES in outputs and not hasattr(model, "predict_proba"):
        raise HandlerError(
            f"Model '{launch.name}' ({type(model).__name__}) has no predict_proba() and the option outputs asks for "
            "probabilities: leave them out, or train it with probabilities."
        )
    _bound_jobs(model, launch.threads)
    return RowsHandler(_predictor(model, launch, outputs), _inputs(model), _outputs(model, outputs))


def _bound_jobs(model: Any, threads: int) -> None:
    """Give every n_jobs the worker's threads: -1 is all cores of the machine, and processes in a ColumnTransformer."""
    parts: list[Any] = [model, getattr(model, "best_estimator_", None)]
    for part in (part for part in parts if hasattr(part, "get_params")):
        found = part.get_params(deep=True)
        jobs = [name for name in found if name.rpartition("__")[2] == "n_jobs" and found[name] not in (None, 1)]
        if jobs:
            part.set_params(**dict.fromkeys(jobs, threads))


# --- what it takes and gives


def _predictor(model: Any, launch: Launch, outputs: tuple[str, ...]) -> Callable[[Tensors], Tensors]:
    rows_of = _reader(model, launch)
    methods = {PREDICTIONS: "predict", PROBABILITIES: "predict_proba"}

    def predict(tensors: Tensors) -> Tensors:
        rows = rows_of(tensors)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _NAMELESS)
            return {name: _answer(getattr(model, methods[name])(rows)) for name in outputs}

    return predict


def _answer(found: Any) -> Any:
    """Return the answer as an array; a list of arrays (probabilities of several targets) becomes [n, targets, k]."""
    if not isinstance(found, list):
        return plain(found)
    import numpy as np

    if len({np.shape(each) for each in found}) > 1:
        raise HandlerError(
            "The model's targets have different numbers of classes, so that their probabilities are no array: "
            "leave them out of the option outputs."
        )
    return plain(np.stack(found, axis=1))


def _reader(model: Any, launch: Launch) -> Callable[[Tensors], Any]:
    """Return what turns named arrays into what the model was fitted on: a frame, a list of texts, an array."""
    names = list(getattr(model, "feature_names_in_", ()))
    if names and (frame := _frame_class()):
        return lambda tensors: _frame(frame, names, tensors)
    if _is_mixed(model):
        raise missing(launch, "pandas")
    if _reads_texts(model):
        return lambda tensors: decode_texts(one_array(tensors)).reshape(-1)
    return lambda tensors: decode_texts(one_array(tensors))


def _frame_class() -> Any:
    try:
        from pandas import DataFrame
    except ImportError:
        return None
    return DataFrame


def _frame(frame: Any, names: list[str], tensors: Tensors) -> Any:
    if set(tensors) == set(names):
        return frame({name: decode_texts(tensors[name]).reshape(-1) for name in names}, columns=names)
    rows = decode_texts(one_array(tensors))
    if rows.ndim != 2 or rows.shape[1] != len(names):
        raise HandlerError(f"The rows have shape {list(rows.shape)} and the model wants the columns {names}.", 400)
    return frame(rows, columns=names)


def _first_step(model: Any) -> Any:
    model = getattr(model, "best_estimator_", model)
    steps = getattr(model, "steps", None)
    return _first_step(steps[0][1]) if steps else model


def _reads_texts(model: Any) -> bool:
    """Say whether the first step is one of scikit-learn's text vectorizers."""
    return type(_first_step(model)).__name__ in ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer")


def _is_mixed(model: Any) -> bool:
    """Say whether the model takes named columns and some hold texts or categories."""
    if not hasattr(model, "feature_names_in_"):
        return False
    parts = [_first_step(part) for _, part, _ in getattr(_first_step(model), "transformers_", ())]
    return any(_reads_texts(part) or _has_text_categories(part) for part in parts)


def _has_text_categories(part: Any) -> bool:
    return any(getattr(each, "dtype", None) is not None and each.dtype.kind in "OSU" for each in _categories(part))


def _categories(part: Any) -> Any:
    found = getattr(part, "categories_", ())
    return found if isinstance(found, (list, tuple)) else ()


def _inputs(model: Any) -> list[dict[str, Any]] | None:
    if _is_mixed(model):
        return [spec(str(name), None, [-1]) for name in model.feature_names_in_]
    if _reads_texts(model):
        return [spec("x", "BYTES", [-1])]
    width = getattr(model, "n_features_in_", None)
    if width is None:
        return None
    return [spec("x", None if _has_text_categories(_first_step(model)) else "FP64", [-1, int(width)])]


def _outputs(model: Any, names: tuple[str, ...]) -> list[dict[str, Any]]:
    kind = getattr(getattr(model, "classes_", None), "dtype", None)
    dtype = {"O": "BYTES", "U": "BYTES", "S": "BYTES", "i": "INT64", "u": "INT64"}.get(getattr(kind, "kind", ""))
    return [spec(name, dtype if name == PREDICTIONS else None, None) for name in names]
