"""People's models may do what they like to themselves: callers get the documented answer, a neighbour notices nothing.

Each test asks a model of tests/apps to misbehave, again and again, while two clients keep asking another model
(`neighbour`). One server for all of them: what a model leaves behind, the next test would find.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.people.apps import House, copy_apps
from tests.people.neighbour import Neighbour, neighbour, undisturbed
from tests.server import RunningServer
from tests.waiting import until

PROCESSES = 100
# A lost worker's callers hear of it within this time of its death, and of a late one's within it of its deadline.
LOST_S = 1.0
# predict_timeout_s in the wharf.toml of the models that do not answer.
DEADLINE_S = 0.5


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A server over tests/apps."""
    folder = tmp_path_factory.mktemp("house")
    copy_apps(folder / "models")
    env = {"WHARF_PRELOAD": "numpy", "WHARF_WORKER_PROCESSES": str(PROCESSES), "WHARF_WORKER_FILES": "256"}
    with RunningServer(folder / "models", folder / "server.log", env) as server:
        started = House(server)
        yield started
        started.client.close()


@pytest.fixture(scope="module")
def clients(house: House) -> Iterator[Neighbour]:
    """Clients of a well-behaved model."""
    assert house.client.post("/models/steady/invoke", json=[1]).json() == [2]
    with neighbour(house.server.url, "steady") as started:
        yield started


Check = Callable[..., None]


@pytest.fixture
def check(house: House, clients: Neighbour) -> Check:
    """Misbehave under the neighbour's eyes: `right` looks at each answer, and the model must serve again."""

    def run(name: str, right: Callable[[httpx.Response], object], *, serves_again: bool = True) -> None:
        def misbehave() -> None:
            right(house.misbehave(name))
            if serves_again:
                house.serves_again(name)

        undisturbed(clients, misbehave, lambda: house.unload(name))

    return run


def _is(status: int, *words: str) -> Callable[[httpx.Response], None]:
    def right(answer: httpx.Response) -> None:
        assert answer.status_code == status, answer.text[:500]
        assert all(word in answer.text for word in words), answer.text[:500]

    return right


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("crashes_at_import", "ValueError: no such luck at import"),
        ("crashes_in_load", "FileNotFoundError: no weights here"),
        ("exits_in_load", "its worker exited with status 5"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why_and_leaves_nothing(
    house: House, check: Check, name: str, line: str
) -> None:
    """500 with the last line; not listed, no process, as if it had never been tried."""

    def right(answer: httpx.Response) -> None:
        _is(500, line)(answer)
        assert house.client.get(f"/models/{name}").status_code == 404
        assert house.workers(name) == []

    check(name, right, serves_again=False)


def test_an_exception_is_a_424_with_its_last_line(house: House, check: Check) -> None:
    """The handler's own failure is the request's, not the worker's: the same process answers the next one."""
    house.serves_again("crashes_in_predict")
    before = house.sessions("crashes_in_predict")
    _is(424, "the shape (3,) is not (4,)")(house.misbehave("crashes_in_predict"))
    assert house.sessions("crashes_in_predict") == before

    check("crashes_in_predict", _is(424, "the shape (3,) is not (4,)"))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("calls_sys_exit", "sys.exit(3)"),
        ("calls_os_exit", "exited with status 4"),
        ("segfaults", "killed by signal 11"),
        ("closes_all_files", "lost its worker"),
    ],
)
def test_a_worker_that_ends_is_a_503_at_once_and_is_replaced(house: House, check: Check, name: str, how: str) -> None:
    """Within a second of its death, with the way it ended; the next worker is there in a blink."""
    house.serves_again(name)
    started = time.monotonic()
    _is(503, how)(house.misbehave(name))
    assert time.monotonic() - started < LOST_S

    check(name, _is(503, how))


def test_a_worker_killed_from_outside_is_a_503_at_once_and_is_replaced(house: House, clients: Neighbour) -> None:
    """`kill -9` in the middle of an answer."""

    def misbehave() -> None:
        house.serves_again("waits")
        (worker,) = house.workers("waits")
        with ThreadPoolExecutor(1) as pool:
            in_flight = pool.submit(house.ask, "waits", b"misbehave")
            until(lambda: house.workers("waits")[0].state == "S" and _in_flight(house, "waits") == 1)
            killed = time.monotonic()
            os.kill(worker.pid, signal.SIGKILL)
            _is(503, "killed by signal 9")(in_flight.result())
            assert time.monotonic() - killed < LOST_S
        house.serves_again("waits")

    undisturbed(clients, misbehave, lambda: house.unload("waits"))


