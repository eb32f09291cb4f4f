"""Workers that hang while nobody asks: found by a ping, replaced, and who is busy or well is left alone."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.workers.pool import Pool
from serving.workers.supervisor import Supervisor
from tests.waiting import until
from tests.workers.processes import ask, in_background, is_alive, launch_of, pool, send
from tests.workers.rank_models import groups, pids, ranked_launch

GIL_FOR_EVER = "import ctypes, threading; threading.Thread(target=ctypes.PyDLL(None).sleep, args=[600]).start()"
"""A library's lock that never comes, taken with the GIL held."""
NUMBERED = """
import os
def transform_fn(model, body, content_type, accept):
    for number in range(3):
        yield str(number)
"""


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    """One zygote for all."""
    made = Supervisor(("numpy", "torch"))
    yield made
    made.close()


def pid(made: Pool) -> int:
    (member,) = made._live
    return member.pids[0]


def is_found(made: Pool, *hung: int) -> None:
    """Pings, and no requests, end these processes, and there are others."""

    def are_gone() -> bool:
        made.ping()
        return not any(map(is_alive, hung))

    until(are_gone)
    until(lambda: made.workers == 1)


def hangs_at_once(made: Pool) -> None:
    """Have the worker's GIL taken, from the moment of its answer on."""
    send(made, "import threading; threading.Timer(0.05, exec, [" + repr(GIL_FOR_EVER) + ", {}]).start()")


