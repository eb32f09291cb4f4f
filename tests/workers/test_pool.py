"""The workers of one model: who is served when, when there are more of them, and what happens when they die."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.errors import CancelledError, LoadFailedError, ModelFailedError, ServingError, UnavailableError
from serving.workers.handler import Request
from serving.workers.instance import WorkerLostError
from serving.workers.plan import Plan
from serving.workers.pool import Pool
from serving.workers.supervisor import Supervisor, Wish
from tests.waiting import until
from tests.workers.processes import ask, in_background, is_alive, launch_of, pool, send, soon

GATED = """
import json, os, sys, time
def transform_fn(model, body, content_type, accept):
    name = body.decode()
    with open("began", "a") as file:
        file.write(name + " ")
    while not os.path.exists("go") and not os.path.exists("go-" + name):
        time.sleep(0.002)
    return json.dumps([name, os.getpid()])
"""
"""A model whose calls wait for a file, and say that they have begun."""


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    """One zygote for all."""
    made = Supervisor(("numpy",))
    yield made
    made.close()


class Memory:
    """An owner of memory that grants so many workers, and hears of withdrawals."""

    def __init__(self, grants: int = 0) -> None:
        self.grants = grants
        self.asked: list[int] = []
        self.reasons: list[str] = []
        self.is_withdrawn = threading.Event()

    def grow(self, count: int) -> bool:
        self.asked.append(count)
        if count < 0:
            self.grants += 1
            return True
        self.grants -= 1
        return self.grants >= 0

    def correct(self, count: int) -> None:
        self.asked.append(count)

    def withdraw(self, reason: str) -> None:
        self.reasons.append(reason)
        self.is_withdrawn.set()


class Gated:
    """A folder of the gated model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launch = launch_of(folder, GATED)

    def began(self) -> list[str]:
        file = self.folder / "began"
        return file.read_text().split() if file.exists() else []

    def go(self, name: str = "") -> None:
        (self.folder / (f"go-{name}" if name else "go")).touch()


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Gated]:
    made = Gated(tmp_path)
    yield made
    made.go()


def ask_for(made: Pool, name: str, seconds: float = 20) -> Callable[[], Any]:
    """A request for a thread: the body of its answer."""
    return lambda: json.loads(bytes(send(made, name, seconds).body))


def pids(made: Pool) -> set[int]:
    return {each.pids[0] for each in made._live}


# ---- who is served when ----------------------------------------------------------------------------------------------


def test_the_worker_that_was_busy_last_is_asked_first(supervisor: Supervisor, tmp_path: Path) -> None:
    """Its caches are warm, and the others may end as idle."""
    with pool(supervisor, launch_of(tmp_path), min_workers=3, max_workers=3) as made:
        assert made.workers == 3
        assert len({ask(made, "os.getpid()") for _ in range(10)}) == 1


def test_requests_are_served_as_they_came(supervisor: Supervisor, gated: Gated) -> None:
    """One after the other by one worker."""
    with pool(supervisor, gated.launch) as made:
        names = [f"r{number}" for number in range(6)]
        threads = []
        for name in names:
            threads.append(threading.Thread(target=ask_for(made, name)))
            threads[-1].start()
            wanted = len(threads)
            until(lambda wanted=wanted: len(gated.began()) + len(made._line) == wanted)  # type: ignore[misc]
        gated.go()
        for thread in threads:
            thread.join(20)
    assert gated.began() == names


def test_workers_work_at_the_same_time(supervisor: Supervisor, gated: Gated) -> None:
    """Two requests, two workers."""
    with (
        pool(supervisor, gated.launch, min_workers=2) as made,
        in_background(ask_for(made, "a"), ask_for(made, "b")) as answers,
    ):
        until(lambda: len(gated.began()) == 2)
        gated.go()
    assert len({pid for _, pid in answers}) == 2


def test_a_full_line_is_503_at_once(supervisor: Supervisor, gated: Gated) -> None:
    """With its length; who stands in it is served."""
    with pool(supervisor, gated.launch, queue_size=2) as made:
        with in_background(*(ask_for(made, name) for name in "abc")) as answers:
            until(lambda: len(made._line) == 2)
            with pytest.raises(UnavailableError, match="has 2 requests waiting, its limit"):
                send(made, "d")
            gated.go()
        assert sorted(answer[0] for answer in answers) == ["a", "b", "c"]


