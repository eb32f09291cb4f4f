"""TensorFlow's SavedModel, run as TensorFlow Serving does it: a session over the graph, a callable for each signature.

A session loads TensorFlow 1's and 2's models alike, needs none of the Python that made them, and a call of it costs
half of a restored function's (docs/tensorflow.md). Bodies are the server's business. `main` calls `load` in the worker,
which was forked from a zygote that has TensorFlow imported and ran nothing of it.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
from typing import Any

from serving.workers.dialects.graph_checks import check_graph, check_restored, tags_of
from serving.workers.dialects.rows import missing
from serving.workers.dialects.tensor_methods import (
    DTYPES,
    Method,
    MethodsHandler,
    Specs,
    Tensors,
    choose_default,
    first_line,
)
from serving.workers.handler import HandlerError, Launch

_log = logging.getLogger(__name__)

_NOT_FOR_CALLERS = "__saved_model"  # init and train operations, which are kept among the signatures


def load(launch: Launch) -> MethodsHandler:
    """Load the SavedModel whose saved_model.pb is `launch.file`.

    Options: `signature` is the default one, `tags` (with commas between) choose the graph. Raises `HandlerError` with
    what is wrong in words: no TensorFlow, unknown operations, missing variables, no signature.
    """
    methods, refused = _loaded(import_tensorflow(launch), launch)
    _trim()
    default = choose_default(methods, launch.options.get("signature", ""), refused, launch)
    for name, reason in refused.items():
        _log.warning("Signature '%s' of '%s' is not served: %s", name, launch.name, reason)
    return MethodsHandler(methods, default, launch)


def _loaded(tf: Any, launch: Launch) -> tuple[dict[str, Method], dict[str, str]]:
    """Return what can be called, and why other signatures cannot; the parsed graph is gone with this call."""
    from tensorflow.python.saved_model.loader_impl import SavedModelLoader

    folder = os.path.dirname(os.path.join(launch.folder, launch.file))  # noqa: PTH118, PTH120
    try:
        loader = SavedModelLoader(folder)
    except (OSError, ValueError) as error:
        raise _unreadable(launch, error) from None
    tags = tags_of(loader, launch)
    meta = loader.get_meta_graph_def_from_tags(tags)
    check_graph(tf, meta, folder, launch)
    session = tf.compat.v1.Session(graph=tf.Graph(), config=_config(tf, launch))
    try:
        with session.graph.as_default():
            saver, _ = loader.load_graph(session.graph, tags)
            loader.restore_variables(session, saver)
            loader.run_init_ops(session, tags)
    except Exception as error:
        raise _unreadable(launch, error) from error
    check_restored(tf, session, launch)
    signatures = {name: each for name, each in meta.signature_def.items() if not name.startswith(_NOT_FOR_CALLERS)}
    refused = {name: reason for name, each in signatures.items() if (reason := _fault(tf, each))}
    methods = {name: _method(tf, session, each) for name, each in signatures.items() if name not in refused}
    return methods, refused


def _trim() -> None:
    """Hand back what the load took and the model does not need: a quarter of a worker with MobileNetV2 (49 MiB)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)


def import_tensorflow(launch: Launch) -> Any:
    """Return the module, without a device that the worker may not use; raises `HandlerError` where it is not here."""
    try:
        import tensorflow as tf
    except ImportError as fault:
        raise missing(launch, fault.name or "tensorflow") from None
    # Before the first operation: later they cannot be changed. Other limits than these do not exist on the CPU: oneDNN
    # and Eigen run in this very pool.
    tf.config.threading.set_intra_op_parallelism_threads(launch.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if launch.device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    return tf


def _config(tf: Any, launch: Launch) -> Any:
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=launch.threads, inter_op_parallelism_threads=1)
    if launch.device == "cpu":
        config.device_count["GPU"] = 0
    config.gpu_options.allow_growth = True  # else one model takes the whole device
    return config


def _unreadable(launch: Launch, error: BaseException) -> HandlerError:
    return HandlerError(
        f"The SavedModel of '{launch.name}' cannot be loaded: {first_line(error)}. Copy the whole folder again, or "
        "export it again."
    )


def _fault(tf: Any, signature: Any) -> str:
    """Say why a signature cannot be served, nothing where it can."""
    if not signature.outputs:
        return "it has no outputs"
    for name, info in (*signature.inputs.items(), *signature.outputs.items()):
        if info.WhichOneof("encoding") != "name":
            return f"'{name}' is a sparse or composite tensor, and plain ones travel"
        if (dtype := _dtype(tf, info)) not in DTYPES:
            return f"'{name}' is of type {dtype}, which does not travel"
    return ""


def _dtype(tf: Any, info: Any) -> str:
    return str(tf.dtypes.as_dtype(info.dtype).name)


def _specs(tf: Any, infos: Any) -> Specs:
    return [
        {"name": name, "dtype": DTYPES[_dtype(tf, info)], "dims": _dims(info)} for name, info in sorted(infos.items())
    ]


def _dims(info: Any) -> list[int] | None:
    shape = info.tensor_shape
    return None if shape.unknown_rank else [max(-1, dim.size) for dim in shape.dim]


def _method(tf: Any, session: Any, signature: Any) -> Method:
    ins, outs = sorted(signature.inputs), sorted(signature.outputs)
    find = session.graph.get_tensor_by_name
    function = session.make_callable(
        [find(signature.outputs[name].name) for name in outs], [find(signature.inputs[name].name) for name in ins]
    )

    def run(tensors: Tensors) -> Tensors:
        return dict(zip(outs, function(*[tensors[name] for name in ins])))  # noqa: B905  3.9 has no strict

    narrow = {name: tf.bfloat16.as_numpy_dtype for name in ins if _dtype(tf, signature.inputs[name]) == "bfloat16"}
    return Method(run, _specs(tf, signature.inputs), _specs(tf, signature.outputs), signature.method_name, narrow)
