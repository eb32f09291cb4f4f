"""How workers end: withdrawn, unloaded, with their server, with their zygote. Nothing of them is left.

Each test has a server of its own over tests/apps; `test_misbehaving` has the deaths that a neighbour watches.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.conftest import StartServer
from tests.people.apps import House, copy_apps, in_sessions, processes
from tests.waiting import until

StartHouse = Callable[..., House]


@pytest.fixture
def start_house(start_server: StartServer) -> Iterator[StartHouse]:
    """Start a server over tests/apps."""
    started: list[House] = []

    def start(**env: str) -> House:
        server = start_server(**{"WHARF_PRELOAD": "numpy"} | env)
        copy_apps(server.root)
        started.append(House(server))
        return started[-1]

    yield start
    for house in started:
        house.client.close()


def _dies_for_good(house: House) -> httpx.Response:
    """Let a model die until it is given up; return what its next caller hears."""
    said: list[httpx.Response] = []

    def is_over() -> bool:
        said.append(house.misbehave("calls_os_exit"))
        return "takes no requests" in said[-1].text or said[-1].status_code == 404

    until(is_over, timeout_s=30)
    until(lambda: house.client.get("/models/calls_os_exit").status_code == 404)
    return house.ask("calls_os_exit")


def test_a_model_that_keeps_dying_is_withdrawn_and_says_why(start_house: StartHouse) -> None:
    """Standalone: a request would load it again, only to see it die, so for a while it gets 503 with the reason."""
    house = start_house(WHARF_WORKER_DEATHS="3")
    house.serves_again("calls_os_exit")
    answer = _dies_for_good(house)

    assert answer.status_code == 503
    assert "died 3 times without one answer" in answer.text
    assert "exited with status 4" in answer.text
    assert house.workers("calls_os_exit") == []
    assert house.load("calls_os_exit").status_code == 200  # somebody who says so gets it at once
    assert house.ask("calls_os_exit").text == "fine"


def test_a_withdrawn_model_of_the_platform_is_a_404_that_says_why(start_house: StartHouse) -> None:
    """Not listed any more, so the platform loads it again."""
    house = start_house(WHARF_WORKER_DEATHS="3", SAGEMAKER_MULTI_MODEL="true")
    assert house.load("calls_os_exit").status_code == 200
    answer = _dies_for_good(house)

    assert answer.status_code == 404
    assert "died 3 times without one answer" in answer.text
    assert house.client.get("/models").json() == {"models": []}
    assert house.load("calls_os_exit").status_code == 200
    assert house.ask("calls_os_exit").text == "fine"


def test_a_load_that_fails_on_the_platform_is_a_500_and_leaves_nothing(start_house: StartHouse) -> None:
    """The last line of the exception, no name, no reservation, no process."""
    house = start_house(SAGEMAKER_MULTI_MODEL="true")
    answer = house.load("crashes_in_load")

    assert answer.status_code == 500
    assert "FileNotFoundError: no weights here" in answer.text
    assert house.client.get("/models/crashes_in_load").status_code == 404
    assert house.client.get("/models").json() == {"models": []}
    assert _reserved_bytes(house) == 0
    assert house.workers("crashes_in_load") == []


def _reserved_bytes(house: House) -> float:
    lines = house.client.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("MemoryReservedBytes "))


def test_a_leak_ends_at_its_limit_and_its_memory_is_back_when_delete_answers(start_house: StartHouse) -> None:
    """MemoryError is 507, as the platform knows it; then the process is gone, and so is its reservation."""
    house = start_house(WHARF_WORKER_MEMORY="512MiB")
    answers = [house.misbehave("leaks") for _ in range(100)]
    (worker,) = house.workers("leaks")
    assert {each.status_code for each in answers} == {200, 507}

    assert house.client.delete("/models/leaks").status_code == 200
    assert in_sessions({worker.pid}) == []
    assert _reserved_bytes(house) == 0


def test_what_a_model_started_goes_with_it(start_house: StartHouse) -> None:
    """A helper, one in a session of its own, and a daemon whose parent is gone."""
    house = start_house()
    started = {int(each) for each in house.misbehave("leaves_children").text.split()}
    assert len(started) == 3

    house.unload("leaves_children")
    assert not started & {each.pid for each in processes()}


def test_a_stream_that_breaks_is_a_broken_body_under_gunicorn(start_house: StartHouse) -> None:
    """What the client has is not all, and it can tell."""
    house = start_house(WHARF_HTTP_SERVER="gunicorn")
    assert house.ask("stream_breaks").text == "fine"

    with pytest.raises(httpx.RemoteProtocolError):
        house.ask("stream_breaks", b"misbehave")


def _full_house(house: House) -> set[int]:
    """Load some models, let them start helpers; return all that runs below the server process."""
    for name in ("steady", "waits"):
        assert house.load(name).status_code == 200
    helper, apart, daemon = (int(each) for each in house.misbehave("leaves_children").text.split())
    below = {each.pid for each in house.all()} - {house.server.server_pid()}
    assert {helper, apart, house.zygote().pid} < below
    return below | {daemon}


def _are_gone(pids: set[int]) -> bool:
    return not pids & {each.pid for each in processes()}


def test_no_worker_outlives_its_server(start_house: StartHouse, http_server: str) -> None:
    """SIGTERM: when the server's process has ended, everything below it has."""
    house = start_house(WHARF_HTTP_SERVER=http_server)
    below = _full_house(house)
    house.client.close()

    assert house.server.stop() == 0
    assert _are_gone(below)


def test_no_worker_outlives_a_server_process_that_is_killed(start_house: StartHouse) -> None:
    """The zygote sees the end of its socket; the next server process has its own, and what was loaded is again."""
    house = start_house()
    below, first = _full_house(house), house.server.server_pid()
    os.kill(first, signal.SIGKILL)

    until(lambda: _are_gone(below))
    until(lambda: house.server.server_pid() != first)
    until(lambda: _answers(house))
    assert house.sessions("steady").isdisjoint(below)


def _answers(house: House) -> bool:
    try:
        return house.client.post("/models/steady/invoke", json=[4]).text == "[8]"
    except httpx.TransportError:
        return False


def test_no_worker_outlives_a_zygote_that_is_killed(start_house: StartHouse) -> None:
    """They have their parent's death for a signal; their models get new ones from a new zygote, and serve again."""
    house = start_house()
    for name in ("steady", "waits"):
        assert house.load(name).status_code == 200
    zygote = house.zygote()
    workers = house.sessions("steady") | house.sessions("waits")
    os.kill(zygote.pid, signal.SIGKILL)

    until(lambda: _are_gone(workers | {zygote.pid}))
    assert house.client.get("/ping").status_code == 200
    until(lambda: _answers(house))
    house.serves_again("waits")
    assert house.zygote().pid != zygote.pid