def test_a_worker_that_is_stopped_is_found_and_replaced(
    supervisor: Supervisor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says which one, and that nobody had asked it anything."""
    with pool(supervisor, launch_of(tmp_path), ping_s=0.01, ping_timeout_s=0.3) as made, caplog.at_level(logging.INFO):
        hung = pid(made)
        os.kill(hung, signal.SIGSTOP)
        is_found(made, hung)
        assert ask(made, "os.getpid()") != hung
    assert "event=worker_hung model=m instance=0 rank=0 requests=0" in caplog.text
    assert "event=worker_lost model=m instance=0" in caplog.text


def test_a_worker_whose_thread_keeps_the_gil_is_found(supervisor: Supervisor, tmp_path: Path) -> None:
    """It runs, as far as the kernel knows."""
    with pool(supervisor, launch_of(tmp_path), ping_s=0.01, ping_timeout_s=0.5) as made:
        hung = pid(made)
        hangs_at_once(made)
        is_found(made, hung)
        assert ask(made, "os.getpid()") != hung


@pytest.mark.torch
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped_ends_its_group(
    supervisor: Supervisor, tmp_path: Path, rank: int, caplog: pytest.LogCaptureFixture
) -> None:
    """All of it, and the next one is there before anybody asks."""
    with groups(supervisor, ranked_launch(tmp_path), ping_s=0.01, ping_timeout_s=0.5) as made:
        before = pids(made)
        os.kill(before[rank], signal.SIGSTOP)
        is_found(made, *before)
        assert ask(made, "agree()") == 2
    assert f"event=worker_hung model=m instance=0 rank={rank} requests=0" in caplog.text


@pytest.mark.torch
def test_a_group_that_is_well_stays(supervisor: Supervisor, tmp_path: Path) -> None:
    """Many pings, and requests between them."""
    with groups(supervisor, ranked_launch(tmp_path), ping_s=0.001) as made:
        before = pids(made)
        for _ in range(50):
            made.ping()
            assert ask(made, "agree()") == 2
        assert pids(made) == before


def test_requests_and_pings_do_not_meet(supervisor: Supervisor, tmp_path: Path) -> None:
    """Several callers, a ping at every moment: each answer is its request's, no worker is lost, each stays idle."""
    is_over = threading.Event()

    def ping() -> None:
        while not is_over.wait(0.0001):
            made.ping()

    def visit(which: int) -> list[Any]:
        return [ask(made, str(which + number)) for number in range(300)]

    with pool(supervisor, launch_of(tmp_path), ping_s=0.0, min_workers=2, max_workers=2) as made:
        before = {each.pids[0] for each in made._live}
        pinger = threading.Thread(target=ping)
        pinger.start()
        with in_background(*(lambda which=1000 * each: visit(which) for each in range(3))) as answers:
            pass
        is_over.set()
        pinger.join()
        assert answers == [list(range(1000 * each, 1000 * each + 300)) for each in range(3)]
        until(lambda: len(made._idle) == 2)
        assert {each.pids[0] for each in made._live} == before


def test_a_busy_worker_is_not_asked(supervisor: Supervisor, tmp_path: Path) -> None:
    """It may take as long as its predict timeout."""
    with pool(supervisor, launch_of(tmp_path), ping_s=0.001, ping_timeout_s=0.01) as made:
        with in_background(lambda: ask(made, "(open('began', 'w').close(), time.sleep(0.3), os.getpid())[2]")) as found:
            until((tmp_path / "began").exists)
            while found[0] is None:
                made.ping()
        assert found == [pid(made)]


def test_a_stream_that_nobody_reads_is_not_asked(supervisor: Supervisor, tmp_path: Path) -> None:
    """Its worker is the reader's until the end."""
    with pool(supervisor, launch_of(tmp_path, NUMBERED), ping_s=0.001, ping_timeout_s=0.01) as made:
        chunks: Any = send(made, "").chunks
        for _ in range(20):
            made.ping()
        assert b"".join(chunks) == b"012"
        assert made.workers == 1


def test_a_request_that_comes_while_one_is_asked_gets_the_next_worker(supervisor: Supervisor, tmp_path: Path) -> None:
    """It waits in line as long as the ping may take, and for the load: not for its own deadline."""
    with pool(supervisor, launch_of(tmp_path), ping_s=0.0, ping_timeout_s=0.5) as made:
        hung = pid(made)
        os.kill(hung, signal.SIGSTOP)
        made.ping()
        assert not made._idle
        assert ask(made, "os.getpid()", 20) != hung


def test_a_ping_takes_no_longer_than_a_request_may(supervisor: Supervisor, tmp_path: Path) -> None:
    """Requests of a short predict timeout would all wait in vain for the end of a long ping."""
    with pool(supervisor, launch_of(tmp_path), ping_s=0.0, ping_timeout_s=60, predict_timeout_s=0.5) as made:
        hung = pid(made)
        os.kill(hung, signal.SIGSTOP)
        made.ping()
        until(lambda: not is_alive(hung))


def test_a_ping_that_gets_no_thread_loses_no_worker(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine may have no more threads for a while."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError(f"can't start new thread {thread.name}")

    with pool(supervisor, launch_of(tmp_path), ping_s=0.0, min_workers=2, max_workers=2) as made:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            made.ping()
        assert len(made._idle) == 2


def test_a_ping_that_fails_loses_no_worker(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the trouble: who lives answers the next request."""
    with pool(supervisor, launch_of(tmp_path), ping_s=0.0) as made:
        (member,) = made._live
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(member, "ping", lambda _deadline: bytes(1 << 62))
            made._ping(made._idle.take())
        assert ask(made, "1") == 1


def test_a_ping_makes_no_worker_less_idle(supervisor: Supervisor, tmp_path: Path) -> None:
    """One beyond the least number ends though it has just said that it lives."""
    with pool(supervisor, launch_of(tmp_path), max_workers=2, idle_s=0.2, ping_s=0.0) as made:
        with made._lock:
            made._starting += 1
        made._try_to_start()
        until(lambda: made.workers == 2)

        def is_one_left() -> bool:
            made.ping()
            until(lambda: len(made._idle) == made.workers)
            made.trim()
            return made.workers == 1

        until(is_one_left)


def test_a_model_that_hangs_again_and_again_is_given_up(supervisor: Supervisor, tmp_path: Path) -> None:
    """A hang is a death."""
    with pool(supervisor, launch_of(tmp_path), ping_s=0.0, ping_timeout_s=0.2, max_deaths=1) as made:
        hung = pid(made)
        os.kill(hung, signal.SIGSTOP)
        made.ping()
        until(lambda: made._gone)
        assert "died 1 times without one answer" in made._gone
        assert not is_alive(hung)


def test_a_model_that_is_unloaded_while_it_is_asked_is_gone(supervisor: Supervisor, tmp_path: Path) -> None:
    """With a stopped worker, too, once its farewell has had its time."""
    with pool(supervisor, launch_of(tmp_path), ping_s=0.0) as made:
        hung = pid(made)
        os.kill(hung, signal.SIGSTOP)
        made.ping()
        began = time.monotonic()
        made.close()
        assert time.monotonic() - began < 10
        assert not is_alive(hung)
