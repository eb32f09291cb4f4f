"""The requests of one model that wait for a worker: first come, first served.

A `Job` becomes an answer, an error, or the turn to lead a batch; its thread waits for that. Who has left meanwhile is
told so when the turn comes. Holds no lock: `pool` calls it under its own.
"""

from __future__ import annotations

import threading
from collections import deque

from serving.errors import CancelledError, ServingError
from serving.workers import refusals
from serving.workers.handler import Reply, Request
from serving.workers.member import Member


class Job:
    """A request in line; or several that somebody has put together, of which it is the first."""

    __slots__ = ("_others", "error", "instance", "is_done", "reply", "request")

    def __init__(self, request: Request, *others: Request) -> None:
        self.request = request
        self._others = others
        self.instance: Member | None = None
        self.reply: Reply | None = None
        self.error: ServingError | None = None
        self.is_done = threading.Event()

    @property
    def is_left(self) -> bool:
        """Whether nobody waits for it any more."""
        return all(each.is_left is not None and each.is_left() for each in (self.request, *self._others))

    def lead(self, instance: Member) -> None:
        """Give it a worker, to answer it and whom it takes along."""
        self.instance = instance
        self.is_done.set()

    def end(self, outcome: Reply | ServingError) -> None:
        """Give it its answer, or an error instead."""
        if isinstance(outcome, Reply):
            self.reply = outcome
        else:
            self.error = outcome
        self.is_done.set()


class Line:
    """Those of the model `name`, `limit` at most."""

    def __init__(self, name: str, limit: int) -> None:
        self._name, self._limit = name, limit
        self._jobs: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def join(self, *requests: Request) -> Job:
        """Stand in line; raises `UnavailableError` where it is full."""
        if len(self._jobs) >= self._limit:
            raise refusals.full(self._name, len(self._jobs))
        job = Job(*requests)
        self._jobs.append(job)
        return job

    def leave(self, job: Job) -> bool:
        """Give up waiting; return False for one whose turn has come."""
        if job not in self._jobs:
            return False
        self._jobs.remove(job)
        return True

    def take(self) -> Job | None:
        """Take out the first, and let those before it go whose callers have left; None where nobody waits."""
        while self._jobs:
            job = self._jobs.popleft()
            if not job.is_left:
                return job
            job.end(CancelledError("Request is cancelled"))
        return None

    def fail(self, error: ServingError) -> None:
        """Send all away."""
        while self._jobs:
            self._jobs.popleft().end(error)
