"""The dynamic batcher: which requests of one model share a run, and when.

`Line` holds who waits and decides, as Triton's scheduler does (priorities, preferred sizes, queue delay, queue
policies); it knows no thread and is told the time. `Batcher` has one, a lock, and as many runs at once as the model has
instances. There is no thread of its own: the thread of a batch's first request runs it, the others wait for their
answer. With nobody waiting and an instance free a request runs at once, on its own thread. Knows neither tensors nor
models: an item has a number of rows, and a key that is equal for items that can be merged. `backends.queued` calls it.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from serving.errors import CancelledError, ServingError, UnavailableError
from serving.repository.scheduling import QueuePolicy, Scheduling

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_US = 1e-6


class QueueFullError(UnavailableError):
    """As many requests wait as the queue's policy allows."""


class Job(Generic[Item, Answer]):
    """One request: what it is, what it wants, and what becomes of it (`answer` or `error`, set by the run)."""

    __slots__ = (
        *("answer", "arrived", "batch", "deadline", "error", "event", "expires", "is_left", "is_over", "item", "key"),
        *("may_go_at", "released", "rows"),
    )

    def __init__(self, item: Item, rows: int, key: object, arrived: float, deadline: float) -> None:
        self.item = item
        self.rows = rows
        self.key = key
        self.arrived = arrived
        self.deadline = deadline
        self.may_go_at = 0.0
        self.expires = math.inf
        self.is_left: Callable[[], bool] | None = None
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.is_over = False
        self.batch: list[Job[Item, Answer]] | None = None
        self.event: threading.Event | None = None
        self.released: threading.Event | None = None


class _Level(Generic[Item, Answer]):
    """Who waits in one priority: first those within their timeout, then those that were delayed for it."""

    __slots__ = ("delayed", "fresh", "policy")

    def __init__(self, policy: QueuePolicy) -> None:
        self.policy = policy
        self.fresh: deque[Job[Item, Answer]] = deque()
        self.delayed: deque[Job[Item, Answer]] = deque()

    def __len__(self) -> int:
        return len(self.fresh) + len(self.delayed)


