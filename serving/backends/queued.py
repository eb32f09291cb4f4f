"""A model behind a batcher, as far as it is the same for all: what a request is to the line, and how it is answered.

`batched` and `grouped` derive from it and say what a run does with the requests that share it: the one joins their
rows, the other hands them over as they are. It answers through `invoke`, as models outside do, so that nobody holds
cores while waiting for company. Knows no runtime and no wire format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable

from serving.backends.base import LoadedModel
from serving.backends.wrapping import WrappedModel
from serving.batching import Batcher, Job, QueueFullError
from serving.errors import BadRequestError, UnavailableError
from serving.repository.scheduling import Scheduling
from serving.tensors import Tensors
from serving.workers.handler import Reply, Request

QueuedJob = Job[Request, Reply]


class QueuedModel(WrappedModel, ABC):
    """A model behind its batcher; `ragged` inputs may differ in shape among requests that share a run."""

    is_outside = True
    takes_bodies = False

    def __init__(self, name: str, inner: LoadedModel, scheduling: Scheduling, ragged: Collection[str] = ()) -> None:
        super().__init__(inner)
        self._name = name
        self._most = scheduling.max_batch_size
        self._is_merging = scheduling.is_dynamic
        self._ragged = frozenset(ragged)
        self._batcher: Batcher[Request, Reply] = Batcher(name, scheduling, self._run_batch)

    @property
    def waiting(self) -> int:
        """How many requests wait for a run (Triton's pending requests)."""
        return self._batcher.waiting

    def invoke(self, request: Request, deadline: float) -> Reply:
        """Answer a request's tensors before `deadline` (of the monotonic clock), in a run with others or alone.

        The reply has `spent`. Raises `BadRequestError` for more rows than fit, `UnavailableError` (503) as the queue's
        policy says or when nothing is free to run it in time, and what the model raises.
        """
        tensors = request.tensors or {}
        about = request.about
        try:
            return self._batcher.submit(
                request,
                self._rows(tensors),
                self._key(request) if self._is_merging else None,
                deadline=deadline,
                priority=_whole(about.get("priority")),
                timeout_us=_whole(about.get("timeout_us")),
                is_left=request.is_left,
            )
        except QueueFullError as error:  # as Triton says it
            raise UnavailableError(f"[request id: {about.get('id') or '<id_unknown>'}] {error}") from None

    def close(self) -> None:
        """Fail what waits; let go of the model."""
        self._batcher.close()
        super().close()

    @abstractmethod
    def _run_batch(self, batch: list[QueuedJob]) -> None:
        """Set each job's answer or error, or raise what fails all of them."""

    def _key(self, request: Request) -> Hashable:
        """Return what is equal for requests that can share a run: names, types, and shapes but for the rows."""
        return frozenset(
            (name, None if name in self._ragged else each.shape[1:], each.dtype)
            for name, each in (request.tensors or {}).items()
        )

    def _rows(self, tensors: Tensors) -> int:
        if not self._most:
            return 1
        counts = [each.shape[0] if each.ndim else None for each in tensors.values()]
        rows: int | None = counts[0] if counts else None
        if rows is None or counts.count(rows) != len(counts):
            found = dict(zip(tensors, counts, strict=True))
            raise BadRequestError(
                f"Model '{self._name}' batches and its inputs have {found} rows: send as many rows in each."
            )
        if rows > self._most:
            raise BadRequestError(
                f"inference request batch-size must be <= {self._most} for '{self._name}' and this one has {rows} "
                "rows: send fewer at once."
            )
        return rows


def _whole(value: object) -> int:
    """Return what a client sent as a number; anything else is not one."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
