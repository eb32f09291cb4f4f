"""Far more SavedModels than fit: nothing fails under load, and what an unload frees is the system's again."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartServer
from tests.models import MIB
from tests.server import RunningServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="no TensorFlow for this machine"),
]

MODELS = 50
MODEL_BYTES = 20 * MIB
FIT = 15
# Weights, and what a worker and its session hold besides: 33-36 MiB measured.
EACH_BYTES = MODEL_BYTES + 36 * MIB
CLIENTS = 4
SECONDS = 30


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of 20 MiB: y = x + 1."""
    folder = tmp_path_factory.mktemp("large") / "model"
    command = [sys.executable, "-m", "tests.saved_models", str(folder), str(MODEL_BYTES)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def link(source: Path, target: Path) -> None:
    """Lay a copy of a SavedModel out as version 1, without its bytes once more on the disk."""
    for file in (each for each in source.rglob("*") if each.is_file()):
        to = target / "1" / file.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, to)


def tree_bytes(pid: int) -> int:
    """Return the anonymous memory of a process and of all below it; libraries are shared with whoever else has them."""
    children = " ".join(each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/children")).split()
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    own_bytes = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:"))
    return own_bytes + sum(tree_bytes(int(child)) for child in children)


def invoke(client: httpx.Client, name: str) -> int:
    """Ask once; the status, negative for a wrong answer."""
    answer = client.post(f"/models/{name}/invoke", json={"instances": [1.0, 2.0]})
    return answer.status_code if answer.json() == {"predictions": [2.0, 3.0]} else -answer.status_code


def _drive(server: RunningServer, seed: int, until: float, statuses: list[int]) -> None:
    chance = random.Random(seed)
    weights = [1 / rank for rank in range(1, MODELS + 1)]
    with httpx.Client(base_url=server.url, timeout=70) as client:
        while time.monotonic() < until:
            (number,) = chance.choices(range(MODELS), weights)
            statuses.append(invoke(client, f"m{number:02d}"))


def test_fifty_saved_models_in_room_for_fifteen_fail_nothing(start_server: StartServer, large: Path) -> None:
    """50 models of 20 MiB, 4 clients, Zipf(1.0), 30 s: every answer is right, and the budget holds."""
    budget_bytes = FIT * EACH_BYTES
    server = start_server(WHARF_MEMORY_BUDGET=str(budget_bytes), WHARF_LOG_LEVEL="debug", WHARF_ACCESS_LOG="errors")
    for number in range(MODELS):
        link(large, server.root / f"m{number:02d}")
    assert invoke(server.client, "m00") == 200
    statuses: list[int] = []
    until = time.monotonic() + SECONDS
    clients = [threading.Thread(target=_drive, args=(server, seed, until, statuses)) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    held = []
    while any(client.is_alive() for client in clients):
        clients[0].join(0.5)
        held.append(_metric(server, "MemoryReservedBytes"))
    for client in clients:
        client.join()
    loads = len(re.findall("event=loaded", server.log()))
    evictions = len(re.findall("event=choosing", server.log()))
    print(f"{len(statuses)} requests, {loads} loads, {evictions} evictions, at most {max(held) / MIB:.0f} MiB held")
    assert set(statuses) == {200}
    assert evictions > FIT
    assert max(held) <= 1.1 * budget_bytes


def _metric(server: RunningServer, name: str) -> float:
    return float(re.findall(rf"(?m)^{name} (\S+)$", server.client.get("/metrics").text)[0])


def test_cycles_of_a_saved_model_leave_memory_where_it_was(start_server: StartServer, large: Path) -> None:
    """After each DELETE all that the model took is back, within a tenth of it."""
    server = start_server(SAGEMAKER_MULTI_MODEL="true")
    link(large, server.root / "m")
    figures = []
    for _ in range(5):
        load = {"model_name": "m", "url": str(server.root / "m")}
        assert server.client.post("/models", json=load).status_code == 200
        assert invoke(server.client, "m") == 200
        full_bytes = tree_bytes(server.server_pid())
        assert server.client.delete("/models/m").status_code == 200
        figures.append((full_bytes, tree_bytes(server.server_pid())))
    print(", ".join(f"{full / MIB:.0f} -> {empty / MIB:.0f} MiB" for full, empty in figures))
    first, *others = [empty for _, empty in figures]
    took_bytes = figures[1][0] - figures[0][1]
    assert took_bytes > MODEL_BYTES
    assert all(abs(each - first) < took_bytes / 10 for each in others)
