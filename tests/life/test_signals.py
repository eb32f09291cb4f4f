"""How a server ends, and how it comes back."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.conftest import StartServer
from tests.models import make_fake
from tests.server import RunningServer


def _invoke(server: RunningServer, name: str) -> httpx.Response:
    return httpx.post(f"{server.url}/models/{name}/invoke", json={"instances": [[1]]}, timeout=30)


def _wait_for(condition: object, timeout_s: float = 15) -> None:
    assert callable(condition)
    pause, deadline = threading.Event(), time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        pause.wait(0.02)


def _in_flight(server: RunningServer) -> float:
    found = re.search(r"^InFlight (\S+)", server.client.get("/metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


def test_sigterm_answers_what_is_in_flight_unloads_and_exits_with_0(
    start_server: StartServer, http_server: str
) -> None:
    """Drained, unloaded, true exit status, well inside docker's 10 s."""
    server = start_server(WHARF_HTTP_SERVER=http_server)
    make_fake(server.root, "slow", delay_ms=1000)
    server.client.get("/ping")
    with ThreadPoolExecutor(1) as pool:
        in_flight = pool.submit(_invoke, server, "slow")
        _wait_for(lambda: _in_flight(server) == 1)
        started = time.monotonic()
        status = server.stop()
        answer = in_flight.result()

    assert (status, answer.status_code) == (0, 200)
    assert time.monotonic() - started < 8
    assert "event=unloaded model=slow" in server.log()
    assert "clean=True" in server.log()


def test_a_drain_past_its_limit_is_cut_and_says_so(start_server: StartServer) -> None:
    """A request of 30 s does not keep the container from ending."""
    server = start_server(WHARF_SHUTDOWN_TIMEOUT="1")
    make_fake(server.root, "endless", delay_ms=30_000)
    with ThreadPoolExecutor(1) as pool:
        in_flight = pool.submit(_invoke, server, "endless")
        _wait_for(lambda: _in_flight(server) == 1)
        started = time.monotonic()
        status = server.stop()
        took_s = time.monotonic() - started
        assert isinstance(in_flight.exception(10), httpx.TransportError) or in_flight.result().status_code == 503

    assert took_s < 6
    assert status != 0


def test_a_killed_server_process_comes_back_with_what_was_loaded(start_server: StartServer, http_server: str) -> None:
    """kill -9 under load: in-flight requests fail fast, the list is whole, later requests succeed."""
    server = start_server(WHARF_HTTP_SERVER=http_server, SAGEMAKER_MULTI_MODEL="true")
    for name in ("a", "b", "slow"):
        make_fake(server.root, name, delay_ms=20_000 if name == "slow" else 0)
        body = {"model_name": name, "url": str(server.root / name)}
        assert server.client.post("/models", json=body).status_code == 200
    server.client.delete("/models/b")
    with ThreadPoolExecutor(4) as pool:
        in_flight = [pool.submit(_invoke, server, "slow") for _ in range(4)]
        _wait_for(lambda: _in_flight(server) == 4)
        killed = time.monotonic()
        os.kill(server.server_pid(), signal.SIGKILL)
        for each in in_flight:
            assert isinstance(each.exception(5), httpx.TransportError)
        assert time.monotonic() - killed < 5

    with httpx.Client(base_url=server.url, timeout=10) as client:
        _wait_for(lambda: _answers(client))
        names = [each["modelName"] for each in client.get("/models").json()["models"]]
        assert names == ["a", "slow"]
        assert _invoke(server, "a").json() == {"predictions": [[4.0]]}
        assert client.post("/models", json={"model_name": "a", "url": str(server.root / "a")}).status_code == 409
        assert client.delete("/models/slow").status_code == 200
    assert server.stop() == 0


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/ping").status_code == 200
    except httpx.TransportError:
        return False


def test_a_new_master_starts_empty(start_server: StartServer) -> None:
    """A restarted container has nothing loaded: the platform knows that."""
    first = start_server(SAGEMAKER_MULTI_MODEL="true")
    make_fake(first.root, "a")
    first.client.post("/models", json={"model_name": "a", "url": str(first.root / "a")})
    first.stop()
    second = start_server(SAGEMAKER_MULTI_MODEL="true")

    assert second.client.get("/models").json() == {"models": []}
