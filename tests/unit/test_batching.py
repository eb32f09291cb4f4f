"""The dynamic batcher: the line, which is told the time, and the threads around it."""

from __future__ import annotations

import gc
import itertools
import math
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from serving.batching import Batcher, Job, Line, QueueFullError
from serving.errors import CancelledError, ModelFailedError, ServingError, UnavailableError
from serving.repository.scheduling import QueuePolicy, Scheduling
from tests.waiting import until

MS = 1e-3


class Queue:
    """A line at a time that the test sets; requests are named."""

    def __init__(self, **scheduling: object) -> None:
        words: dict[str, object] = {"max_batch_size": 8, "is_dynamic": True} | scheduling
        self.line: Line[str, str] = Line("m", Scheduling(**words))  # type: ignore[arg-type]
        self.now = 100.0

    def put(
        self,
        name: str,
        *,
        rows: int = 1,
        key: str = "",
        deadline: float = math.inf,
        priority: int = 0,
        timeout_us: int = 0,
    ) -> Job[str, str]:
        """A request arrives now."""
        job: Job[str, str] = Job(name, rows, key, self.now, deadline)
        self.line.enter(job, priority, timeout_us)
        return job

    def puts(self, names: str, priority: int = 0) -> None:
        """Many, of one row each."""
        for name in names:
            self.put(name, priority=priority)

    def next(self) -> str:
        """The batch that an instance gets, as its requests' names."""
        self.over = self.line.drop(self.now)
        return "".join(job.item for job in self.line.form(self.now))


def test_without_a_delay_all_that_waits_goes_at_once() -> None:
    """The moment an instance is free, oldest first."""
    queue = Queue()
    queue.puts("abc")

    assert (queue.next(), queue.next(), len(queue.line)) == ("abc", "", 0)


def test_no_batch_is_larger_than_the_model_takes() -> None:
    """What does not fit goes with the next."""
    queue = Queue(max_batch_size=4)
    queue.puts("abcdef")

    assert (queue.next(), queue.next()) == ("abcd", "ef")


def test_a_full_batch_does_not_wait_for_the_delay() -> None:
    """max_batch_size is the preferred size where none is given."""
    queue = Queue(max_batch_size=3, max_queue_delay_us=1000)
    queue.puts("ab")
    assert queue.next() == ""

    queue.puts("c")
    assert queue.next() == "abc"


def test_a_batch_that_is_not_full_waits_until_the_oldest_is_old_enough() -> None:
    """And then takes those along that are not."""
    queue = Queue(max_queue_delay_us=1000)
    queue.puts("a")
    queue.now += 0.9 * MS
    queue.puts("b")
    assert queue.next() == ""

    queue.now += 0.11 * MS
    assert queue.next() == "ab"


def test_a_preferred_size_goes_at_once() -> None:
    """Although the batch could grow."""
    queue = Queue(preferred=(2, 4), max_queue_delay_us=1000)
    queue.puts("a")
    assert queue.next() == ""

    queue.puts("b")
    assert queue.next() == "ab"


def test_the_largest_preferred_size_that_waits_is_taken() -> None:
    """4 of 5; the fifth stays."""
    queue = Queue(preferred=(2, 4), max_queue_delay_us=1000)
    queue.puts("abcde")

    assert (queue.next(), queue.next()) == ("abcd", "")


def test_when_the_delay_is_over_all_that_fits_goes_whatever_is_preferred() -> None:
    """As Triton does: who is late is not split further."""
    queue = Queue(preferred=(4,), max_queue_delay_us=1000)
    queue.puts("abcdefghi")
    queue.now += 2 * MS

    assert queue.next() == "abcdefgh"


def test_preferred_sizes_hold_without_a_delay_too() -> None:
    """4 of 6, then what is left."""
    queue = Queue(preferred=(4,))
    queue.puts("abcdef")

    assert (queue.next(), queue.next()) == ("abcd", "ef")


def test_what_cannot_become_a_preferred_size_any_more_does_not_wait() -> None:
    """3 rows and 2 rows jump over a preferred 4."""
    queue = Queue(preferred=(4,), max_queue_delay_us=1000)
    queue.put("a", rows=3)
    queue.put("b", rows=2)

    assert (queue.next(), queue.next()) == ("a", "")


def test_rows_count_and_not_requests() -> None:
    """Two requests of two rows are a batch of four."""
    queue = Queue(max_batch_size=4, max_queue_delay_us=1000)
    queue.put("a", rows=2)
    queue.put("b", rows=2)

    assert queue.next() == "ab"


