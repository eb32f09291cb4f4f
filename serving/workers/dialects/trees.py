"""XGBoost and LightGBM models as their libraries save them: rows of floats in, what `Booster.predict` returns out.

The file's first bytes tell whose it is, not its name: LightGBM's text begins with `tree`, a pickle (as SageMaker's
XGBoost scripts leave it under `xgboost-model`) with the byte 0x80, XGBoost's JSON and UBJSON with `{`. Predictions are
the library's own, as SageMaker's containers answer: probabilities for `binary:logistic` and `multi:softprob`, class
numbers for `multi:softmax`. Knows no channel; `main` calls `load` in the worker, and `sklearn` `xgboost_handler` for a
Booster inside a joblib file.
"""

from __future__ import annotations

import re
from typing import Any

from serving.workers.dialects.pickles import unpickle
from serving.workers.dialects.rows import (
    PREDICTIONS,
    RowsHandler,
    Tensors,
    missing,
    one_array,
    path_of,
    plain,
    spec,
    wanted_outputs,
)
from serving.workers.handler import HandlerError, Launch

_LIGHTGBM_MAGIC = b"tree"
_PICKLE_MAGIC = b"\x80"  # protocol 2 and later, the only ones of Python 3
_AGAIN = "save it with booster.save_model('model.ubj') under the version that wrote it"


def load(launch: Launch) -> RowsHandler:
    """Load `launch.file`; raises `HandlerError` for a missing library and for a file that it cannot read."""
    wanted_outputs(launch, (PREDICTIONS,))
    path = path_of(launch)
    with open(path, "rb") as file:  # noqa: PTH123
        magic = file.read(len(_LIGHTGBM_MAGIC))
    if magic == _LIGHTGBM_MAGIC:
        return _load_lightgbm(launch, path)
    if magic.startswith(_PICKLE_MAGIC):
        return xgboost_handler(unpickle(launch, path), launch)
    return xgboost_handler(_read_xgboost(launch, path), launch)


def _read_xgboost(launch: Launch, path: str) -> Any:
    try:
        import xgboost
    except ImportError as fault:
        raise missing(launch, fault.name or "xgboost") from None
    booster = xgboost.Booster()
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            booster.load_model(bytearray(file.read()))  # from a path it would believe the suffix
    except xgboost.core.XGBoostError as fault:
        raise HandlerError(
            f"Model file '{launch.file}' is no model that xgboost {xgboost.__version__} reads ({_reason(fault)}): "
            f"{_AGAIN}; the binary format of old versions is gone since 3.1."
        ) from None
    return booster


def xgboost_handler(model: Any, launch: Launch) -> RowsHandler:
    """Serve a Booster, or the Booster of a scikit-learn wrapper; raises `HandlerError` for anything else."""
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    if type(booster).__module__.partition(".")[0] != "xgboost":
        raise HandlerError(
            f"Model file '{launch.file}' holds a {type(model).__name__} and an xgboost.Booster was wanted: {_AGAIN}."
        )
    import xgboost

    booster.set_param({"nthread": launch.threads})
    options: dict[str, Any] = {"nthread": launch.threads}
    if "c" in (booster.feature_types or ()):  # categories arrive as their codes
        options.update(feature_types=booster.feature_types, enable_categorical=True)
    limits: dict[str, Any] = {"validate_features": False}  # rows have no names
    best = booster.attr("best_iteration")
    if best is not None and _is_of_trees(booster):  # early stopping: the trees after it made it worse
        limits["iteration_range"] = (0, int(best) + 1)

    def predict(tensors: Tensors) -> Tensors:
        rows = xgboost.DMatrix(one_array(tensors), **options)
        return {PREDICTIONS: booster.predict(rows, **limits)}

    return RowsHandler(predict, [spec("x", "FP32", [-1, booster.num_features()])], [spec(PREDICTIONS, "FP32", None)])


def _is_of_trees(booster: Any) -> bool:
    return '"name":"gblinear"' not in booster.save_config().replace(" ", "")


def _load_lightgbm(launch: Launch, path: str) -> RowsHandler:
    try:
        import lightgbm
    except ImportError as fault:
        raise missing(launch, fault.name or "lightgbm") from None
    try:
        booster = lightgbm.Booster(model_file=path)
    except lightgbm.basic.LightGBMError as fault:
        raise HandlerError(
            f"Model file '{launch.file}' is no model that lightgbm {lightgbm.__version__} reads "
            f"({_reason(fault)}): save it again with booster.save_model."
        ) from None

    def predict(tensors: Tensors) -> Tensors:
        return {PREDICTIONS: plain(booster.predict(one_array(tensors), num_threads=launch.threads))}

    return RowsHandler(predict, [spec("x", "FP32", [-1, booster.num_feature()])], [spec(PREDICTIONS, "FP64", None)])


def _reason(fault: BaseException) -> str:
    """Return the first line without the time and the place in C++ before it."""
    return re.sub(r"^\[[\d:]+\] \S+: ", "", str(fault).strip().partition("\n")[0])