def test_who_waits_past_its_deadline_is_503_and_leaves_the_line(supervisor: Supervisor, gated: Gated) -> None:
    """The worker goes on with who has it."""
    with pool(supervisor, gated.launch) as made, in_background(ask_for(made, "a")) as answers:
        until(gated.began)
        with pytest.raises(UnavailableError, match="no worker was free in time"):
            send(made, "b", seconds=0.1)
        assert not made._line
        gated.go()
    assert answers[0][0] == "a"
    assert gated.began() == ["a"]


def test_who_left_while_it_waited_costs_no_worker(supervisor: Supervisor, gated: Gated) -> None:
    """When its turn comes the next in line has it."""
    left = threading.Event()
    with pool(supervisor, gated.launch) as made, in_background(ask_for(made, "a")) as answers:
        until(gated.began)
        gone = Request(b"b", is_left=left.is_set)
        with in_background(lambda: made.submit(gone, soon(20))) as refusals:
            until(lambda: len(made._line) == 1)
            with in_background(ask_for(made, "c")) as others:
                until(lambda: len(made._line) == 2)
                left.set()
                gated.go()
    assert answers[0][0] == "a"
    assert others[0][0] == "c"
    assert isinstance(refusals[0], CancelledError)
    assert gated.began() == ["a", "c"]


def test_a_request_without_time_left_costs_no_worker(supervisor: Supervisor, tmp_path: Path) -> None:
    """It spent its time elsewhere: loading, or waiting for a core."""
    with pool(supervisor, launch_of(tmp_path)) as made:
        with pytest.raises(UnavailableError, match="no worker was free"):
            send(made, "1", seconds=-1)
        assert made.workers == 1
        assert ask(made, "2") == 2


def test_a_turn_that_comes_late_is_no_hang(supervisor: Supervisor, tmp_path: Path) -> None:
    """In an overload every turn comes late: to kill the worker for that would end the model."""
    with pool(supervisor, launch_of(tmp_path), predict_timeout_s=1.0) as made:
        before = pids(made)
        with in_background(lambda: ask(made, "time.sleep(0.7)"), lambda: ask(made, "time.sleep(0.7)")) as answers:
            pass
        assert answers == [None, None]
        assert pids(made) == before


# ---- more and fewer --------------------------------------------------------------------------------------------------


def test_a_long_line_starts_another_worker_if_its_memory_is_granted(supervisor: Supervisor, gated: Gated) -> None:
    """As many bytes as the first one holds, asked for once."""
    with pool(supervisor, gated.launch, max_workers=2) as made:
        made.host = memory = Memory(grants=1)
        with in_background(*(ask_for(made, name) for name in "abcde")) as answers:
            until(lambda: made.workers == 2)
            until(lambda: len(gated.began()) == 2)
            gated.go()
        assert len({pid for _, pid in answers}) == 2
        assert memory.asked == [made._bytes_each]
        assert made._bytes_each > 1 << 20


def test_without_memory_it_stays_at_that(supervisor: Supervisor, gated: Gated) -> None:
    """Everybody is served all the same."""
    with pool(supervisor, gated.launch, max_workers=2) as made:
        made.host = memory = Memory()
        with in_background(*(ask_for(made, name) for name in "abcde")) as answers:
            until(lambda: len(made._line) == 4)
            gated.go()
        assert len({pid for _, pid in answers}) == 1
        assert len(memory.asked) >= 1


def test_past_the_most_nobody_is_asked(supervisor: Supervisor, gated: Gated) -> None:
    """Nor started."""
    with pool(supervisor, gated.launch, max_workers=1) as made:
        made.host = memory = Memory(grants=5)
        with in_background(*(ask_for(made, name) for name in "abcde")):
            until(lambda: len(made._line) == 4)
            gated.go()
        assert (memory.asked, made.workers) == ([], 1)


def _grow(made: Pool, gated: Gated) -> None:
    """Make a pool of one a pool of two."""
    with in_background(*(ask_for(made, name) for name in "abcde")):
        until(lambda: made.workers == 2)
        gated.go()
    until(lambda: len(made._idle) == 2)


def test_what_is_idle_for_long_ends_and_its_memory_is_given_back(supervisor: Supervisor, gated: Gated) -> None:
    """Down to the least number, never below; the one that was used last stays."""
    with pool(supervisor, gated.launch, max_workers=2, idle_s=0.0) as made:
        made.host = memory = Memory(grants=1)
        _grow(made, gated)
        last = ask_for(made, "last")()[1]
        gone = pids(made) - {last}
        made.trim()
        made.trim()
        assert pids(made) == {last}
        assert memory.asked == [made._bytes_each, -made._bytes_each]
        assert not any(map(is_alive, gone))