def test_a_request_that_finds_no_room_is_neither_split_nor_passed() -> None:
    """The small one behind it would fit and waits."""
    queue = Queue(max_batch_size=4)
    queue.put("a", rows=2)
    queue.put("b", rows=3)
    queue.put("c", rows=1)

    assert (queue.next(), queue.next()) == ("a", "bc")


def test_requests_of_other_shapes_do_not_share_a_batch() -> None:
    """Nor do they make each other wait for the delay: the batch cannot grow any more."""
    queue = Queue(max_queue_delay_us=1000)
    queue.put("a", key="small")
    queue.put("b", key="small")
    queue.put("c", key="large")

    assert (queue.next(), queue.next()) == ("ab", "")
    queue.now += 2 * MS
    assert queue.next() == "c"


@pytest.mark.parametrize("scheduling", [{"is_dynamic": False}, {"max_batch_size": 0}])
def test_without_dynamic_batching_each_request_is_a_run(scheduling: dict[str, object]) -> None:
    """Still in line, first come, first served."""
    queue = Queue(max_queue_delay_us=1000, **scheduling)
    queue.puts("ab")

    assert (queue.next(), queue.next(), queue.next()) == ("a", "b", "")


def test_priority_1_goes_first() -> None:
    """And oldest first within a priority."""
    queue = Queue(max_batch_size=2, priority_levels=3, default_priority=2)
    queue.puts("ab", priority=3)
    queue.puts("cd", priority=1)

    assert (queue.next(), queue.next()) == ("cd", "ab")


@pytest.mark.parametrize("priority", [0, 4, -1])
def test_a_priority_that_there_is_not_is_the_default(priority: int) -> None:
    """0 is what a request without one has."""
    queue = Queue(max_batch_size=1, priority_levels=3, default_priority=2)
    queue.put("l", priority=3)
    queue.put("d", priority=priority)
    queue.put("h", priority=1)

    assert [queue.next() for _ in range(3)] == ["h", "d", "l"]


def test_priorities_share_a_batch() -> None:
    """Those of the lower one fill what the higher one leaves; the age of the oldest of all counts."""
    queue = Queue(max_queue_delay_us=1000, priority_levels=2, default_priority=2)
    queue.put("b", priority=2)
    queue.now += 1.1 * MS
    queue.put("a", priority=1)

    assert queue.next() == "ab"


def test_a_full_queue_refuses() -> None:
    """503; each priority has its own limit."""
    policies = {1: QueuePolicy(max_queue_size=2)}
    queue = Queue(priority_levels=2, default_priority=2, policies=policies)
    queue.puts("ab", priority=1)
    with pytest.raises(QueueFullError, match="^Exceeds maximum queue size$"):
        queue.put("c", priority=1)

    queue.puts("def", priority=2)
    assert queue.next() == "abdef"


def test_a_request_past_its_timeout_is_rejected() -> None:
    """When it would be its turn; those in time go."""
    queue = Queue(default_policy=QueuePolicy(timeout_us=1000))
    late = queue.put("a")
    queue.now += 0.5 * MS
    queue.put("b")
    queue.now += 0.6 * MS

    assert queue.next() == "b"
    assert queue.over == [late]
    assert isinstance(late.error, UnavailableError)
    assert late.error.message == "Request timeout expired"


def test_a_request_past_its_timeout_is_delayed_where_the_policy_says_so() -> None:
    """Behind all others of its priority, and never rejected."""
    queue = Queue(max_batch_size=2, default_policy=QueuePolicy(timeout_us=1000, is_delayed=True))
    queue.puts("ab")
    queue.now += 0.6 * MS
    queue.puts("cd")
    queue.now += 0.6 * MS

    assert (queue.next(), queue.over) == ("cd", [])
    queue.now += 10
    queue.puts("e")
    assert (queue.next(), queue.next(), queue.over) == ("ea", "b", [])


