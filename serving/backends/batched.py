"""Models in this process whose requests share runs: what config.pbtxt's scheduling asks for.

A `BatchedModel` is a `queued` one: inputs of a batch are joined along their first axis, the model runs once under the
core budget, the outputs are split by rows. Models without scheduling are not wrapped. `server` wraps the backends;
runtimes and wire formats are not known here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from serving.backends.base import Backend, LoadedModel
from serving.backends.queued import QueuedJob, QueuedModel
from serving.backends.wrapping import WrappedBackend
from serving.cores import CoreBudget
from serving.errors import BadRequestError, InsufficientMemoryError, ModelFailedError
from serving.repository.layouts import ModelSpec
from serving.repository.scheduling import Scheduling
from serving.statistics import Spent
from serving.tensors import Tensors
from serving.workers.handler import Reply


@dataclass(frozen=True, slots=True)
class _Times:
    """When the parts of a run began and ended, in nanoseconds of the monotonic clock."""

    started: int
    joined: int
    ran: int
    split: int

    def spent(self, job: QueuedJob, rows: int, *, is_first: bool) -> Spent:
        return Spent(
            queue_ns=max(0, self.started - int(job.arrived * 1e9)),
            input_ns=self.joined - self.started,
            infer_ns=self.ran - self.joined,
            output_ns=self.split - self.ran,
            rows=rows,
            is_first=is_first,
        )


class BatchedModel(QueuedModel):
    """A model of this process behind its batcher. It is called like one outside: it takes cores by itself."""

    def __init__(self, name: str, inner: LoadedModel, scheduling: Scheduling, cores: CoreBudget) -> None:
        # Runs beyond the cores would take requests out of the line only to wait again, where nobody can join them.
        at_once = max(1, min(scheduling.instances, cores.cores // max(1, inner.threads)))
        super().__init__(name, inner, replace(scheduling, instances=at_once))
        self._cores = cores

    def _run_batch(self, batch: list[QueuedJob]) -> None:
        deadline = max(job.deadline for job in batch)
        left_s = min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
        with self._cores.lease(self.threads, left_s, self._name):
            self._batcher.grow(batch)
            try:
                self._run_once(batch)
            except (ModelFailedError, BadRequestError, InsufficientMemoryError, MemoryError):
                if len(batch) == 1:
                    raise
                for job in batch:
                    self._run_alone(job)

    def _run_alone(self, job: QueuedJob) -> None:
        """Give a job its own answer or error: one bad request must not fail its neighbours."""
        try:
            self._run_once([job])
        except Exception as error:
            job.error = error

    def _run_once(self, batch: Sequence[QueuedJob]) -> None:
        started = time.monotonic_ns()
        inputs = _joined(batch)
        joined = time.monotonic_ns()
        outputs = self.inner.run(inputs)
        ran = time.monotonic_ns()
        rows = sum(job.rows for job in batch)
        shares = self._split(outputs, batch, rows)
        times = _Times(started, joined, ran, time.monotonic_ns())
        for number, (job, share) in enumerate(zip(batch, shares, strict=True)):
            job.answer = Reply(tensors=share, spent=times.spent(job, rows, is_first=number == 0))

    def _split(self, outputs: Tensors, batch: Sequence[QueuedJob], rows: int) -> list[Tensors]:
        for name, each in outputs.items() if self._most else ():
            if each.shape[:1] != (rows,):
                raise ModelFailedError(
                    f"Model '{self._name}' answered {rows} rows with output '{name}' of shape {list(each.shape)}: its "
                    "first dimension must be the batch; set max_batch_size: 0 if the model does not batch."
                )
        if len(batch) == 1:
            return [outputs]
        shares, first = [], 0
        for job in batch:
            shares.append({name: each[first : first + job.rows] for name, each in outputs.items()})
            first += job.rows
        return shares


class BatchingBackend(WrappedBackend):
    """A backend of this process, with a batcher before each model that has one configured."""

    def __init__(self, inner: Backend, cores: CoreBudget) -> None:
        super().__init__(inner)
        self._cores = cores

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Make the model ready; put a batcher before it if its configuration has one."""
        model = self.inner.load(spec)
        scheduling = spec.scheduling
        if scheduling is None or not is_scheduled(scheduling):
            return model
        return BatchedModel(spec.name, model, scheduling, self._cores)


def is_scheduled(scheduling: Scheduling) -> bool:
    """Say whether requests need a line of their own: they are merged, ordered, or may run beside each other."""
    return scheduling.is_dynamic or scheduling.priority_levels > 0 or scheduling.instances > 1


def _joined(batch: Sequence[QueuedJob]) -> Tensors:
    inputs = [job.item.tensors or {} for job in batch]
    if len(inputs) == 1:
        return inputs[0]
    return {name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]}
