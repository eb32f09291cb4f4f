"""Loads, drains and slow bodies never take the threads that answer the platform's polls."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time

import pytest

from serving.server import MANAGEMENT_THREADS
from tests.conftest import StartServer
from tests.server import RunningServer


def _half_a_load(server: RunningServer) -> socket.socket:
    """Begin a POST /models and never finish its body."""
    connection = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=10)
    connection.sendall(b"POST /models HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    return connection


def test_unfinished_management_calls_leave_ping_and_list_quick(start_server: StartServer) -> None:
    """Past the cap they are refused; below it they wait, and nobody else does."""
    server = start_server(WHARF_MAX_IN_FLIGHT="2", SAGEMAKER_MULTI_MODEL="true")
    with contextlib.ExitStack() as stack:
        halves = [stack.enter_context(_half_a_load(server)) for _ in range(MANAGEMENT_THREADS + 8)]
        started = time.monotonic()
        for _ in range(10):
            assert server.client.get("/ping").status_code == 200
            assert server.client.get("/models").json() == {"models": []}
        took_s = time.monotonic() - started
        answered, _, _ = select.select(halves, [], [], 5)
        refusals = [each.recv(4096) for each in answered]

    assert took_s < 1
    assert 1 <= len(refusals) <= 8
    assert all(answer.startswith(b"HTTP/1.1 503") for answer in refusals)


@pytest.mark.parametrize("http_server", ["granian", "gunicorn"])
def test_a_target_model_that_is_not_ascii_never_means_the_default_model(
    start_server: StartServer, http_server: str
) -> None:
    """Granian hands such a header over as an empty one."""
    server = start_server(WHARF_HTTP_SERVER=http_server, WHARF_DEFAULT_MODEL="plain")
    header = [(b"X-Amzn-SageMaker-Target-Model", "modèle".encode())]
    answer = server.client.post("/invocations", json={"instances": [[1]]}, headers=header)

    assert answer.status_code in (400, 404)


def test_every_management_call_has_its_line_and_its_id(start_server: StartServer) -> None:
    """With the Target-Model header, which is for logging only."""
    server = start_server(SAGEMAKER_MULTI_MODEL="true")
    headers = {"X-Request-Id": "load-1", "X-Amzn-SageMaker-Target-Model": "sub/a.tar.gz"}
    answer = server.client.post("/models", content=b"{}", headers=headers)
    server.stop()

    assert answer.headers["X-Request-Id"] == "load-1"
    assert re.search(r"status=400 method=POST path=/models target_model=sub/a.tar.gz request_id=load-1", server.log())


def test_a_models_name_cannot_forge_a_log_line(start_server: StartServer) -> None:
    """A name with spaces and equals signs stands in quotes."""
    server = start_server(SAGEMAKER_MULTI_MODEL="true")
    (server.root / "plain").mkdir()
    (server.root / "plain" / "fake.json").write_text("{}")
    name = "a status=200 b"
    body = {"model_name": name, "url": str(server.root / "plain")}
    assert server.client.post("/models", json=body).status_code == 200
    server.stop()

    assert f'event=loaded model="{name}"' in server.log()