@pytest.mark.parametrize(
    ("policy", "own_us", "is_served"),
    [
        (QueuePolicy(timeout_us=1000, may_override=True), 500, False),
        (QueuePolicy(timeout_us=1000, may_override=True), 5000, False),
        (QueuePolicy(timeout_us=1000, may_override=True), 0, False),
        (QueuePolicy(may_override=True), 500, True),
        (QueuePolicy(timeout_us=5000, may_override=False), 500, True),
        (QueuePolicy(timeout_us=5000, may_override=True), 1200, True),
        (QueuePolicy(), 500, True),
    ],
)
def test_a_request_may_shorten_its_timeout_where_the_policy_allows(
    policy: QueuePolicy, own_us: int, is_served: bool
) -> None:
    """Never lengthen it; looked at 1.1 ms after the arrival."""
    queue = Queue(default_policy=policy)
    queue.put("a", timeout_us=own_us)
    queue.now += 1.1 * MS

    assert (queue.next() == "a") == is_served


def test_a_request_past_its_deadline_is_dropped() -> None:
    """Nobody waits for its answer any more."""
    queue = Queue()
    dead = queue.put("a", deadline=queue.now + 1)
    queue.put("b", deadline=queue.now + 3)
    queue.now += 2

    assert (queue.next(), queue.over, len(queue.line)) == ("b", [dead], 0)
    assert dead.error is not None
    assert "until the request's deadline" in str(dead.error)


def test_a_request_looks_again_when_something_may_have_changed_by_itself() -> None:
    """At its delay, its timeout and its deadline, in this order."""
    queue = Queue(max_queue_delay_us=1000, default_policy=QueuePolicy(timeout_us=2000))
    job = queue.put("a", deadline=queue.now + 1)

    looks = [queue.line.next_look(job, queue.now + after * MS) - queue.now for after in (0, 1.5, 2.5, 2000)]
    assert looks == pytest.approx([1 * MS, 2 * MS, 1, 2])


@pytest.mark.parametrize(
    ("scheduling", "rows", "is_sent"),
    [
        ({}, 1, True),
        ({"max_queue_delay_us": 1000}, 1, False),
        ({"max_queue_delay_us": 1000}, 8, True),
        ({"max_queue_delay_us": 1000, "preferred": (2,)}, 2, True),
        ({"max_queue_delay_us": 1000, "preferred": (2,)}, 3, True),
        ({"max_queue_delay_us": 1000, "is_dynamic": False}, 1, True),
    ],
)
def test_a_request_without_others_runs_at_once_unless_it_should_wait_for_more(
    scheduling: dict[str, object], rows: int, is_sent: bool
) -> None:
    """The short way says what the long one does."""
    queue = Queue(**scheduling)
    assert queue.line.is_sent_alone(rows) == is_sent

    queue.put("a", rows=rows)
    assert (queue.next() == "a") == is_sent


@pytest.mark.parametrize(
    ("preferred", "formed", "came", "joined"),
    [
        ((), 1, "abc", "abc"),
        ((), 6, "abc", "ab"),
        ((4,), 1, "abcdef", "abc"),
        ((4,), 4, "abc", ""),
        ((4, 8), 4, "abc", ""),
        ((4, 8), 4, "abcde", "abcd"),
        ((4, 8), 1, "abcdef", "abc"),
        ((4, 8), 1, "ab", "ab"),
    ],
)
def test_a_batch_grows_while_it_cannot_begin(preferred: tuple[int, ...], formed: int, came: str, joined: str) -> None:
    """To the largest preferred size that can be had; who would make it a worse one waits for the next."""
    queue = Queue(preferred=preferred)
    batch = [Job[str, str]("x", formed, "", queue.now, math.inf)]
    queue.puts(came)

    assert "".join(job.item for job in queue.line.form_more(batch)) == joined


@pytest.mark.parametrize("scheduling", [{}, {"is_dynamic": False}])
def test_a_batch_grows_by_nobody_that_could_not_have_been_in_it(scheduling: dict[str, object]) -> None:
    """Other shapes, or no merging at all; nobody behind passes."""
    queue = Queue(**scheduling)
    batch = [Job[str, str]("x", 1, "small", queue.now, math.inf)]
    queue.put("a", key="large")
    queue.put("b", key="small")

    assert queue.line.form_more(batch) == []


