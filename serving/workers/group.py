"""A group of ranks: several workers that hold one model between them, called, measured and ended as one.

1. Every request goes to every rank, with one seed for their random numbers; rank 0's answer counts.
2. All ranks answer before the next request. Streams go in step, so that a cancelled one stops in all at one chunk.
3. When a rank dies, hangs past the deadline, or fails where another does not, all are killed: a survivor would wait in
   a collective operation, or spin, for ever. The caller hears which rank it was and how it ended.

`instance` is each rank's side of it, `rendezvous` tells them where to meet; `pool` holds a group as it holds a worker,
and starts the next generation.
"""

from __future__ import annotations

import logging
import random
import select
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from serving.errors import InsufficientMemoryError, ModelFailedError, ServingError
from serving.workers.device_slices import Slices
from serving.workers.handler import Launch, Reply, Request
from serving.workers.instance import CANCEL_S, FAREWELL_S, Instance, WorkerLostError, pack, ran
from serving.workers.rendezvous import Rendezvous
from serving.workers.supervisor import Supervisor, Wish

log = logging.getLogger("wharf.workers")

# After one rank has failed, for the others to fail as well: whoever waits for it in a collective never will.
_STRAGGLE_S = 0.8

_T = TypeVar("_T")
_Answer = tuple[list[Reply], bool]