class Line(Generic[Item, Answer]):
    """Who waits for one model, in order, and who goes next; not thread-safe, and times are whatever it is told."""

    def __init__(self, name: str, scheduling: Scheduling) -> None:
        self._name = name
        self._is_merging = scheduling.is_dynamic and scheduling.max_batch_size > 0
        self._most = max(1, scheduling.max_batch_size)
        self._preferred = frozenset(scheduling.preferred or (self._most,))
        self._most_preferred = max(self._preferred)
        self._delay_s = scheduling.max_queue_delay_us * _US
        numbers = range(1, scheduling.priority_levels + 1) if scheduling.priority_levels else (0,)
        self._levels: dict[int, _Level[Item, Answer]] = {
            number: _Level(scheduling.policies.get(number, scheduling.default_policy)) for number in numbers
        }
        self._default_level = scheduling.default_priority if scheduling.default_priority in self._levels else numbers[0]
        self._count = 0
        self._soonest = math.inf  # no later than the first deadline or timeout of those that wait

    def __len__(self) -> int:
        return self._count

    def is_sent_alone(self, rows: int) -> bool:
        """Whether a request of so many rows need not wait for others when nobody waits."""
        return not self._is_merging or not self._delay_s or rows in self._preferred or rows >= self._most_preferred

    def enter(self, job: Job[Item, Answer], priority: int = 0, timeout_us: int = 0) -> None:
        """Put a job at the end of its priority's queue; `priority` 0, or one that there is not, is the default.

        `timeout_us` is the request's own. Raises `QueueFullError`.
        """
        level = self._levels[priority if priority in self._levels else self._default_level]
        policy = level.policy
        if policy.max_queue_size and len(level) >= policy.max_queue_size:
            raise QueueFullError("Exceeds maximum queue size")
        own_us = policy.timeout_us
        if policy.may_override and 0 < timeout_us < own_us:  # where there is no timeout there is none to shorten
            own_us = timeout_us
        job.expires = job.arrived + own_us * _US if own_us > 0 else math.inf
        job.may_go_at = job.arrived + self._delay_s
        level.fresh.append(job)
        self._count += 1
        self._soonest = min(self._soonest, job.deadline, job.expires)

    def next_look(self, job: Job[Item, Answer], now: float) -> float:
        """Return when `job` should look again by itself: its batch may go without more, or its time is over."""
        times = (job.may_go_at, job.expires, job.deadline)
        return min((each for each in times if each > now), default=now)

    def drop(self, now: float) -> list[Job[Item, Answer]]:
        """Take out and return whose time is over, with their errors; put behind who is delayed for it."""
        if now < self._soonest:
            return []
        over: list[Job[Item, Answer]] = []
        for level in self._levels.values():
            delayed = [
                *level.delayed,
                *(each for each in level.fresh if level.policy.is_delayed and each.expires <= now),
            ]
            fresh = [each for each in level.fresh if not (level.policy.is_delayed and each.expires <= now)]
            for each in delayed:
                each.expires = math.inf
            over += [each for each in (*fresh, *delayed) if self._is_over(each, now)]
            level.fresh = deque(each for each in fresh if each.error is None)
            level.delayed = deque(each for each in delayed if each.error is None)
        self._count -= len(over)
        self._soonest = min((min(each.deadline, each.expires) for each in self._ordered()), default=math.inf)
        return over

    def empty(self, error: ServingError) -> list[Job[Item, Answer]]:
        """Take out and return all, with `error`."""
        over = list(self._ordered())
        for each in over:
            each.error = error
        self._take(len(over))
        return over

    def form(self, now: float) -> list[Job[Item, Answer]]:
        """Take out the batch that goes now, if there is one; call `drop` before.

        1. A preferred number of rows (the largest that waits) goes at once: until the delay of the oldest is over.
        2. What cannot grow any more goes at once: the next request has other shapes or finds no room. Nobody is passed.
        3. Else it waits until the delay of the oldest is over, and then all go that find room.
        """
        if not self._is_merging:
            return self._take(min(1, self._count))
        count = rows = best = 0
        is_closed = is_late = False
        first: Job[Item, Answer] | None = None
        for job in self._ordered():
            if first is not None:
                if not best and rows + job.rows > self._most_preferred:
                    best = count
                if rows + job.rows > self._most or job.key != first.key:
                    is_closed = True
                    break
            first = first or job
            count, rows = count + 1, rows + job.rows
            is_late = is_late or (self._delay_s > 0 and job.may_go_at <= now)
            if rows in self._preferred:
                best = count
        if best and not is_late:
            return self._take(best)
        if is_closed or is_late or not self._delay_s or rows >= self._most_preferred:
            return self._take(count)
        return []

    def form_more(self, batch: list[Job[Item, Answer]]) -> list[Job[Item, Answer]]:
        """Take out who may still join a batch that has not run yet, in order and up to the largest preferred size.

        A batch of a preferred size grows to another one or not at all. Call `drop` before.
        """
        if not self._is_merging:
            return []
        rows = sum(job.rows for job in batch)
        is_exact = rows in self._preferred
        count = best = 0
        for job in self._ordered():
            if rows + job.rows > self._most_preferred or job.key != batch[0].key:
                break
            count, rows = count + 1, rows + job.rows
            if rows in self._preferred:
                best = count
        return self._take(best if is_exact else best or count)

    def _is_over(self, job: Job[Item, Answer], now: float) -> bool:
        if job.expires <= now:
            job.error = UnavailableError("Request timeout expired")  # Triton's words
        elif job.deadline <= now:
            job.error = UnavailableError(f"Model '{self._name}' was not free until the request's deadline: try again.")
        return job.error is not None

    def _ordered(self) -> Iterator[Job[Item, Answer]]:
        return itertools.chain.from_iterable((*level.fresh, *level.delayed) for level in self._levels.values())

    def _take(self, count: int) -> list[Job[Item, Answer]]:
        taken: list[Job[Item, Answer]] = []
        for level in self._levels.values():
            for queue in (level.fresh, level.delayed):
                while queue and len(taken) < count:
                    taken.append(queue.popleft())
        self._count -= count
        return taken