class Place:
    """A batcher whose runs can be held; answers are the items in capitals."""

    def __init__(self, pool: ThreadPoolExecutor, **scheduling: object) -> None:
        words: dict[str, object] = {"max_batch_size": 8, "is_dynamic": True} | scheduling
        self.batches: list[str] = []
        self.threads: list[int] = []
        self.gates: dict[str, threading.Event] = {}
        self.answered: list[str] = []
        self.errors: dict[str, BaseException] = {}
        self.batcher: Batcher[str, str] = Batcher("m", Scheduling(**words), self._run)  # type: ignore[arg-type]
        self._pool = pool

    def hold(self, name: str) -> Callable[[], None]:
        """Have the run that holds `name` wait; return how to let it go."""
        self.gates[name] = threading.Event()
        return self.gates[name].set

    def put(self, name: str, **said: object) -> Future[str]:
        """A request on a thread of its own; returns when it runs or waits."""
        waiting, ran = self.batcher.waiting, len(self.batches)
        future = self._pool.submit(self._submit, name, said)
        until(lambda: self.batcher.waiting > waiting or len(self.batches) > ran or future.done())
        return future

    def _submit(self, name: str, said: dict[str, object]) -> str:
        answer = self.batcher.submit(name, **said)  # type: ignore[arg-type]
        self.answered.append(name)
        return answer

    def _run(self, batch: list[Job[str, str]]) -> None:
        name = "".join(job.item for job in batch)
        self.batches.append(name)
        self.threads.append(threading.get_ident())
        for gate in [gate for each, gate in self.gates.items() if each in name]:
            assert gate.wait(10)
        if name in self.errors:
            raise self.errors[name]
        for job in batch:
            job.answer = job.item.upper()


def test_a_request_alone_runs_on_its_own_thread() -> None:
    """No hand-over."""
    with ThreadPoolExecutor(1) as pool:
        place = Place(pool)

        assert place.batcher.submit("a") == "A"
        assert place.threads == [threading.get_ident()]


def test_a_request_is_gone_with_its_answer() -> None:
    """Its tensors are megabytes: no circle holds them until the next collection."""

    class Item:
        pass

    def run(batch: list[Job[Item, str]]) -> None:
        batch[0].answer = "done"

    batcher: Batcher[Item, str] = Batcher("m", Scheduling(max_batch_size=8, is_dynamic=True), run)
    item = Item()
    seen = weakref.ref(item)
    gc.disable()
    try:
        assert batcher.submit(item) == "done"
        del item
        assert seen() is None
    finally:
        gc.enable()


def test_those_who_came_while_the_instance_was_busy_share_the_next_run() -> None:
    """Each gets its own answer; the oldest one's thread led."""
    with ThreadPoolExecutor(4) as pool:
        place = Place(pool)
        go = place.hold("a")
        futures = [place.put(name) for name in "abcd"]
        go()

        assert [each.result(10) for each in futures] == ["A", "B", "C", "D"]
    assert place.batches == ["a", "bcd"]


@pytest.mark.parametrize("scheduling", [{}, {"is_dynamic": False}])
def test_a_request_whose_caller_has_left_is_not_run_when_its_turn_comes(scheduling: dict[str, object]) -> None:
    """Those around it are, also where its batch would have been empty."""
    with ThreadPoolExecutor(5) as pool:
        place = Place(pool, **scheduling)
        go, left = place.hold("a"), threading.Event()
        a, b, c = place.put("a"), place.put("b", is_left=left.is_set), place.put("c", is_left=left.is_set)
        d = place.put("d", is_left=lambda: False)
        left.set()
        go()

        assert [a.result(10), d.result(10)] == ["A", "D"]
        for each in (b, c):
            with pytest.raises(CancelledError, match="Request is cancelled"):
                each.result(10)
    assert place.batches == ["a", "d"]


def test_as_many_runs_at_once_as_there_are_instances() -> None:
    """And not one more."""
    with ThreadPoolExecutor(4) as pool:
        place = Place(pool, instances=2)
        gates = [place.hold(name) for name in "ab"]
        futures = [place.put(name) for name in "abc"]
        assert place.batches == ["a", "b"]
        for go in gates:
            go()

        assert [each.result(10) for each in futures] == ["A", "B", "C"]


def test_those_who_come_while_a_run_cannot_begin_join_it() -> None:
    """A run that had to wait for its cores asks who came."""
    begin = threading.Event()
    batches: list[str] = []

    def run(batch: list[Job[str, str]]) -> None:
        assert begin.wait(10)
        batcher.grow(batch)
        batches.append("".join(job.item for job in batch))
        for job in batch:
            job.answer = job.item.upper()

    batcher: Batcher[str, str] = Batcher("m", Scheduling(8, True), run)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(batcher.submit, name) for name in "abc"]
        until(lambda: batcher.waiting == 2)
        begin.set()
        assert [each.result(10) for each in futures] == ["A", "B", "C"]

    assert len(batches) == 1


