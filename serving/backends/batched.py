"""Models in this process whose requests share runs: what config.pbtxt's scheduling asks for.

A `BatchedModel` puts a batcher before a model of another backend: inputs of a batch are joined along their first axis,
the model runs once under the core budget, the outputs are split by rows. It answers through `invoke`, as models outside
do, so that nobody holds cores while waiting for company. Models without scheduling are not wrapped. `server` wraps the
backends; runtimes and wire formats are not known here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from serving.backends.base import Backend, LoadedModel
from serving.backends.wrapping import WrappedBackend
from serving.batching import Batcher, Job
from serving.cores import CoreBudget
from serving.errors import BadRequestError, InsufficientMemoryError, ModelFailedError
from serving.repository.layouts import ModelSpec
from serving.repository.scheduling import Scheduling
from serving.statistics import Spent
from serving.tensors import Signature, Tensors
from serving.workers.handler import Reply, Request
from serving.workers.plan import Host

_Job = Job[Tensors, Reply]


@dataclass(frozen=True, slots=True)
class _Times:
    """When the parts of a run began and ended, in nanoseconds of the monotonic clock."""

    started: int
    joined: int
    ran: int
    split: int

    def spent(self, job: _Job, rows: int, *, is_first: bool) -> Spent:
        return Spent(
            queue_ns=max(0, self.started - int(job.arrived * 1e9)),
            input_ns=self.joined - self.started,
            infer_ns=self.ran - self.joined,
            output_ns=self.split - self.ran,
            rows=rows,
            is_first=is_first,
        )


class BatchedModel:
    """A model of this process behind its batcher. It is called like one outside: it takes cores by itself."""

    is_outside = True
    takes_bodies = False

    def __init__(self, name: str, inner: LoadedModel, scheduling: Scheduling, cores: CoreBudget) -> None:
        self._name = name
        self._inner = inner
        self._cores = cores
        self._most = scheduling.max_batch_size
        # Runs beyond the cores would take requests out of the line only to wait again, where nobody can join them.
        at_once = max(1, min(scheduling.instances, cores.cores // max(1, inner.threads)))
        self._batcher: Batcher[Tensors, Reply] = Batcher(name, replace(scheduling, instances=at_once), self._run_batch)

    @property
    def signature(self) -> Signature:
        """Inputs and outputs of the model."""
        return self._inner.signature

    @property
    def threads(self) -> int:
        """CPU threads that one run uses."""
        return self._inner.threads

    @property
    def waiting(self) -> int:
        """How many requests wait for a run (Triton's pending requests)."""
        return self._batcher.waiting

    def held_bytes(self) -> int | None:
        """Return what the model says: None, as it is in this process."""
        return self._inner.held_bytes()

    def attach(self, host: Host) -> None:
        """Pass on whom to ask for memory."""
        self._inner.attach(host)

    def run(self, inputs: Tensors) -> Tensors:
        """Compute at once, beside the batcher; the caller holds the cores."""
        return self._inner.run(inputs)

    def invoke(self, request: Request, deadline: float) -> Reply:
        """Answer a request's tensors before `deadline` (of the monotonic clock), in a run with others or alone.

        The reply has `tensors`, views of the run's, and `spent`. Raises `BadRequestError` for more rows than fit,
        `UnavailableError` (503) as the queue's policy says or when no core is free in time, and what the model raises.
        """
        tensors = request.tensors or {}
        rows = self._rows(tensors)
        key = frozenset((name, each.shape[1:], each.dtype) for name, each in tensors.items())
        about = request.about
        return self._batcher.submit(
            tensors,
            rows,
            key,
            deadline=deadline,
            priority=_whole(about.get("priority")),
            timeout_us=_whole(about.get("timeout_us")),
        )

    def close(self) -> None:
        """Fail what waits; let go of the model."""
        self._batcher.close()
        self._inner.close()

    def _rows(self, tensors: Tensors) -> int:
        if not self._most:
            return 1
        counts = {name: each.shape[0] if each.ndim else None for name, each in tensors.items()}
        rows: int | None = next(iter(counts.values()), None)
        if rows is None or len(set(counts.values())) > 1:
            raise BadRequestError(
                f"Model '{self._name}' batches and its inputs have {counts} rows: send as many rows in each."
            )
        if rows > self._most:
            raise BadRequestError(
                f"inference request batch-size must be <= {self._most} for '{self._name}' and this one has {rows} "
                "rows: send fewer at once."
            )
        return rows

    def _run_batch(self, batch: list[_Job]) -> None:
        deadline = max(job.deadline for job in batch)
        left_s = min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
        with self._cores.lease(self._inner.threads, left_s, self._name):
            self._batcher.grow(batch)
            try:
                self._run_once(batch)
            except (ModelFailedError, BadRequestError, InsufficientMemoryError, MemoryError):
                if len(batch) == 1:
                    raise
                for job in batch:
                    self._run_alone(job)

    def _run_alone(self, job: _Job) -> None:
        """Give a job its own answer or error: one bad request must not fail its neighbours."""
        try:
            self._run_once([job])
        except Exception as error:
            job.error = error

    def _run_once(self, batch: Sequence[_Job]) -> None:
        started = time.monotonic_ns()
        inputs = _joined(batch)
        joined = time.monotonic_ns()
        outputs = self._inner.run(inputs)
        ran = time.monotonic_ns()
        rows = sum(job.rows for job in batch)
        shares = self._split(outputs, batch, rows)
        times = _Times(started, joined, ran, time.monotonic_ns())
        for number, (job, share) in enumerate(zip(batch, shares, strict=True)):
            job.answer = Reply(tensors=share, spent=times.spent(job, rows, is_first=number == 0))

    def _split(self, outputs: Tensors, batch: Sequence[_Job], rows: int) -> list[Tensors]:
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


def _joined(batch: Sequence[_Job]) -> Tensors:
    first = batch[0].item
    if len(batch) == 1:
        return first
    return {name: np.concatenate([job.item[name] for job in batch]) for name in first}


def _whole(value: object) -> int:
    """Return what a client sent as a number; anything else is not one."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
