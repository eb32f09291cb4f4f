"""Every way a server can be ended, or be made to fall: what comes back, what is said, which status."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartServer
from tests.models import make_fake
from tests.server import RunningServer
from tests.waiting import until


def _invoke(server: RunningServer, name: str) -> httpx.Response:
    return httpx.post(f"{server.url}/models/{name}/invoke", json={"instances": [[1]]}, timeout=30)


def _in_flight(server: RunningServer) -> float:
    found = re.search(r"^InFlight (\S+)", server.client.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


def _answers(server: RunningServer) -> bool:
    try:
        return httpx.get(f"{server.url}/ping", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _master_pid(server: RunningServer) -> int:
    """Return the pid of the master, also where something is wrapped around it."""
    stat = Path(f"/proc/{server.server_pid()}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def _end(server: RunningServer) -> int:
    status = server.process.wait(20)
    server.client.close()
    return status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_a_signal_to_the_whole_group_drains_and_ends_with_0(
    start_server: StartServer, http_server: str, number: signal.Signals
) -> None:
    """Ctrl-C, a terminal that is gone, tini -g: every process gets it; a request in flight is answered."""
    server = start_server(WHARF_HTTP_SERVER=http_server, wrap="setsid -w env --default-signal=HUP")
    make_fake(server.root, "slow", delay_ms=400)
    with ThreadPoolExecutor(1) as pool:
        in_flight = pool.submit(_invoke, server, "slow")
        until(lambda: _in_flight(server) == 1)
        server.client.close()
        group = os.getpgid(_master_pid(server))
        assert group != os.getpgid(server.server_pid())  # a second signal beside the master's would make it hang
        os.killpg(group, number)
        assert in_flight.result().status_code == 200
    assert _end(server) == 0
    assert "event=stopped clean=True" in server.log()


def test_nohup_outlives_the_terminal(start_server: StartServer, http_server: str) -> None:
    """Ignored stays ignored, though the master below would restart its child for it."""
    server = start_server(WHARF_HTTP_SERVER=http_server, wrap="nohup")
    server.process.send_signal(signal.SIGHUP)
    os.kill(server.server_pid(), signal.SIGHUP)

    assert server.client.get("/ping").status_code == 200
    assert server.stop() == 0
    assert server.log().count("event=started") == 1


def test_sigterm_to_the_server_process_alone_replaces_it(start_server: StartServer, http_server: str) -> None:
    """It ends cleanly, a new one takes over with what was loaded."""
    server = start_server(WHARF_HTTP_SERVER=http_server, SAGEMAKER_MULTI_MODEL="true")
    url = str(make_fake(server.root, "a"))
    server.client.post("/models", json={"model_name": "a", "url": url})
    server.client.close()  # gunicorn would wait two seconds for the next request on it
    first = server.server_pid()
    os.kill(first, signal.SIGTERM)
    until(lambda: server.server_pid() != first and _answers(server))

    assert httpx.get(f"{server.url}/models").json() == {"models": [{"modelName": "a", "modelUrl": url}]}
    assert _invoke(server, "a").status_code == 200
    assert server.stop() == 0


def test_sigterm_while_a_new_server_process_starts_is_not_lost(start_server: StartServer) -> None:
    """A child that has no handlers of its own yet ends at once, and the status is true."""
    server = start_server()
    first = server.server_pid()
    os.kill(first, signal.SIGKILL)
    until(lambda: server.server_pid() != first)

    assert server.stop(timeout_s=6) == 0


def test_two_deaths_within_seconds_end_the_container_and_say_so(start_server: StartServer) -> None:
    """Granian's rule: status 1, so that who runs it restarts it whole; no journal is left for another life."""
    server = start_server()
    killed = []
    for _ in range(2):
        killed.append(server.server_pid())
        os.kill(killed[-1], signal.SIGKILL)
        until(lambda: server.process.poll() is not None or server.server_pid() not in killed)

    assert _end(server) == 1
    assert "event=crash_loop" in server.log()
    assert "Traceback" not in server.log()
    assert list((server.log_path.parent / "cache").glob("wharf-journal-*")) == []


def test_a_second_death_while_models_are_restored_loses_none(start_server: StartServer) -> None:
    """gunicorn has no such rule: the list is whole again, also for what was still coming in."""
    server = start_server(WHARF_HTTP_SERVER="gunicorn", SAGEMAKER_MULTI_MODEL="true", WHARF_LOAD_TIMEOUT="20")
    for name in ("a", "b"):
        url = str(make_fake(server.root, name, load_ms=300))
        assert server.client.post("/models", json={"model_name": name, "url": url}).status_code == 200
    killed = []
    for _ in range(2):
        killed.append(server.server_pid())
        os.kill(killed[-1], signal.SIGKILL)
        until(lambda: server.server_pid() not in killed)
    until(lambda: _answers(server))

    names = [each["modelName"] for each in httpx.get(f"{server.url}/models").json()["models"]]
    assert names == ["a", "b"]
    assert {_invoke(server, name).status_code for name in names} == {200}
    assert server.stop() == 0


def test_a_drain_past_its_limit_is_no_clean_end_under_gunicorn_either(start_server: StartServer) -> None:
    """The exit status is true under both servers."""
    server = start_server(WHARF_HTTP_SERVER="gunicorn", WHARF_SHUTDOWN_TIMEOUT="0.5")
    make_fake(server.root, "endless", delay_ms=20_000)
    with ThreadPoolExecutor(1) as pool:
        in_flight = pool.submit(_invoke, server, "endless")
        until(lambda: _in_flight(server) == 1)
        status = server.stop()
        assert isinstance(in_flight.exception(10), httpx.TransportError)

    assert status == 1


def test_a_master_that_is_killed_takes_the_server_process_along(start_server: StartServer, http_server: str) -> None:
    """Nobody else would end it, and it holds the port."""
    server = start_server(WHARF_HTTP_SERVER=http_server)
    child = server.server_pid()
    server.client.close()
    server.process.kill()
    server.process.wait()
    until(lambda: not _answers(server))

    until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])
    assert "event=stopped clean=True" in server.log()
