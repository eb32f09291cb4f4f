"""Models in workers behind the dynamic batcher: a worker gets those requests that share a run as a list.

A `GroupedModel` is a `queued` one: a worker that is free takes a batch in one call, each request has its own answer or
error, and nothing is joined here; that is the worker's choice. Triton's Python models get the list itself, TensorFlow's
join rows. As many batches run at once as there are workers. Requests wait in this line and hardly ever in the pool's.

A model of TensorFlow without a config.pbtxt whose wharf.toml has a `batch_size` is an `UnboundModel`: that is how many
rows are joined, and a request of any size is taken. `server` wraps the backends of workers; all other models are left
to the pool's own line. Knows neither channel nor dialect.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable
from dataclasses import replace
from typing import Any

from serving.backends.queued import QueuedJob, QueuedModel
from serving.backends.worker import WorkerBackend, WorkerModel
from serving.backends.wrapping import WrappedBackend
from serving.repository.layouts import ModelSpec
from serving.repository.plain_files import KERAS
from serving.repository.saved_model_layout import SAVED_MODEL
from serving.repository.scheduling import Scheduling
from serving.repository.triton_layout import DIALECT
from serving.statistics import Spent
from serving.tensors import Tensors
from serving.workers.handler import Reply, Request
from serving.workers.held import Held

_GROUPED = (DIALECT, SAVED_MODEL, KERAS)


class GroupedModel(QueuedModel):
    """A model in workers behind its batcher."""

    def __init__(self, name: str, workers: WorkerModel, scheduling: Scheduling, ragged: Collection[str] = ()) -> None:
        super().__init__(name, workers, replace(scheduling, instances=workers.workers_max), ragged)
        self._workers = workers
        self._batch_size = self._most if scheduling.is_dynamic else 1
        workers.watch(lambda count: self._batcher.resize(max(1, count)))  # with none the pool says what is the matter

    def invoke(self, request: Request, deadline: float) -> Reply:
        """Answer a request: in line until `deadline`, or as long as the model may take, and as long with a worker."""
        if waiting := self.waiting:
            self._workers.admit(waiting, self._batch_size)
        return super().invoke(request, min(deadline, time.monotonic() + self._workers.timeout_s))

    def _key(self, request: Request) -> Hashable:
        """Return what is equal for requests that can share a run: of one signature, too."""
        return super()._key(request), (request.about.get("parameters") or {}).get("signature_name")

    def _run_batch(self, batch: list[QueuedJob]) -> None:
        self._batcher.grow(batch)  # by who came while this thread woke up
        started = time.monotonic()
        for job in batch:
            job.deadline += started - job.arrived  # a worker that gets a late request is not slow for that
        replies = self._workers.invoke_all([job.item for job in batch], max(job.deadline for job in batch))
        infer_ns = int((time.monotonic() - started) * 1e9)
        rows = sum(job.rows for job in batch)
        # The execution is counted once, by a request that is counted itself.
        counted = next((number for number, reply in enumerate(replies) if reply.tensors is not None), 0)
        for number, (job, reply) in enumerate(zip(batch, replies, strict=True)):
            queue_ns = max(0, int((started - job.arrived) * 1e9))
            reply.spent = Spent(queue_ns, infer_ns=infer_ns, rows=rows, is_first=number == counted)
            job.answer = reply
        if replies[0].chunks is not None:
            self._batcher.hold()
            replies[0].chunks = Held(replies[0].chunks, self._batcher.let_go)


class UnboundModel(GroupedModel):
    """A model that takes any number of rows, and of small requests as many at once as its worker joins."""

    def _rows(self, tensors: Tensors) -> int:
        """Return the rows of a request; one without them, or with more than are joined, fills a batch by itself."""
        counts = {each.shape[0] if each.ndim else None for each in tensors.values()}
        rows = counts.pop() if len(counts) == 1 else None
        return self._most if rows is None else max(1, min(rows, self._most))


class GroupingBackend(WrappedBackend):
    """The backend of workers, with a batcher before each model of Triton's or TensorFlow's that has one."""

    def __init__(self, inner: WorkerBackend) -> None:
        super().__init__(inner)
        self._workers = inner

    def load(self, spec: ModelSpec) -> WorkerModel | GroupedModel:
        """Make the model ready; put the batcher before it, where its configuration asks for one.

        Of a wharf.toml's batch_size Triton's models make the pool's line, TensorFlow's a batcher that joins rows.
        """
        model = self._workers.load(spec)
        if spec.handler is None or spec.handler.dialect not in _GROUPED:
            return model
        if spec.triton is None and spec.handler.dialect != DIALECT:
            scheduling = _completed(Scheduling(), model.batching)
            return UnboundModel(spec.name, model, scheduling) if scheduling.is_dynamic else model
        if spec.handler.batch_size > 1:
            return model
        scheduling = _completed(spec.scheduling or Scheduling(), model.batching)
        if not scheduling.is_dynamic and (spec.triton or {}).get("dynamic_batching") is None:
            return model  # first come, first served, one at a time: the pool's own line, and 25 us less a request
        return GroupedModel(spec.name, model, scheduling, _ragged(spec.triton or {}))


def _completed(scheduling: Scheduling, said: Any) -> Scheduling:
    """Add what the model's own `auto_complete_config` made of the configuration, as its worker said."""
    if not isinstance(said, dict) or not isinstance(most := said.get("max_batch_size"), int):
        return scheduling
    return replace(scheduling, max_batch_size=most, is_dynamic=most > 1 and bool(said.get("is_dynamic")))


def _ragged(config: Any) -> set[str]:
    return {each["name"] for each in config.get("input", ()) if each.get("allow_ragged_batch")}
