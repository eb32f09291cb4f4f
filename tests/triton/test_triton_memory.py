"""Shared memory under load, through the whole server: right answers, a killed tritonserver, nothing left behind."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server import RunningServer
from tests.triton.models import CONFIG, write_model
from tests.triton.test_triton_backend import tritonserver_pid
from tests.waiting import until

triton = pytest.importorskip("tritonclient.http")

# One picture, and so many of it a request that the requests in flight do not all find room in 4 MiB.
SIZE, ROWS, LANES = 3 * 224 * 224, 2, 4
LARGE = CONFIG.replace("dims: [ 2 ]", f"dims: [ {SIZE} ]")


@pytest.fixture
def server(environ: dict[str, str], tmp_path: Path) -> Iterator[RunningServer]:
    """A server that shares little with its tritonserver, with a model that triples."""
    write_model(tmp_path / "models/large", 3, LARGE)
    more = {"WHARF_TRITON_SHARED_MEMORY": "4MiB", "WHARF_LOG_LEVEL": "debug"}
    with RunningServer(tmp_path / "models", tmp_path / "log", environ | more) as server:
        yield server


def pictures(first: float) -> Any:
    """Some rows of numbers, the first of which is `first`."""
    found = np.arange(ROWS * SIZE, dtype=np.float32).reshape(ROWS, SIZE)
    found[0, 0] = first
    return found


def ask(server: RunningServer, first: float) -> str:
    """Ask once; return "right", "wrong" or what was said instead of an answer."""
    tensor = pictures(first)
    given = triton.InferInput("x", tensor.shape, "FP32").set_data_from_numpy(tensor)
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        try:
            found = client.infer("large", [given]).as_numpy("y")
        except triton.InferenceServerException as error:
            return str(error.message())
    return "right" if np.array_equal(found, tensor * np.float32(3)) else "wrong"


def names(server: RunningServer) -> list[str]:
    """Files in /dev/shm that are ours or our tritonserver's."""
    prefix = (server.log_path.parent / "cache/tritonserver/regions").read_text()
    return [each.name for each in Path("/dev/shm").glob(f"{prefix}*")]


def mapped(server: RunningServer) -> set[str]:
    """Regions that the server process has mapped, files without a name: their inodes."""
    lines = Path(f"/proc/{server.server_pid()}/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "io_" in line and line.endswith("(deleted)")}


def test_a_killed_tritonserver_leaves_no_wrong_answer_and_no_memory(server: RunningServer) -> None:
    """Requests in flight fail at once and say so; those after it are right again, by memory of the next one."""
    assert ask(server, 1) == "right"
    assert mapped(server)
    pid, answers, is_over = tritonserver_pid(server), [], threading.Event()

    def lane(number: int) -> None:
        while not is_over.is_set():
            answers.append(ask(server, number))

    with ThreadPoolExecutor(LANES) as pool:
        for number in range(LANES):
            pool.submit(lane, number)
        until(lambda: len(answers) > 3 * LANES, 60)
        before = mapped(server)
        os.kill(pid, signal.SIGKILL)
        until(lambda: tritonserver_pid(server) != pid, 60)
        answered = len(answers)
        until(lambda: answers[answered:].count("right") > 3 * LANES, 60)
        is_over.set()
    assert "wrong" not in answers
    assert mapped(server)
    assert not mapped(server) & before
    assert not [each for each in names(server) if "io_" in each]


def test_nothing_is_left_in_dev_shm(environ: dict[str, str], tmp_path: Path) -> None:
    """After an end in order, and after a kill of everything."""
    write_model(tmp_path / "models/large", 3, LARGE)
    server = RunningServer(tmp_path / "models", tmp_path / "log", environ)
    assert ask(server, 1) == "right"
    child = tritonserver_pid(server)
    os.kill(server.server_pid(), signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    assert not [each for each in names(server) if "io_" in each]
    until(lambda: server.log().count("event=started") == 2)
    until(lambda: _answers(server), 60)
    server.stop()
    assert names(server) == []


def _answers(server: RunningServer) -> bool:
    try:
        return ask(server, 1) == "right"
    except OSError:  # no server process just now
        return False


def test_it_can_be_turned_off(environ: dict[str, str], tmp_path: Path) -> None:
    """Then all tensors go by gRPC."""
    write_model(tmp_path / "models/large", 3, LARGE)
    off = {"WHARF_TRITON_SHARED_MEMORY": "off"}
    with RunningServer(tmp_path / "models", tmp_path / "log", environ | off) as server:
        assert ask(server, 1) == "right"
        assert mapped(server) == set()
