"""Triton's `model_warmup`: samples that run after a load, before the model is ready.

A sample that fails is a load that fails. The runs are nobody's requests: they are counted nowhere. A worker model gets
as many at once as it has instances, so that each has its turn; whoever takes raw bodies is not warmed up. `server`
puts this around the backends, outside of `reshaped` and inside of whoever merges requests.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

from serving.backends.base import LoadedModel
from serving.backends.wrapping import WrappedBackend
from serving.errors import InsufficientMemoryError, LoadFailedError, ServingError
from serving.logs import quoted
from serving.repository import limits
from serving.repository.layouts import ModelSpec
from serving.repository.warmup import WarmupSample
from serving.tensors import Tensors

log = logging.getLogger("wharf.backends.warmed")


class WarmedBackend(WrappedBackend):
    """A backend whose models may have samples to run first."""

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Make the model ready and run its samples; raises `LoadFailedError` that names one that fails."""
        model = self.inner.load(spec)
        try:
            _warm(spec, model)
        except BaseException:
            model.close()
            raise
        return model


def _warm(spec: ModelSpec, model: LoadedModel) -> None:
    if spec.warmup and model.takes_bodies:
        log.warning("event=not_warmed model=%s reason=takes_raw_bodies", quoted(spec.name))
        return
    for sample in spec.warmup:
        began = time.monotonic()
        try:
            tensors = model.signature.check(sample.tensors())
            _run(sample, model, tensors, _at_once(spec, model))
        except InsufficientMemoryError:
            raise
        except ServingError as error:
            raise LoadFailedError(
                f"Model '{spec.name}' failed on the sample {limits.quoted(sample.name)} of its model_warmup: "
                f"{error.message}"
            ) from error
        log.info("event=warmed model=%s sample=%s duration_s=%.2f", quoted(spec.name), quoted(sample.name),
                 time.monotonic() - began)  # fmt: skip


def _at_once(spec: ModelSpec, model: LoadedModel) -> int:
    workers = spec.handler.min_workers if spec.handler is not None else None
    return max(1, workers or 1) if model.is_outside else 1


def _run(sample: WarmupSample, model: LoadedModel, tensors: Tensors, at_once: int) -> None:
    for _ in range(sample.count):
        if at_once == 1:
            model.run(tensors)
            continue
        with ThreadPoolExecutor(at_once, "warm-up") as threads:
            for run in [threads.submit(model.run, tensors) for _ in range(at_once)]:
                run.result()