def test_what_is_not_idle_for_long_stays(supervisor: Supervisor, gated: Gated) -> None:
    """A minute by default."""
    with pool(supervisor, gated.launch, max_workers=2, idle_s=60.0) as made:
        made.host = Memory(grants=1)
        _grow(made, gated)
        made.trim()
        assert made.workers == 2


def test_an_additional_worker_that_dies_gives_its_memory_back(supervisor: Supervisor, gated: Gated) -> None:
    """Else each death would take a piece of the budget for ever."""
    with pool(supervisor, gated.launch, max_workers=2) as made:
        made.host = memory = Memory(grants=1)
        _grow(made, gated)
        os.kill(min(pids(made)), signal.SIGKILL)
        until(lambda: made.workers == 1)
        until(lambda: memory.asked == [made._bytes_each, -made._bytes_each])


def test_an_additional_worker_that_does_not_start_gives_its_memory_back(supervisor: Supervisor, gated: Gated) -> None:
    """Its failure is none of the requests'."""
    script = Path(gated.launch.file)
    with pool(supervisor, gated.launch, max_workers=2) as made:
        made.host = memory = Memory(grants=1)
        script.write_text("1 / 0\n" + script.read_text())
        with in_background(*(ask_for(made, name) for name in "abcde")) as answers:
            until(lambda: len(memory.asked) >= 2)
            gated.go()
        assert sum(memory.asked[:2]) == 0
        assert sorted(answer[0] for answer in answers) == list("abcde")


# ---- death -----------------------------------------------------------------------------------------------------------


def test_who_dies_while_idle_is_replaced_and_nobody_notices(supervisor: Supervisor, tmp_path: Path) -> None:
    """The next request waits for the new one."""
    with pool(supervisor, launch_of(tmp_path)) as made:
        (pid,) = pids(made)
        os.kill(pid, signal.SIGKILL)
        until(lambda: pid not in pids(made))
        assert ask(made, "os.getpid()") != pid


def test_who_dies_in_flight_costs_that_request_alone(supervisor: Supervisor, gated: Gated) -> None:
    """503 within a second; who stands in line is served by the next worker."""
    with pool(supervisor, gated.launch) as made:
        (pid,) = pids(made)
        with in_background(ask_for(made, "a"), ask_for(made, "b")) as answers:
            until(lambda: len(made._line) == 1)
            gated.go()
            os.kill(pid, signal.SIGSTOP)  # it may not answer before it dies
            os.kill(pid, signal.SIGKILL)
    lost = [each for each in answers if isinstance(each, WorkerLostError)]
    served = [each for each in answers if isinstance(each, list)]
    assert len(lost) <= 1
    assert len(served) == 2 - len(lost)


def test_an_answer_makes_the_next_death_a_first_one_again(supervisor: Supervisor, tmp_path: Path) -> None:
    """Only deaths in a row count."""
    with pool(supervisor, launch_of(tmp_path), max_deaths=3) as made:
        made.host = memory = Memory()
        for _ in range(4):
            with pytest.raises(WorkerLostError):
                ask(made, "os._exit(1)")
            assert ask(made, "1") == 1
        assert memory.reasons == []


def test_a_model_that_was_given_up_says_so_to_who_comes_later(supervisor: Supervisor, tmp_path: Path) -> None:
    """One of several that are loaded together may be lost before the last of them is ready."""
    with pool(supervisor, launch_of(tmp_path), max_deaths=1) as made:
        with pytest.raises(UnavailableError):
            ask(made, "os._exit(1)")
        memory = Memory()
        until(lambda: made._given_up)
        made.adopt(memory)
        until(lambda: memory.reasons)
    assert "died 1 times" in memory.reasons[0]


