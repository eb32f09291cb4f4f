"""Who predicts where a script of TensorFlow Serving's container asks TensorFlow Serving: no such server runs.

1. The script's own `predict(data)`; 2. its `model_fn(folder)`; 3. the folder's SavedModel, through `savedmodel`, each
version loaded when it is first asked for, the highest at once; 4. its Keras file, through `keras`. Data are one array,
or arrays by input name. Knows neither JSON nor people's handlers; `tensorflow` chooses, `tensorflow_api` calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from serving.workers.dialects.sagemaker_defaults import predictor as model_predictor
from serving.workers.dialects.sagemaker_script import defined
from serving.workers.handler import HandlerError, Launch, Request

SERVING_DEFAULT = "serving_default"  # the signature that TensorFlow Serving takes where a request names none
KERAS_SUFFIXES = (".keras", ".h5")


class AskedWronglyError(ValueError):
    """A request that the model does not take; `status` is TensorFlow Serving's for it over HTTP."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Asked:
    """What is asked of a model: one array or arrays by input name, by a signature ("" for the default), of a version.

    `has_examples` says that the data are the bytes of `tf.Example`, for a model that takes those.
    """

    data: Any
    signature: str = ""
    version: str = ""
    has_examples: bool = False


Predict = Callable[[Asked], Any]
"""Returns one array, or arrays by output name; raises `AskedWronglyError`."""


@dataclass(frozen=True)
class Predictor:
    """Who predicts, and which versions it has: the highest first, none where there are no numbers."""

    predict: Predict
    versions: tuple[str, ...] = ()


def predictor(module: ModuleType, launch: Launch) -> Predictor | None:
    """Return who predicts for a script, None where there is nobody; raises what a SavedModel's load raises."""
    own, make = defined(module, "predict"), defined(module, "model_fn")
    if own is not None:
        return Predictor(_plain(own))
    if make is not None:
        return Predictor(_plain(model_predictor(make(launch.folder), launch.device)))
    folder = Path(launch.folder)
    saved = sorted(folder.rglob("saved_model.pb"), key=_version)
    if saved:
        return _saved_models(saved, launch)
    keras = next((path for path in sorted(folder.iterdir()) if path.suffix in KERAS_SUFFIXES), None)
    if keras is not None:
        from serving.workers.dialects.keras import load

        return Predictor(_Tensors(load(replace(launch, file=str(keras)))).predict)
    return None


def _plain(predict: Callable[[Any], Any]) -> Predict:
    """Return who predicts by a function of people's: it has no signatures and no versions.

    A script may post from several threads; its function is called by one at a time.
    """
    lock = threading.Lock()

    def run(asked: Asked) -> Any:
        if asked.has_examples:
            raise AskedWronglyError("The script's own model takes no tf.Examples: only the method predict is answered.")
        if asked.signature not in ("", SERVING_DEFAULT):
            raise AskedWronglyError(f"The model has no signature '{asked.signature}', only {SERVING_DEFAULT}.")
        with lock:
            return predict(asked.data)

    return run


def _version(saved: Path) -> tuple[int, str]:
    """Order versions as TensorFlow Serving does: the highest number serves."""
    name = saved.parent.name
    return (int(name) if name.isdecimal() else -1, name)


def _saved_models(found: list[Path], launch: Launch) -> Predictor:
    versions = {str(int(each.parent.name)): each for each in found if each.parent.name.isdecimal()}
    models = _Versions(versions, found[-1], launch)
    return Predictor(models.predict, tuple(reversed(versions)))


class _Versions:
    """The versions of a SavedModel, by number, and the one for who names none."""

    def __init__(self, files: Mapping[str, Path], newest: Path, launch: Launch) -> None:
        self._files = files
        self._launch = launch
        self._lock = threading.Lock()
        self._newest = newest
        self._loaded: dict[Path, _Tensors] = {}
        self._of(newest)

    def predict(self, asked: Asked) -> Any:
        """Answer by the version that is asked for."""
        file = self._files.get(asked.version) if asked.version else self._newest
        if file is None:
            raise AskedWronglyError(
                f"Servable not found for request: Specific({self._launch.name}, {asked.version}). There are the "
                f"versions {', '.join(self._files) or '(none)'}.",
                404,
            )
        return self._of(file).predict(asked)

    def _of(self, file: Path) -> _Tensors:
        with self._lock:
            if file not in self._loaded:
                from serving.workers.dialects.savedmodel import load

                self._loaded[file] = _Tensors(load(replace(self._launch, file=str(file))))
            return self._loaded[file]


class _Tensors:
    """A model of TensorFlow's dialects, asked by arrays."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def predict(self, asked: Asked) -> Any:
        """Have it answer; what it says of the request is an `AskedWronglyError`."""
        inputs = self._inputs(asked.signature)
        given = asked.data if isinstance(asked.data, Mapping) else self._named(asked.data, inputs)
        if set(given) != {each["name"] for each in inputs}:
            wanted = sorted(each["name"] for each in inputs)
            raise AskedWronglyError(f"The request has inputs {sorted(given)}, the model wants {wanted}.")
        tensors = {each["name"]: _cast(given[each["name"]], each["dtype"], each["name"]) for each in inputs}
        try:
            parameters = {"signature_name": asked.signature} if asked.signature else {}
            (reply,) = self._handler.call([Request(tensors=tensors, about={"parameters": parameters})])
        except HandlerError as error:
            if error.status != 400:
                raise
            raise AskedWronglyError(str(error)) from None
        return reply.tensors

    def _inputs(self, signature: str) -> list[dict[str, Any]]:
        known: dict[str, Any] = self._handler.signatures
        if signature and signature not in known:
            raise AskedWronglyError(
                f'Serving signature name: "{signature[:200]}" not found in signature def: the model has '
                f"{', '.join(sorted(known))}."
            )
        found: list[dict[str, Any]] = known[signature]["inputs"] if signature else self._handler.inputs
        return found

    @staticmethod
    def _named(data: Any, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if len(inputs) != 1:
            raise AskedWronglyError(f"The request names no input, the model wants {[each['name'] for each in inputs]}.")
        return {inputs[0]["name"]: data}


def _cast(array: Any, dtype: str, name: str) -> Any:
    """Return an array in the type of an input: numbers that it holds exactly enough, texts as bytes."""
    import numpy as np

    from serving.workers.dialects.tensor_methods import DTYPES

    if dtype == "BYTES":
        texts = [each.encode() if isinstance(each, str) else each for each in array.ravel().tolist()]
        if not all(isinstance(each, bytes) for each in texts):
            raise AskedWronglyError(f"Input '{name}' has values that are no texts: not of expected type: string")
        flat = np.empty(len(texts), object)
        flat[:] = texts
        return flat.reshape(array.shape)
    own = next(each for each, triton in reversed(DTYPES.items()) if triton == dtype)  # float32, before bfloat16
    wanted = np.dtype(own)
    is_number = array.dtype.kind in "iuf" and wanted.kind in "iuf"
    is_whole = wanted.kind == "f" or array.dtype.kind != "f" or bool((np.rint(array) == array).all())
    if array.size and not ((is_number and is_whole) or array.dtype.kind == wanted.kind):
        raise AskedWronglyError(f"Input '{name}' has values of type {array.dtype}: not of expected type: {own}")
    return array.astype(wanted)