def test_a_request_that_waits_for_company_goes_when_its_delay_is_over() -> None:
    """By itself: no thread but its own."""
    with ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        assert Place(pool, max_queue_delay_us=20_000).batcher.submit("a") == "A"

        assert time.monotonic() - started >= 0.02


def test_a_thread_that_comes_late_to_its_own_wait_does_not_wait_for_ever() -> None:
    """On a busy machine the delay may be over before the thread looks for the first time."""

    def run(batch: list[Job[str, str]]) -> None:
        batch[0].answer = "A"

    seconds = itertools.count()
    batcher: Batcher[str, str] = Batcher(
        "m", Scheduling(8, True, max_queue_delay_us=500_000), run, lambda: float(next(seconds))
    )
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(batcher.submit, "a").result(10) == "A"


def test_the_request_that_fills_a_batch_sends_it() -> None:
    """Long before the delay is over."""
    with ThreadPoolExecutor(2) as pool:
        place = Place(pool, max_batch_size=2, max_queue_delay_us=60_000_000)
        futures = [place.put("a"), place.put("b")]

        assert [each.result(10) for each in futures] == ["A", "B"]
    assert place.batches == ["ab"]


def test_a_failed_run_fails_its_requests_and_nobody_else() -> None:
    """The next one is served."""
    with ThreadPoolExecutor(4) as pool:
        place = Place(pool)
        go = place.hold("a")
        place.errors["bc"] = ModelFailedError("no")
        futures = [place.put(name) for name in "abc"]
        go()

        assert [type(each.exception(10)) for each in futures] == [type(None), ModelFailedError, ModelFailedError]
        assert place.batcher.submit("d") == "D"


def test_a_run_may_fail_one_request_alone() -> None:
    """`error` of a job is its own."""

    def run(batch: list[Job[str, str]]) -> None:
        batch[0].error = ModelFailedError("this one")

    with pytest.raises(ModelFailedError, match="this one"):
        Batcher("m", Scheduling(), run).submit("a")


def test_a_request_does_not_wait_longer_than_its_deadline() -> None:
    """In line; it leaves no trace."""
    with ThreadPoolExecutor(2) as pool:
        place = Place(pool)
        go = place.hold("a")
        place.put("a")
        with pytest.raises(UnavailableError, match="was not free until the request's deadline"):
            place.batcher.submit("b", deadline=time.monotonic() + 0.02)
        assert place.batcher.waiting == 0
        go()

        assert place.batcher.submit("c") == "C"


def test_a_request_in_a_run_of_others_does_not_wait_longer_than_its_deadline_either() -> None:
    """The run ends by itself, and the instance is free again."""
    with ThreadPoolExecutor(3) as pool:
        place = Place(pool, max_batch_size=2, max_queue_delay_us=60_000_000)
        go = place.hold("a")
        first = place.put("a")
        with pytest.raises(UnavailableError, match="had not answered at the request's deadline"):
            place.batcher.submit("b", deadline=time.monotonic() + 0.05)
        go()

        assert first.result(10) == "A"
        assert place.batcher.submit("c", rows=2) == "C"


def test_a_request_past_its_timeout_is_told_without_waiting_for_its_turn() -> None:
    """While the instance is still busy."""
    with ThreadPoolExecutor(2) as pool:
        place = Place(pool, default_policy=QueuePolicy(timeout_us=10_000))
        go = place.hold("a")
        place.put("a")
        with pytest.raises(UnavailableError, match="Request timeout expired"):
            place.batcher.submit("b")
        go()


def test_answers_leave_in_the_order_of_arrival_where_that_is_asked() -> None:
    """The second instance was faster; the model's answers are not mixed up."""
    with ThreadPoolExecutor(2) as pool:
        place = Place(pool, instances=2, preserve_ordering=True)
        go = place.hold("a")
        first, second = place.put("a"), place.put("b")
        until(lambda: place.batches == ["a", "b"])
        with pytest.raises(TimeoutError):
            second.result(0.05)
        go()

        assert [first.result(10), second.result(10)] == ["A", "B"]


def test_a_failure_does_not_hold_up_the_answers_behind_it() -> None:
    """Its place in the order is given up."""
    with ThreadPoolExecutor(2) as pool:
        place = Place(pool, instances=2, preserve_ordering=True)
        place.errors["a"] = ModelFailedError("no")
        go = place.hold("a")
        first, second = place.put("a"), place.put("b")
        go()

        assert (type(first.exception(10)), second.result(10)) == (ModelFailedError, "B")


