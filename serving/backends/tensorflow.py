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
from serving.workers.environments import Environments

_PRELOAD = ("numpy", "tensorflow")
_ENVIRON = {
    # A worker's import and its graph say what oneDNN and the CPU have, 300 characters for each model.
    "TF_CPP_MIN_LOG_LEVEL": "1",
    # One model must not take the whole device.
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "KERAS_BACKEND": "tensorflow",
}
# Of a worker without weights: its session, its threads and their arenas; measured, see docs/tensorflow.md.
_SESSION_BYTES = 40 << 20


class TensorFlowBackend(WorkerBackend):
    """The backend of format "tensorflow"."""

    name = "tensorflow"

    def __init__(self, settings: WorkerSettings, environments: Environments, environ: Mapping[str, str]) -> None:
        super().__init__(replace(settings, preload=_PRELOAD), environments, _ENVIRON | dict(environ))

    def footprint(self, spec: ModelSpec) -> Footprint:
        """Predict from the size of the files, for each of the first workers, and what a session takes besides."""
        found = super().footprint(spec)
        if spec.handler is not None and spec.handler.memory_bytes:
            return found
        count = max(1, (spec.handler.min_workers if spec.handler else None) or 1)
        more_bytes = count * _SESSION_BYTES
        return replace(
            found, peak_bytes=found.peak_bytes + more_bytes, resident_bytes=found.resident_bytes + more_bytes
        )
