"""The workers of one model: who is called next, when there are more, and what happens when they die.

1. An idle worker takes the request; else it waits in line, first come, first served, within its deadline.
2. A worker that comes free takes the first in line; with batches it takes more, and waits a little for them.
3. The line is twice as long as a batch and there may be more workers: one more is started, if the memory is granted.
4. A worker beyond the least number that was idle for a while ends.
5. A worker that dies is replaced, at once or later (`deaths`). While none lives and none is starting, requests get 503
   at once. A model that dies again and again without an answer is given up, with the reason.

Where somebody else keeps the line and forms the batches (`backends.grouped`), it only lends workers: `watch`, `admit`,
`submit_all`. Knows no HTTP and no ledger: both come as `Host`. Called by the worker backend; `line` is who waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from serving.errors import ServingError, UnavailableError
from serving.workers import batch, refusals
from serving.workers.deaths import Deaths
from serving.workers.group import Group
from serving.workers.handler import Reply, Request
from serving.workers.held import Held
from serving.workers.idle import Idle
from serving.workers.instance import Instance
from serving.workers.line import Job, Line
from serving.workers.member import Member
from serving.workers.plan import Alone, Host, Plan
from serving.workers.supervisor import Supervisor

log = logging.getLogger("wharf.workers")


class Pool:
    """All workers of one model."""

    def __init__(self, plan: Plan, supervisor: Supervisor) -> None:
        self.plan = plan
        self._name = plan.launch.name
        self.host: Host = Alone()
        self._supervisor = supervisor
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)  # for a leader who waits for the rest of its batch
        self._leaders = 0
        self._line = Line(self._name, plan.queue_size)
        self._live: set[Member] = set()
        self._idle = Idle()
        self._starting = 0
        self._loading: set[Member] = set()
        self._granted = 0  # workers that memory was asked for
        self.ready: dict[str, object] = {}  # what the model said of itself when it was
        self._numbers = iter(range(1 << 30))
        self._deaths = Deaths(plan.max_deaths)
        self._gone = ""  # why no request is taken any more
        self._given_up = ""  # the same, where it was our own decision
        self._timer: threading.Timer | None = None  # for the next worker
        self._bytes_each = 0
        self._heard: Callable[[int], None] = lambda _count: None

    @property
    def workers(self) -> int:
        """How many workers live."""
        return len(self._live)

    @property
    def waiting(self) -> int:
        """How many requests wait for a worker."""
        return len(self._line)

    def start(self) -> None:
        """Start the least number of workers; raise what the first of them raises."""
        self._starting = self.plan.min_workers
        for _ in range(self.plan.min_workers):
            try:
                self._enter(self._new_instance())
            except BaseException:
                self.close()
                raise
        self._bytes_each = self.held_bytes() // max(1, self.plan.min_workers)

    def held_bytes(self) -> int:
        """Return what all workers added to the machine's memory, in bytes."""
        with self._lock:
            live = list(self._live)
        return sum(each.measured_bytes() for each in live)

    def measure(self, *, is_due: bool = False) -> None:
        """Tell the host what the workers hold: when it is due, or one has grown or shrunk since it was last told.

        Shares of what several models map change with the others, unseen here; that is why it falls due.
        """
        with self._lock:
            live = list(self._live)
            coming_bytes = min(self._starting, self._granted) * self._bytes_each  # granted, and not there yet
        if live and (is_due or any(each.has_changed() for each in live)):
            self.host.correct(self.held_bytes() + coming_bytes)

    def adopt(self, host: Host) -> None:
        """Take the owner of the memory, and say what was said before anybody listened: that the model is given up."""
        with self._lock:
            self.host, reason = host, self._given_up
        if reason:
            threading.Thread(target=host.withdraw, args=(reason,), daemon=True).start()

    def submit(self, request: Request, deadline: float) -> Reply:
        """Have a request answered before `deadline` (of the monotonic clock), with others where the pool batches.

        A reply's `chunks` hold the worker until they are read to the end or closed. Raises `UnavailableError` (503)
        when no worker is free in time, the line is full or the worker is lost, and what the handler's error means.
        """
        return self._submit([request], deadline, may_gather=self.plan.launch.batch_size > 1)[0]

    def submit_all(self, requests: Sequence[Request], deadline: float) -> list[Reply]:
        """Have requests that somebody else put together answered in one call; raises what `submit` raises, for all."""
        return self._submit(requests, deadline, may_gather=False)

    def _submit(self, requests: Sequence[Request], deadline: float, *, may_gather: bool) -> list[Reply]:
        # As long in line at most, and as long with a worker: one that gets a late request is not slow for that.
        wait_s = min(deadline - time.monotonic(), self.plan.predict_timeout_s)
        job: Job | None = None
        with self._lock:
            if wait_s <= 0:
                raise refusals.busy(self._name)
            instance = self._idle.take() if self._idle and not self._leaders else None
            if instance is None:
                job = self._queue(requests)
        if job is not None:
            if not job.is_done.wait(wait_s) and self._leave(job):
                raise refusals.busy(self._name)
            if job.error is not None:
                raise job.error
            if job.reply is not None:
                return [job.reply]
            instance = job.instance
        assert instance is not None
        if not may_gather:
            return self._call(instance, requests, time.monotonic() + wait_s)
        jobs = [job or Job(requests[0]), *self._gather()]
        deadline = time.monotonic() + wait_s
        return batch.answer(self._name, jobs, lambda together: self._call(instance, together, deadline))

    def watch(self, heard: Callable[[int], None]) -> None:
        """Have `heard` called with the number of workers, now and when it changes; it must not call this pool."""
        with self._lock:
            self._heard = heard
            heard(len(self._live))

    def admit(self, waiting: int, batch_size: int) -> None:
        """Treat a line that somebody else keeps as our own: raise where it is full, start a worker where it is long."""
        if waiting >= self.plan.queue_size:
            raise refusals.full(self._name, waiting)
        with self._lock:
            if waiting >= 2 * batch_size and not self._gone:
                self._scale_up()

    def trim(self) -> None:
        """End one worker beyond the least number that has been idle for long enough."""
        with self._lock:
            is_least = len(self._live) <= self.plan.min_workers
            if is_least or (instance := self._idle.take_unused(self.plan.idle_s)) is None:
                return
            self._live.discard(instance)
            self._heard(len(self._live))
        instance.stop()
        with self._lock:
            self._give_back_grants()
        log.info("event=worker_idle model=%s instance=%d workers=%d", instance.name, instance.number, len(self._live))

    def ping(self) -> None:
        """Have idle workers that nobody has heard of for a while say that they live; return at once.

        Each is nobody else's meanwhile, some 0.1 ms. One that hangs is ended, which is a death.
        """
        with self._lock:
            unheard = self._idle.take_unheard(self.plan.ping_s)
        for instance in unheard:
            try:
                threading.Thread(target=self._ping, args=[instance], name="worker-ping", daemon=True).start()
            except RuntimeError:  # no thread is to be had: it is asked another time
                self._release(instance, is_used=False)

    def close(self) -> None:
        """End every worker; return when their memory is back."""
        with self._lock:
            self._line.fail(self._go("it is being unloaded"))
            self._heard = lambda _count: None
            live, self._live = list(self._live), set()
            self._idle.clear()
            timer, loading = self._timer, list(self._loading)
            for instance in live:
                instance.is_stopped = True
        if timer is not None:
            timer.cancel()
        ends = [instance.stop for instance in live] + [instance.kill for instance in loading]
        threads = [threading.Thread(target=end) for end in ends[1:]]
        for thread in threads:
            thread.start()
        for end in ends[:1]:
            end()
        for thread in threads:
            thread.join()

    # ---- the line ---------------------------------------------------------------------------------------------------

    def _queue(self, requests: Sequence[Request]) -> Job:
        """Stand in line; under the lock."""
        if self._gone:
            raise UnavailableError(self._gone)
        if not self._live and not self._starting:
            raise refusals.resting(self._name, self._deaths.last)
        job = self._line.join(*requests)
        if self._leaders:
            self._came.notify()
        elif len(self._line) > 2 * self.plan.launch.batch_size or not self._live:
            self._scale_up()
        return job

    def _leave(self, job: Job) -> bool:
        """Give up waiting; return False when the turn came at the last moment."""
        with self._lock:
            if self._line.leave(job):
                return True
        job.is_done.wait()
        return False

    def _release(self, instance: Member, *, is_used: bool = True) -> None:
        with self._lock:
            self._pass_on(instance, is_used)

    def _pass_on(self, instance: Member, is_used: bool = True) -> None:
        """Give a worker back, to the first in line, else to the idle ones; under the lock."""
        if instance not in self._live or instance.is_ended:
            instance.let_go()
            return
        (self._idle.add if is_used else self._idle.put_back)(instance)
        self._serve_line()

    def _serve_line(self) -> None:
        """Give idle workers to who waits, unless a leader gathers them; under the lock."""
        while self._idle and not self._leaders and (job := self._line.take()) is not None:
            job.lead(self._idle.take())

    def _ping(self, instance: Member) -> None:
        # Whoever waits for it meanwhile waits no longer than for one that got a request and hangs.
        timeout_s = min(self.plan.ping_timeout_s, self.plan.predict_timeout_s)
        try:
            with suppress(ServingError):  # it has ended: `_on_exit` hears of that
                instance.ping(time.monotonic() + timeout_s)
        finally:
            self._release(instance, is_used=False)

    # ---- calls ------------------------------------------------------------------------------------------------------

    def _call(self, instance: Member, requests: Sequence[Request], deadline: float) -> list[Reply]:
        """Have a worker answer, and give it back: at once, or at the end of a stream."""
        is_held = False
        try:
            replies = instance.call(requests, deadline)
            self._deaths.forget()
            if replies[0].chunks is not None:
                is_held = True
                replies[0].chunks = Held(replies[0].chunks, lambda: self._release(instance))
            return replies
        except ServingError:
            if not instance.is_ended:  # an answer too, if no good one
                self._deaths.forget()
            raise
        finally:
            if not is_held:
                self._release(instance)

    def _gather(self) -> list[Job]:
        with self._lock:
            self._leaders += 1
            try:
                launch = self.plan.launch
                return batch.gather(self._line, self._came, launch.batch_size - 1, self.plan.max_batch_delay_s)
            finally:
                self._leaders -= 1
                self._serve_line()

    # ---- birth and death --------------------------------------------------------------------------------------------

    def _new_instance(self) -> Member:
        """Start a worker and wait until it is ready; `close` ends it meanwhile."""
        number = next(self._numbers)
        launch, wish = replace(self.plan.launch, instance=number), replace(self.plan.wish, instance=number)
        if launch.ranks:
            instance: Member = Group(self._supervisor, launch, wish, self._on_exit, self.plan.slices)
        else:
            instance = Instance(self._supervisor, launch, wish, self._on_exit)
        with self._lock:
            self._loading.add(instance)
            is_late = bool(self._gone)
        try:
            if is_late:
                instance.kill()
            instance.load(time.monotonic() + self.plan.load_timeout_s)
        finally:
            with self._lock:
                self._loading.discard(instance)
        return instance

    def _enter(self, instance: Member) -> None:
        with self._lock:
            self._starting -= 1
            if not self._gone:
                self.ready = instance.ready
                self._live.add(instance)
                self._pass_on(instance)
                self._heard(len(self._live))
                # It may have died between its first word and this one.
                is_dead = instance.is_ended
        if self._gone:
            instance.stop()
        elif is_dead:
            self._on_exit(instance)

    def _scale_up(self) -> None:
        """Start one more worker in the background, where plan and memory allow; under the lock."""
        if len(self._live) + self._starting >= self.plan.max_workers or self._starting:
            return
        if len(self._live) >= self.plan.min_workers:
            if not self.host.grow(self._bytes_each):
                return
            self._granted += 1
        self._start_in_background()

    def _give_back_grants(self) -> None:
        """Give back the memory of additional workers that are no more; under the lock."""
        more = max(0, len(self._live) + self._starting - self.plan.min_workers)
        if self._granted > more:
            self.host.grow((more - self._granted) * self._bytes_each)
            self._granted = more

    def _start_in_background(self) -> None:
        self._starting += 1
        threading.Thread(target=self._try_to_start, name=f"worker-{self._name}", daemon=True).start()

    def _try_to_start(self) -> None:
        try:
            instance = self._new_instance()
        except Exception as error:
            if not isinstance(error, ServingError):
                log.exception("event=worker_not_started model=%s", self._name)
            with self._lock:
                self._starting -= 1
                self._after_death(error.message if isinstance(error, ServingError) else repr(error))
        else:
            self._enter(instance)

    def _on_exit(self, instance: Member) -> None:
        with self._lock:
            if instance not in self._live:
                return
            self._live.discard(instance)
            self._heard(len(self._live))
            if self._idle.discard(instance):
                instance.let_go()
            log.warning("event=worker_lost model=%s instance=%d how=%r", instance.name, instance.number, instance.end)
            self._after_death(f"its worker {instance.end}")

    def _after_death(self, reason: str) -> None:
        """Replace what died, now or later, or give the model up; under the lock."""
        self._deaths.note(reason)
        if self._gone:
            return
        self._give_back_grants()
        if self._deaths.are_too_many:
            error = self._go(self._deaths.told())
            self._line.fail(error)
            self._given_up = error.message
            threading.Thread(target=self.host.withdraw, args=(error.message,), daemon=True).start()
            return
        missing = self.plan.min_workers - len(self._live) - self._starting
        if missing > 0 and not self._deaths.pause_s:
            self._start_in_background()
        elif missing > 0 and self._timer is None:
            self._timer = timer = threading.Timer(self._deaths.pause_s, self._start_missing)
            timer.daemon = True
            timer.start()
        if not self._live and not self._starting:
            self._line.fail(refusals.resting(self._name, self._deaths.last))

    def _start_missing(self) -> None:
        with self._lock:
            self._timer = None
            while not self._gone and len(self._live) + self._starting < self.plan.min_workers:
                self._start_in_background()

    def _go(self, reason: str) -> UnavailableError:
        error = refusals.gone(self._name, reason)
        self._gone = error.message
        return error
