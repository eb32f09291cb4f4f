"""SavedModels and Keras files: each in a worker of its own, forked from a zygote that has TensorFlow imported.

TensorFlow gives no memory back while its process lives, so the process is what is unloaded. A zygote beside the other:
models of torch do not pay for TensorFlow's import (3 s and 230 MiB), and those of TensorFlow pay it once. What a worker
does with its model is its dialect's; this room only says what it costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from serving.backends.base import Footprint
from serving.backends.worker import WorkerBackend, WorkerSettings
from serving.repository.layouts import ModelSpec
from serving.repository.plain_files import KERAS
from serving.repository.saved_model_layout import SAVED_MODEL
from serving.workers.environments import Environments

_PRELOAD = ("numpy", "tensorflow")
_ENVIRON = {
    # A worker's import and its graph say what oneDNN and the CPU have, 300 characters for each model.
    "TF_CPP_MIN_LOG_LEVEL": "1",
    # One model must not take the whole device.
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "KERAS_BACKEND": "tensorflow",
}
# Beside a worker's own and its weights: a session, its threads and their arenas (4 to 8 MiB measured); in the worker of
# a Keras file also the model's Python and its trace (18).
_SESSION_BYTES = {SAVED_MODEL: 8 << 20, KERAS: 24 << 20}
# A byte of a graph becomes so many in a session (49 to 54 measured, Keras' MobileNetV2 and ResNet-50). What is larger
# than such graphs has its weights inside, and those are bytes of the files.
_GRAPH_FACTOR, _GRAPH_MAX_BYTES = 50, 4 << 20


class TensorFlowBackend(WorkerBackend):
    """The backend of format "tensorflow"."""

    name = "tensorflow"

    def __init__(self, settings: WorkerSettings, environments: Environments, environ: Mapping[str, str]) -> None:
        super().__init__(replace(settings, preload=_PRELOAD), environments, _ENVIRON | dict(environ))

    def footprint(self, spec: ModelSpec) -> Footprint:
        """Predict from the size of the files, for each of the first workers, and what a session takes besides."""
        found, handler = super().footprint(spec), spec.handler
        if handler is None or handler.memory_bytes:
            return found
        more = _SESSION_BYTES.get(handler.dialect, _SESSION_BYTES[KERAS])
        if handler.dialect == SAVED_MODEL:
            more += _GRAPH_FACTOR * min(spec.file.stat().st_size, _GRAPH_MAX_BYTES)
        more *= handler.min_workers or self._settings.min_workers
        return replace(found, peak_bytes=found.peak_bytes + more, resident_bytes=found.resident_bytes + more)
