"""Keras' own files: `.keras` of Keras 3, and HDF5 of before; the whole model in one file, with its Python rebuilt.

Loaded in safe mode: a file whose layers carry code (Lambda) is refused. The model is traced once, for any number of
rows; inputs are named as it names them, outputs by its dict's keys or its layers. `main` calls `load` in the worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.workers.dialects.rows import missing, path_of
from serving.workers.dialects.savedmodel import import_tensorflow
from serving.workers.dialects.tensor_methods import DEFAULT, DTYPES, Method, MethodsHandler, Tensors, first_line
from serving.workers.handler import HandlerError, Launch

_MESSAGE_MAX_CHARS = 200  # of Keras' own, so that what to do follows it on one line
_PREDICT = "tensorflow/serving/predict"


def load(launch: Launch) -> MethodsHandler:
    """Load the file `launch.file`; raises `HandlerError` for what Keras cannot read or will not run."""
    path = path_of(launch)
    tf = import_tensorflow(launch)
    try:
        import keras
    except ImportError as fault:
        raise missing(launch, fault.name or "keras") from None
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        method = _method(tf, model)
    except HandlerError:
        raise
    except Exception as error:
        raise HandlerError(
            f"Model file '{launch.file}' cannot be loaded by keras {keras.__version__}: "
            f"{first_line(error)[:_MESSAGE_MAX_CHARS]}. It wants a whole model of Keras' own layers, "
            "saved by model.save('model.keras'); for others model.export(folder) "
            "makes a SavedModel."
        ) from None
    return MethodsHandler({DEFAULT: method}, DEFAULT, launch)


def _method(tf: Any, model: Any) -> Method:
    """Trace the model once; later calls pay for no Python of its layers."""
    given = list(model.inputs)
    names = _unique([str(each.name).partition(":")[0] for each in given], "input")
    labels = [str(each) for each in getattr(model, "output_names", None) or ()]
    kinds = [str(each.dtype) for each in given]
    wanted = [tf.TensorSpec(each.shape, kind, name) for each, kind, name in zip(given, kinds, names)]  # noqa: B905
    said = getattr(model, "input", None)  # a Sequential has none before its first call
    form = said if isinstance(said, Mapping) else given

    def call(*tensors: Any) -> Any:
        packed = tf.nest.pack_sequence_as(form, list(tensors))
        found = model(packed[0] if len(given) == 1 and form is given else packed, training=False)
        if isinstance(found, Mapping):
            return {str(name): each for name, each in found.items()}
        flat = tf.nest.flatten(found)
        return dict(zip(_unique(labels if len(labels) == len(flat) else [""] * len(flat), "output"), flat))  # noqa: B905

    traced = tf.function(call, input_signature=wanted, autograph=False)
    results = traced.get_concrete_function().structured_outputs

    def run(tensors: Tensors) -> Tensors:
        rows = [tf.constant(tensors[name], dtype=kind) for name, kind in zip(names, kinds)]  # noqa: B905
        return {name: value.numpy() for name, value in traced(*rows).items()}

    outputs = [_spec(name, each.dtype.name, each.shape) for name, each in sorted(results.items())]
    return Method(run, [_spec(each.name, each.dtype.name, each.shape) for each in wanted], outputs, _PREDICT)


def _unique(names: list[str], otherwise: str) -> list[str]:
    """Return the names, numbered ones where they are none or repeat."""
    is_good = all(names) and len(set(names)) == len(names)
    return names if is_good else [f"{otherwise}_{number}" for number in range(len(names))]


def _spec(name: str, dtype: str, shape: Any) -> dict[str, Any]:
    if dtype not in DTYPES:
        raise HandlerError(f"'{name}' is of type {dtype}, which does not travel: cast it inside the model.")
    dims = None if shape.rank is None else [-1 if dim is None else int(dim) for dim in shape]
    return {"name": name, "dtype": DTYPES[dtype], "dims": dims}