def test_who_dies_again_is_restarted_later_and_meanwhile_it_is_503_at_once(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    """After half a second the second time; the reason is told."""
    with pool(supervisor, launch_of(tmp_path)) as made:
        for _ in range(2):
            with pytest.raises(WorkerLostError):
                ask(made, "os._exit(6)")
        until(lambda: made.workers == 0)
        began = time.monotonic()
        with pytest.raises(WorkerLostError, match=r"gets a new one soon: its worker exited with status 6"):
            ask(made, "1")
        assert time.monotonic() - began < 0.3
        until(lambda: made.workers == 1)
        assert time.monotonic() - began > 0.2
        assert ask(made, "2") == 2


def test_all_that_died_come_back(supervisor: Supervisor, tmp_path: Path) -> None:
    """Three at once: one at once, the others after the pause."""
    with pool(supervisor, launch_of(tmp_path), min_workers=3) as made:
        old = pids(made)
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        until(lambda: made.workers == 3 and not pids(made) & old)


def test_who_dies_again_and_again_is_given_up_with_the_reason(supervisor: Supervisor, tmp_path: Path) -> None:
    """Once; and every later request hears it."""
    with pool(supervisor, launch_of(tmp_path), max_deaths=2) as made:
        made.host = memory = Memory()
        for _ in range(2):
            with pytest.raises(UnavailableError):
                ask(made, "os._exit(6)")
        assert memory.is_withdrawn.wait(5)
        (reason,) = memory.reasons
        assert "died 2 times without one answer, the last time: its worker exited with status 6" in reason
        with pytest.raises(UnavailableError, match="died 2 times"):
            ask(made, "1")


def test_restarts_that_fail_count_as_deaths(supervisor: Supervisor, tmp_path: Path) -> None:
    """A file that was changed, or a device that is gone: given up with what the handler said."""
    launch = launch_of(tmp_path)
    with pool(supervisor, launch, max_deaths=2) as made:
        made.host = memory = Memory()
        Path(launch.file).write_text("raise RuntimeError('no device')\n")
        with pytest.raises(UnavailableError):
            ask(made, "os._exit(6)")
        assert memory.is_withdrawn.wait(5)
    assert "RuntimeError: no device" in memory.reasons[0]


def test_who_stands_in_line_when_the_last_dies_is_told_at_once(supervisor: Supervisor, gated: Gated) -> None:
    """No worker is coming soon: nobody waits for its deadline."""
    with pool(supervisor, gated.launch) as made:
        made._deaths.count = 2  # it died before
        with in_background(ask_for(made, "a"), ask_for(made, "b"), ask_for(made, "c")) as answers:
            until(lambda: len(made._line) == 2)
            began = time.monotonic()
            os.kill(next(iter(pids(made))), signal.SIGKILL)
        assert time.monotonic() - began < 1
    assert all(isinstance(each, WorkerLostError) for each in answers)


def test_a_hang_is_killed_at_the_deadline_and_replaced(supervisor: Supervisor, tmp_path: Path) -> None:
    """503 for who asked; the next one is served."""
    with pool(supervisor, launch_of(tmp_path), predict_timeout_s=0.3) as made:
        (pid,) = pids(made)
        began = time.monotonic()
        with pytest.raises(WorkerLostError, match="did not answer in time"):
            ask(made, "time.sleep(9)")
        assert time.monotonic() - began < 2
        assert not is_alive(pid)
        assert ask(made, "3") == 3


def test_a_handlers_exception_is_no_death(supervisor: Supervisor, tmp_path: Path) -> None:
    """424, by the same worker, as often as it likes."""
    with pool(supervisor, launch_of(tmp_path), max_deaths=2) as made:
        for _ in range(5):
            with pytest.raises(ModelFailedError, match="ZeroDivisionError"):
                ask(made, "1 / 0")
        assert made.workers == 1


# ---- batches ---------------------------------------------------------------------------------------------------------

BATCH = """
import json
from serving.workers.handler import Reply
from serving.workers.dialects import sagemaker
def call(self, requests):
    bodies = [bytes(each.body).decode() for each in requests]
    if "bad" in bodies:
        raise ValueError("one of them is bad")
    if "die" in bodies:
        import os; os._exit(2)
    if "stream" in bodies:
        return [Reply(chunks=iter([b"a", body.encode()])) for body in bodies]
    return [Reply(json.dumps([body, len(bodies)]).encode()) for body in bodies]
sagemaker.SageMakerHandler.call = call
def transform_fn(model, body, content_type, accept): pass
"""
"""A handler that answers each request with its body and the size of the batch."""


@pytest.fixture
def batching(supervisor: Supervisor, tmp_path: Path) -> Iterator[Pool]:
    """One worker, batches of four, gathered for a second at most."""
    with pool(supervisor, launch_of(tmp_path, BATCH, batch_size=4), max_batch_delay_s=1.0) as made:
        yield made


def test_a_batch_is_gathered_and_each_gets_its_own_answer(batching: Pool) -> None:
    """Full before the delay is over: nobody waits for it."""
    began = time.monotonic()
    with in_background(*(ask_for(batching, name) for name in "abcd")) as answers:
        pass
    assert answers == [["a", 4], ["b", 4], ["c", 4], ["d", 4]]
    assert time.monotonic() - began < 0.9


def test_a_batch_that_does_not_fill_goes_after_the_delay(supervisor: Supervisor, tmp_path: Path) -> None:
    """With who is there."""
    launch = launch_of(tmp_path, BATCH, batch_size=4)
    with pool(supervisor, launch, max_batch_delay_s=0.2) as made:
        began = time.monotonic()
        assert ask_for(made, "a")() == ["a", 1]
        assert 0.2 <= time.monotonic() - began < 1


def test_more_than_a_batch_are_more_batches(batching: Pool) -> None:
    """Nobody is forgotten."""
    with in_background(*(ask_for(batching, str(number)) for number in range(11))) as answers:
        pass
    assert [answer[0] for answer in answers] == [str(number) for number in range(11)]
    assert max(answer[1] for answer in answers) == 4


def test_an_idle_worker_takes_who_is_too_many_for_the_batch(supervisor: Supervisor, tmp_path: Path) -> None:
    """Who comes while a batch is gathered stands in line for it, and not behind it."""
    launch = launch_of(tmp_path, BATCH, batch_size=2)
    with (
        pool(supervisor, launch, min_workers=2, max_batch_delay_s=0.3) as made,
        in_background(*(ask_for(made, name) for name in "abc")) as answers,
    ):
        pass
    assert sorted(answer[1] for answer in answers) == [1, 2, 2]
    assert not made._line


@pytest.mark.parametrize(("word", "kind"), [("bad", ModelFailedError), ("die", WorkerLostError)])
def test_what_fails_a_batch_fails_all_of_it_and_no_more(batching: Pool, word: str, kind: type[ServingError]) -> None:
    """Each request of it hears why; none waits for its deadline."""
    began = time.monotonic()
    with in_background(*(ask_for(batching, name) for name in ("a", word, "c", "d"))) as answers:
        pass
    assert [type(each) for each in answers] == [kind] * 4
    assert time.monotonic() - began < 3
    assert ask_for(batching, "e")() == ["e", 1]


def test_a_batch_made_elsewhere_goes_as_it_is(batching: Pool) -> None:
    """Nobody is gathered to it, and nothing is waited for."""
    began = time.monotonic()
    replies = batching.submit_all([Request(body=name.encode()) for name in "abc"], soon())
    assert [json.loads(bytes(each.body)) for each in replies] == [["a", 3], ["b", 3], ["c", 3]]
    assert time.monotonic() - began < 0.9


def test_who_keeps_the_line_hears_how_many_workers_there_are(supervisor: Supervisor, tmp_path: Path) -> None:
    """Now, when one dies, and when its successor is there."""
    heard: list[int] = []
    with pool(supervisor, launch_of(tmp_path), min_workers=2) as made:
        made.watch(heard.append)
        with pytest.raises(WorkerLostError):
            ask(made, "os._exit(1)")
        until(lambda: len(heard) == 3)
    assert heard == [2, 1, 2]


def test_a_stream_alone_in_its_batch_is_a_stream(batching: Pool) -> None:
    """It holds the worker to its end, as without batches."""
    reply = send(batching, "stream")
    assert reply.chunks is not None
    assert next(reply.chunks) == b"a"
    assert not batching._idle
    assert list(reply.chunks) == [b"stream"]
    assert ask_for(batching, "b")() == ["b", 1]


def test_streams_of_one_batch_are_whole_bodies(batching: Pool) -> None:
    """One channel cannot stream to two."""
    with in_background(lambda: send(batching, "stream"), lambda: send(batching, "x")) as replies:
        pass
    assert sorted(bytes(reply.body) for reply in replies) == [b"astream", b"ax"]


# ---- streams ---------------------------------------------------------------------------------------------------------

STREAM = """
import time
def transform_fn(model, body, content_type, accept):
    if body == b"whole":
        return "whole"
    def each():
        yield "a"
        if body == b"fail":
            raise ValueError("no more")
        while body == b"hang":
            time.sleep(1)
        yield "b"
    return each()
"""


@pytest.fixture
def streaming(supervisor: Supervisor, tmp_path: Path) -> Iterator[Pool]:
    with pool(supervisor, launch_of(tmp_path, STREAM)) as made:
        yield made


def test_a_stream_holds_its_worker_until_its_end(streaming: Pool) -> None:
    """Nobody else is served by it meanwhile."""
    reply = send(streaming, "")
    assert not streaming._idle
    with pytest.raises(UnavailableError, match="no worker was free"):
        send(streaming, "whole", seconds=0.1)
    assert b"".join(reply.chunks or ()) == b"ab"
    assert send(streaming, "whole").body == b"whole"


@pytest.mark.parametrize("taken", [0, 1])
def test_a_stream_that_is_closed_gives_its_worker_back(streaming: Pool, taken: int) -> None:
    """Once, however often it is closed."""
    chunks = send(streaming, "").chunks
    assert chunks is not None
    for _ in range(taken):
        next(chunks)
    for _ in range(2):
        chunks.close()  # type: ignore[attr-defined]
    assert len(streaming._idle) == 1
    assert send(streaming, "whole").body == b"whole"


def test_a_stream_that_fails_gives_its_worker_back(streaming: Pool) -> None:
    """With the handler's last line."""
    chunks = send(streaming, "fail").chunks
    assert chunks is not None
    assert next(chunks) == b"a"
    with pytest.raises(ModelFailedError, match="no more"):
        next(chunks)
    assert len(streaming._idle) == 1


def test_a_worker_that_dies_in_a_stream_is_replaced(streaming: Pool) -> None:
    """The stream ends with an error and not as if it were whole."""
    chunks = send(streaming, "hang").chunks
    assert chunks is not None
    os.kill(next(iter(pids(streaming))), signal.SIGKILL)
    with pytest.raises(WorkerLostError):
        list(chunks)
    assert send(streaming, "whole").body == b"whole"


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_closing_ends_all_and_fails_who_waits(supervisor: Supervisor, gated: Gated) -> None:
    """When it returns no process is left."""
    with pool(supervisor, gated.launch, min_workers=2) as made:
        left = pids(made)
        with in_background(*(ask_for(made, name) for name in "abc")) as answers:
            until(lambda: len(made._line) == 1 and len(gated.began()) == 2)
            gated.go()
            made.close()
            assert not any(map(is_alive, left))
        with pytest.raises(UnavailableError, match="takes no requests: it is being unloaded"):
            send(made, "d")
    assert any(isinstance(each, UnavailableError) for each in answers)


def test_closing_ends_a_worker_that_is_still_starting(supervisor: Supervisor, tmp_path: Path) -> None:
    """A restart that takes a minute does not outlive its model."""
    launch = launch_of(tmp_path)
    source = Path(launch.file)
    with pool(supervisor, launch) as made:
        source.write_text("import time\nopen('slow', 'w').close()\ntime.sleep(60)\n")
        os.kill(next(iter(pids(made))), signal.SIGKILL)
        until((tmp_path / "slow").exists)
        (starting,) = made._loading
        made.close()
        assert not is_alive(starting.pids[0])
        until(lambda: made._starting == 0)


def test_a_first_load_that_fails_raises_and_leaves_nobody(supervisor: Supervisor, tmp_path: Path) -> None:
    """Also those that were ready before it."""
    source = """
    import os
    if os.path.exists("second"): raise KeyError("second")
    open("second", "w").close()
    def transform_fn(model, body, content_type, accept): pass
    """
    made = Pool(Plan(launch_of(tmp_path, source), Wish("m"), min_workers=2, max_workers=2), supervisor)
    with pytest.raises(LoadFailedError, match="KeyError: 'second'"):
        made.start()
    assert made.workers == 0
    with pytest.raises(UnavailableError):
        made.submit(Request(b""), soon())


def test_what_its_workers_hold_is_told_when_it_grew(supervisor: Supervisor, tmp_path: Path) -> None:
    """A leak is the ledger's business, before it is the kernel's."""
    with pool(supervisor, launch_of(tmp_path)) as made:
        made.host = memory = Memory()
        before = made.held_bytes()
        made.measure()
        assert memory.asked == []
        ask(made, "globals().update(leak=b'x' * (64 << 20)) or 1")
        made.measure()
        assert len(memory.asked) == 1
        assert memory.asked[0] > before + (60 << 20)