def test_an_answer_that_must_wait_for_others_waits_no_longer_than_its_deadline() -> None:
    """503."""
    with ThreadPoolExecutor(1) as pool:
        place = Place(pool, instances=2, preserve_ordering=True)
        go = place.hold("a")
        place.put("a")
        with pytest.raises(UnavailableError, match="the requests before this one"):
            place.batcher.submit("b", deadline=time.monotonic() + 0.02)
        go()


def test_closing_fails_what_waits_and_what_comes_later() -> None:
    """What runs ends by itself."""
    with ThreadPoolExecutor(2) as pool:
        place = Place(pool)
        go = place.hold("a")
        running, waiting = place.put("a"), place.put("b")
        place.batcher.close()

        with pytest.raises(UnavailableError, match="is being unloaded"):
            waiting.result(10)
        with pytest.raises(UnavailableError, match="is being unloaded"):
            place.batcher.submit("c")
        go()
        assert running.result(10) == "A"


def test_under_many_threads_everybody_gets_the_own_answer_and_nothing_is_left() -> None:
    """8 threads, 2 instances, random waits and deadlines: an answer or a 503, and an idle batcher at the end."""

    def run(batch: list[Job[int, int]]) -> None:
        assert sum(job.rows for job in batch) <= 8
        for job in batch:
            job.answer = -job.item

    batcher: Batcher[int, int] = Batcher("m", Scheduling(8, True, (4,), 200, instances=2), run)

    def client(number: int) -> int:
        refused = 0
        for item in range(number, number + 300):
            try:
                within_s = 0.0001 if item % 7 == 0 else 10.0
                assert batcher.submit(item, 1 + item % 3, item % 2, deadline=time.monotonic() + within_s) == -item
            except ServingError:
                refused += 1
                assert item % 7 == 0
        return refused

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(client, range(0, 8000, 1000))) >= 0
    assert batcher.waiting == 0
    assert batcher.submit(5, 8) == -5


# ---- instances that come and go --------------------------------------------------------------------------------------


class Gated:
    """A batcher whose runs wait until they are let through."""

    def __init__(self, instances: int) -> None:
        self.runs: list[str] = []
        self.gate = threading.Event()
        self.batcher: Batcher[str, str] = Batcher("m", Scheduling(8, is_dynamic=True, instances=instances), self._run)

    def _run(self, batch: list[Job[str, str]]) -> None:
        self.runs.append("".join(job.item for job in batch))
        assert self.gate.wait(10)
        for job in batch:
            job.answer = job.item


def test_an_instance_that_comes_takes_who_waits() -> None:
    """At once."""
    gated = Gated(1)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(gated.batcher.submit, "a")]
        until(lambda: gated.runs)
        for count, name in enumerate("bc", 1):
            futures.append(pool.submit(gated.batcher.submit, name))
            until(lambda count=count: gated.batcher.waiting == count)  # type: ignore[misc]
        gated.batcher.resize(2)
        until(lambda: len(gated.runs) == 2)
        gated.gate.set()
        assert [each.result(10) for each in futures] == ["a", "b", "c"]
    assert gated.runs == ["a", "bc"]


def test_of_instances_that_are_too_many_those_that_run_end_first() -> None:
    """Two run and one goes: the next run begins when both are over but for the one that is left."""
    gated = Gated(2)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(gated.batcher.submit, name) for name in "ab"]
        until(lambda: len(gated.runs) == 2)
        gated.batcher.resize(1)
        futures.append(pool.submit(gated.batcher.submit, "c"))
        until(lambda: gated.batcher.waiting == 1)
        gated.gate.set()
        assert [each.result(10) for each in futures] == ["a", "b", "c"]
    assert gated.runs[2:] == ["c"]
    assert gated.batcher._free == 1


def test_an_instance_that_is_held_takes_nobody_until_it_is_let_go() -> None:
    """The answer of its run is not over yet."""
    held: list[str] = []

    def run(batch: list[Job[str, str]]) -> None:
        for job in batch:
            job.answer = job.item
        if not held:
            batcher.hold()
        held.append(batch[0].item)

    batcher: Batcher[str, str] = Batcher("m", Scheduling(), run)
    with ThreadPoolExecutor(1) as pool:
        assert batcher.submit("a") == "a"
        waiting = pool.submit(batcher.submit, "b")
        until(lambda: batcher.waiting == 1)
        assert held == ["a"]
        batcher.let_go()
        assert waiting.result(10) == "b"