class Batcher(Generic[Item, Answer]):
    """Runs the requests of one model in batches: `run(batch)` sets each job's `answer` or `error`."""

    def __init__(
        self,
        name: str,
        scheduling: Scheduling,
        run: Callable[[list[Job[Item, Answer]]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._run = run
        self._clock = clock
        self._lock = threading.Lock()
        self._instances = self._free = max(1, scheduling.instances)  # below 0 while more run than there are instances
        self._line: Line[Item, Answer] = Line(name, scheduling)
        # In the order of arrival, until answered; only where answers leave in that order.
        self._order: deque[Job[Item, Answer]] | None = None
        if scheduling.preserve_ordering and scheduling.instances > 1:
            self._order = deque()
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """How many requests wait for a run."""
        return len(self._line)

    def submit(  # noqa: PLR0913  what a request says of itself
        self,
        item: Item,
        rows: int = 1,
        key: object = None,
        *,
        deadline: float = math.inf,
        priority: int = 0,
        timeout_us: int = 0,
        is_left: Callable[[], bool] | None = None,
    ) -> Answer:
        """Have an item answered, alone or with others of the same `key`; blocks until then or until `deadline`.

        `is_left` says whether who asked has gone: then it is not run when its turn comes. Raises what `run` set or
        raised, `UnavailableError` (503) when the queue is full, the model is closed, or the time is over, and
        `CancelledError`.
        """
        job: Job[Item, Answer] = Job(item, rows, key, self._clock(), deadline)
        job.is_left = is_left
        with self._lock:
            if self._is_closed:
                raise self._closed()
            if self._free > 0 and not self._line and self._line.is_sent_alone(rows):
                self._free -= 1
                job.batch = [job]
            else:
                job.event = threading.Event()
                self._line.enter(job, priority, timeout_us)
            if self._order is not None:
                job.released = threading.Event()
                self._order.append(job)
            if job.batch is None:
                self._dispatch(job.arrived)
        batch = job.batch or self._wait(job)
        if batch is not None:
            job.batch = None  # a circle: its tensors would stay until the next collection
            self._lead(batch)
        return self._answer(job)

    def grow(self, batch: list[Job[Item, Answer]]) -> None:
        """Let those who came since it was formed join `batch`; for a `run` that had to wait before it could begin."""
        if not self._line:
            return
        with self._lock:
            self._settle(self._line.drop(self._clock()))
            batch += self._wanted(self._line.form_more(batch))

    def resize(self, instances: int) -> None:
        """Have as many runs at once from now on; those that are too many end by themselves."""
        with self._lock:
            self._free += instances - self._instances
            self._instances = instances
            self._dispatch(self._clock())

    def hold(self) -> None:
        """Keep an instance beyond the end of a run, until `let_go`; for a `run` whose answer is not over yet."""
        with self._lock:
            self._free -= 1

    def let_go(self) -> None:
        """Give back what `hold` kept."""
        with self._lock:
            self._free += 1
            self._dispatch(self._clock())

    def close(self) -> None:
        """Fail all that wait, and whoever comes later; what runs ends by itself."""
        with self._lock:
            self._is_closed = True
            self._settle(self._line.empty(self._closed()))

    def _dispatch(self, now: float) -> None:
        """Start what can start; under the lock."""
        self._settle(self._line.drop(now))
        while self._free > 0 and self._line and (formed := self._line.form(now)):
            if not (batch := self._wanted(formed)):
                continue
            self._free -= 1
            leader = batch[0]
            leader.batch = batch
            if leader.event is not None:
                leader.event.set()

    def _wanted(self, batch: list[Job[Item, Answer]]) -> list[Job[Item, Answer]]:
        """Return those of a batch that somebody still waits for, and let the others go; under the lock."""
        left = [job for job in batch if job.is_left is not None and job.is_left()]
        for job in left:
            job.error = CancelledError("Request is cancelled")  # Triton's words
        self._settle(left)
        return [job for job in batch if job.error is None] if left else batch

    def _wait(self, job: Job[Item, Answer]) -> list[Job[Item, Answer]] | None:
        """Wait for the turn to lead a batch, which is returned, or for the answer."""
        assert job.event is not None
        looked = job.arrived  # what came due since then is due now, however late this thread is
        while True:
            left_s = self._line.next_look(job, looked) - self._clock()
            if job.event.wait(None if left_s == math.inf else max(0.0, left_s)):
                return None if job.is_over else job.batch
            with self._lock:
                if not job.event.is_set():
                    looked = now = self._clock()
                    self._dispatch(now)  # which takes it out of the line when its time is over
                    if now >= job.deadline and not job.event.is_set():  # in a run that somebody else leads
                        job.error = UnavailableError(
                            f"Model '{self._name}' had not answered at the request's deadline: try again."
                        )
                        self._settle([job])

    def _lead(self, batch: list[Job[Item, Answer]]) -> None:
        error: BaseException | None = None
        try:
            self._run(batch)
        except BaseException as raised:  # each thread of the batch raises it
            error = raised
        with self._lock:
            self._free += 1
            if self._line:
                self._dispatch(self._clock())
            for job in batch:
                job.error = job.error or error
            self._settle(batch)

    def _settle(self, jobs: list[Job[Item, Answer]]) -> None:
        """Let the threads of jobs that have their answer or error go; under the lock."""
        for job in jobs:
            job.is_over = True
            if job.event is not None:
                job.event.set()
        while self._order and self._order[0].is_over:
            released = self._order.popleft().released
            if released is not None:
                released.set()

    def _answer(self, job: Job[Item, Answer]) -> Answer:
        if job.released is not None:
            left_s = None if job.deadline == math.inf else max(0.0, job.deadline - self._clock())
            if not job.released.wait(left_s):
                raise UnavailableError(
                    f"Model '{self._name}' had not answered the requests before this one at its deadline: try again."
                )
        if job.error is not None:
            raise job.error
        return job.answer  # type: ignore[return-value]  # set by the run, as its contract says

    def _closed(self) -> UnavailableError:
        return UnavailableError(f"Model '{self._name}' is being unloaded: load it again.")