class Group:
    """One generation of `launch.ranks` processes; `on_exit` is called once, when the last of them has ended."""

    def __init__(
        self,
        supervisor: Supervisor,
        launch: Launch,
        wish: Wish,
        on_exit: Callable[[Group], None],
        slices: Slices | None = None,
    ) -> None:
        self.name = launch.name
        self.number = launch.instance
        self.ready: dict[str, Any] = {}
        self.idle_since = self.heard_at = 0.0
        self.is_stopped = False
        self._on_exit = on_exit
        self._slices = slices
        self._devices = slices.take() if slices else ()
        self._lock = threading.Lock()
        self._ended: list[Instance] = []  # as they did
        self._ranks: list[Instance] = []
        self._size = launch.ranks
        try:
            self._place = Rendezvous(launch.ranks, self._devices)
            for rank in range(launch.ranks):
                environ = launch.environ | self._place.environ(rank)
                if not self._devices:
                    environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a container's host name may lead nowhere
                mine = replace(launch, rank=rank, environ=environ)
                self._ranks.append(Instance(supervisor, mine, wish, self._note_end))
        except BaseException:
            with self._lock:
                self._size = len(self._ranks)
                is_over = len(self._ended) == self._size
            self._strike()
            if is_over:
                self._give_back()
            raise
        if self._ended:  # one did before the others were there
            self._strike()

    @property
    def is_ended(self) -> bool:
        """Whether it can answer no more: one rank is gone, or all are."""
        return bool(self._ended)

    @property
    def end(self) -> str:
        """How the first rank to end did: "(rank 1) was killed by signal 9 (Killed)"."""
        with self._lock:
            first = self._ended[0] if self._ended else self._ranks[0]
        return f"(rank {self._ranks.index(first)}) {first.end}"

    @property
    def pids(self) -> list[int]:
        """The processes, by rank."""
        return [each.process.pid for each in self._ranks]

    def load(self, deadline: float) -> None:
        """Wait until every rank is ready; raises what `Instance.load` raises, of the rank that failed first."""
        errors: dict[Instance, ServingError] = {}

        def load(rank: Instance) -> None:
            try:
                rank.load(deadline)
            except ServingError as error:  # and it is gone: the others are struck
                errors[rank] = error

        threads = [threading.Thread(target=load, args=[each]) for each in self._ranks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if not errors:
            self.ready = self._ranks[0].ready
            return
        self.kill()
        with self._lock:
            order = [each for each in self._ended if each in errors]
        raise errors[order[0]] if order else next(iter(errors.values()))

    def call(self, requests: Sequence[Request], deadline: float) -> list[Reply]:
        """Have requests answered by all ranks; return rank 0's replies, raise what `Instance.call` raises.

        A reply's `chunks` must be read to the end or closed before the next call.
        """
        items, buffers = pack(requests)
        timeout_s = deadline - time.monotonic()
        seed = random.getrandbits(32)  # a model's, no secret
        calls = self._begin(lambda rank: rank.begin(items, buffers, deadline, seed))
        answers = self._gather(
            range(len(calls)), lambda rank: self._ranks[rank].answer(calls[rank], deadline), deadline, _fails
        )
        replies, _ = answers[0]
        streams = {rank for rank, (_, is_stream) in answers.items() if is_stream}
        if 0 in streams:
            replies[0].chunks = self._chunks(calls, streams, timeout_s)
            next(replies[0].chunks)  # begun, so that closing it cancels
        else:
            self._cancel(calls, streams)
        return replies

    def ping(self, deadline: float) -> None:
        """Have every rank of an idle group say that it lives; raises what `Instance.ping` raises."""
        calls = self._begin(lambda rank: rank.beat(deadline))
        self._gather(range(len(calls)), lambda rank: self._ranks[rank].pong(calls[rank], deadline), deadline)

    def stop(self) -> None:
        """End all ranks: their farewells, then SIGKILL; return when their memory is back."""
        self.is_stopped = True
        until = time.monotonic() + FAREWELL_S
        for rank in [each for each in self._ranks if each.bid_farewell()]:
            rank.process.exited.wait(until - time.monotonic())
        self.kill()

    def kill(self) -> None:
        """End all ranks by SIGKILL, with all that they started; return when their memory is back."""
        self._strike()
        for rank in self._ranks:
            rank.kill()

    def let_go(self) -> None:
        """Close our ends of the channels."""
        for rank in self._ranks:
            rank.let_go()

    def measured_bytes(self) -> int:
        """Return what all ranks together added to the machine's memory, in bytes."""
        return sum(each.measured_bytes() for each in self._ranks)

    def has_changed(self) -> bool:
        """Say whether one rank holds noteworthily more or less than at the last measurement."""
        return any(each.has_changed() for each in self._ranks)

    # ---- death ------------------------------------------------------------------------------------------------------

    def _note_end(self, rank: Instance) -> None:
        """One rank has ended, and so do all; called by the thread that hears of all ends, which must not wait."""
        with self._lock:
            self._ended.append(rank)
            is_last = len(self._ended) == self._size
        if not self.is_stopped:
            self._strike()
        if is_last:
            self._give_back()
            self._on_exit(self)

    def _strike(self) -> None:
        for rank in list(self._ranks):
            if not rank.is_ended:
                rank.strike()

    def _give_back(self) -> None:
        if place := getattr(self, "_place", None):
            place.close(self.pids)
        if self._slices:
            self._slices.give_back(self._devices)

    def _lost(self, rank: int, error: ServingError) -> ServingError:
        """End the group, as `rank` is gone; return the error that names the first that went."""
        self.kill()
        with self._lock:
            is_first = not self._ended or self._ended[0] is self._ranks[rank]
        if is_first or isinstance(error, InsufficientMemoryError):
            return error
        return ran(
            WorkerLostError(f"Model '{self.name}' lost its worker {self.end}; its group is being replaced: try again.")
        )

    def _hung(self, late: Collection[int]) -> ServingError:
        ranks = ",".join(map(str, sorted(late)))
        figures = (self.name, self.number, ranks, self._ranks[0].asked)
        log.warning("event=worker_hung model=%s instance=%d rank=%s requests=%d", *figures)
        self.kill()
        return ran(
            WorkerLostError(
                f"Model '{self.name}' did not answer in time (rank {ranks} of {len(self._ranks)}), its group was ended "
                "and is being replaced: send less, or raise its predict timeout."
            )
        )

    def _diverged(self, rank: int, result: object) -> ServingError:
        """End the group, as `rank` failed where another did not; return the error for who asked."""
        log.warning("event=group_diverged model=%s group=%d rank=%d", self.name, self.number, rank)
        self.kill()
        if isinstance(result, ServingError):
            return result
        said = bytes(_first(result).body[:200]).decode("utf-8", "replace")
        return ran(ModelFailedError(f"Model '{self.name}' (rank {rank}) failed where another rank did not: {said}"))

    # ---- all ranks at once -----------------------------------------------------------------------------------------

    def _begin(self, ask: Callable[[Instance], int]) -> list[int]:
        """Ask every rank; return the numbers of the calls, by rank."""
        calls: list[int] = []
        for number, rank in enumerate(self._ranks):
            try:
                calls.append(ask(rank))
            except ServingError as error:
                raise self._lost(number, error) from None
        return calls

    def _gather(
        self,
        ranks: Collection[int],
        take: Callable[[int], _T],
        deadline: float,
        is_failure: Callable[[_T], bool] = lambda _: False,
    ) -> dict[int, _T]:
        """Return what `take` has of each rank.

        Raises rank 0's error where all fail (an `is_failure` of all is returned), the first one's where some do, and
        the group has ended then, as where one is lost or late.
        """
        found: dict[int, _T] = {}
        errors: dict[int, ServingError] = {}
        failed: list[int] = []
        pending = set(ranks)
        while pending:
            rank = self._next(pending, deadline)
            if rank is None:
                break
            pending.discard(rank)
            try:
                found[rank] = take(rank)
            except ServingError as error:
                if self._ranks[rank].is_ended:
                    raise self._lost(rank, error) from None
                errors[rank] = error
            if rank in errors or is_failure(found[rank]):
                failed.append(rank)
                deadline = min(deadline, time.monotonic() + _STRAGGLE_S)
        if pending and not failed:
            raise self._hung(pending)
        if failed and len(failed) < len(ranks):
            raise self._diverged(failed[0], errors.get(failed[0]) or found[failed[0]])
        if errors:
            raise errors.get(0) or next(iter(errors.values()))
        return found

    def _next(self, pending: set[int], deadline: float) -> int | None:
        """Return a rank that has said something, or is gone; None at the deadline."""
        while True:
            poll = select.poll()
            for rank in pending:
                channel = self._ranks[rank].process.channel
                number = channel.fileno()
                if number < 0 or channel.has_input():  # closed, by who ends this group, or ready
                    return rank
                poll.register(number, select.POLLIN)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            poll.poll(left_s * 1000 + 1)

    # ---- streams ----------------------------------------------------------------------------------------------------

    def _chunks(self, calls: Sequence[int], streams: set[int], timeout_s: float) -> Iterator[bytes]:
        """Yield what rank 0 yields; the next step is under way meanwhile, the same one in all ranks."""
        chunk: bytes | None = b""
        is_left = True  # by who reads, wherever this waits at a yield
        try:
            while chunk is not None:
                yield chunk
                is_left = False
                chunk = self._step(calls, streams, time.monotonic() + timeout_s, is_wanted=True)
                is_left = chunk is not None
            self._cancel(calls, streams)  # who has more to say than rank 0
        finally:
            if is_left:
                self._cancel(calls, streams)

    def _step(self, calls: Sequence[int], streams: set[int], deadline: float, *, is_wanted: bool) -> bytes | None:
        """Take one chunk of each stream and have them go on, or end; return rank 0's. Ended ones leave `streams`."""
        chunks = self._gather(sorted(streams), lambda rank: self._ranks[rank].chunk(calls[rank], deadline), deadline)
        streams -= {rank for rank, chunk in chunks.items() if chunk is None}
        is_wanted = is_wanted and chunks.get(0) is not None
        for rank in sorted(streams):
            try:
                self._ranks[rank].go_on(calls[rank], deadline, is_wanted=is_wanted)
            except ServingError as error:
                raise self._lost(rank, error) from None
        return chunks.get(0)

    def _cancel(self, calls: Sequence[int], streams: set[int]) -> None:
        """End the streams that go on, in step; a group that does not follow in time is killed."""
        deadline = time.monotonic() + CANCEL_S
        try:
            while streams:
                self._step(calls, streams, deadline, is_wanted=False)
        except ServingError as error:  # nobody waits for it any more
            log.info("event=stream_not_cancelled model=%s group=%d why=%r", self.name, self.number, error.message)
            self.kill()


def _first(answer: object) -> Reply:
    replies: list[Reply] = answer[0]  # type: ignore[index]  # an _Answer: is_failure has looked at it
    return next(each for each in replies if each.status >= 400)


def _fails(answer: _Answer) -> bool:
    return any(each.status >= 400 for each in answer[0])