def _in_flight(house: House, name: str) -> float:
    lines = house.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("ModelInFlight") and f'"{name}"' in line)


@pytest.mark.parametrize("name", ["hangs", "stops_itself"])
def test_a_worker_that_does_not_answer_is_a_503_at_its_deadline_and_is_replaced(
    house: House, check: Check, name: str
) -> None:
    """Busy for ever, or stopped: 0.5 s by its wharf.toml, and not much more."""
    house.serves_again(name)
    started = time.monotonic()
    _is(503, "did not answer in time")(house.misbehave(name))
    assert DEADLINE_S <= time.monotonic() - started < DEADLINE_S + LOST_S

    check(name, _is(503, "did not answer in time"))


def test_a_fork_bomb_ends_at_the_limit_of_processes(house: House, check: Check) -> None:
    """All of it is ended, and said."""
    check("fork_bomb", _is(503, f"{PROCESSES} are allowed"))
    assert "event=too_many_processes model=fork_bomb" in house.server.log()


def test_a_fork_bomb_that_scatters_over_sessions_is_ended_as_a_whole(house: House, clients: Neighbour) -> None:
    """Each process a session of its own: found by descent.

    The kernel shares the cores among sessions, so that for a second a hundred of them outweigh us: the neighbour's
    answers must be right, and may be late.
    """
    clients.lap(0)
    house.serves_again("fork_bomb")
    _is(503, f"{PROCESSES} are allowed")(house.ask("fork_bomb", b"scatter"))
    house.serves_again("fork_bomb")
    house.unload("fork_bomb")

    assert clients.lap().wrong == []


def test_an_answer_of_200_mb_is_refused_where_it_is_made(house: House, check: Check) -> None:
    """424 that names the limit; the bytes never reach the server."""
    check("replies_200_mb", _is(424, "200000000 bytes", "WHARF_MAX_REPLY_BYTES"))


def test_what_a_model_prints_is_in_the_log_line_by_line(house: House, check: Check) -> None:
    """100,000 lines a request, with the model's name, none lost."""
    _is(200)(house.misbehave("prints_100000_lines"))
    until(lambda: 'text="line 99999 of ' in house.server.log())
    lines = [line for line in house.server.log().splitlines() if "model=prints_100000_lines" in line]
    assert sum("event=output" in line for line in lines) == 100_000

    check("prints_100000_lines", _is(200, "fine"))


def test_a_model_may_move_about_in_its_own_process(house: House, check: Check) -> None:
    """Its folder, umask and environment are its own; the server stays where it is."""
    where = Path(f"/proc/{house.server.server_pid()}/cwd").readlink()
    check("changes_folder", _is(200, "fine"))
    assert Path(f"/proc/{house.server.server_pid()}/cwd").readlink() == where


def test_a_model_may_write_beside_itself(house: House, check: Check) -> None:
    """What it is now, it is at its next load; nobody else's files change."""
    check("writes_beside_itself", _is(200, "fine"))
    assert (house.server.root / "writes_beside_itself" / "written.txt").read_text() == "by the model"
    house.serves_again("writes_beside_itself")


def test_threads_left_behind_keep_nobody_waiting(house: House, check: Check) -> None:
    """Not even their own unload: daemons or not, they end with the process."""
    check("starts_threads", _is(200, "fine"), serves_again=False)


def test_a_model_may_break_the_standard_library_for_itself(house: House, check: Check) -> None:
    """json, print, time, os and the streams: our own words with the server go on."""
    check("patches_everything", _is(200, "fine"))


def test_a_model_without_file_descriptors_left_fails_alone(house: House, check: Check) -> None:
    """EMFILE is its own exception, 424, and it goes on."""
    check("takes_all_files", _is(424, "Too many open files"))


def test_a_stream_that_breaks_is_the_requests_failure_alone(house: House, check: Check) -> None:
    """The status is out already: the client sees what came before, the log why it ended, and the worker lives.

    Granian ends such a body as if it were whole; gunicorn breaks it (test_deaths.py).
    """
    house.serves_again("stream_breaks")
    before = house.sessions("stream_breaks")
    _is(200, "fine")(house.misbehave("stream_breaks"))
    house.serves_again("stream_breaks")
    assert house.sessions("stream_breaks") == before
    assert "event=stream_failed" in house.server.log()
    assert "ValueError: the well ran dry" in house.server.log()

    check("stream_breaks", _is(200, "fine"))


def test_a_leak_is_given_back_by_an_unload(house: House, check: Check) -> None:
    """It grows by 8 MiB a request, and is gone with its process."""
    check("leaks", _is(200, "fine"))
