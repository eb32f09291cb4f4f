"""Many more models than fit, for a minute, from eight clients: nothing fails and the budget holds."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartServer
from tests.models import MIB, make_fake
from tests.server import RunningServer

MODELS = 60
MODEL_BYTES = 20 * MIB
FIT = 15
# Each fake model also counts 16 KiB of overhead.
BUDGET_BYTES = FIT * (MODEL_BYTES + 16 * 1024)
CLIENTS = 8
SECONDS = 60


def resident_bytes(pid: int) -> int:
    """Return a process' anonymous memory as the kernel counts it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@contextmanager
def sampled(pid: int) -> Iterator[list[int]]:
    """Sample a process' memory every 10 ms from outside of it."""
    samples: list[int] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.01):
            samples.append(resident_bytes(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    yield samples
    done.set()
    thread.join()


def zipf_names(seed: int) -> Iterator[str]:
    """Endless names m00..m59, Zipf(1.0)."""
    chance = random.Random(seed)
    weights = [1 / rank for rank in range(1, MODELS + 1)]
    while True:
        yield from (f"m{number:02d}" for number in chance.choices(range(MODELS), weights, k=100))


def _drive(server: RunningServer, seed: int, until: float, statuses: list[int]) -> None:
    with httpx.Client(base_url=server.url, timeout=70) as client:
        for name in zipf_names(seed):
            if time.monotonic() > until:
                return
            answer = client.post(f"/models/{name}/invoke", json={"instances": [[2]]})
            statuses.append(answer.status_code if answer.json() == {"predictions": [[8.0]]} else -answer.status_code)


@pytest.mark.slow
def test_a_storm_of_loads_fails_nothing_and_keeps_the_budget(start_server: StartServer) -> None:
    """60 models of 20 MiB, budget for 15, 8 clients, Zipf(1.0), 60 s: the budget holds, victims are exact LRU."""
    server = start_server(WHARF_MEMORY_BUDGET=str(BUDGET_BYTES), WHARF_LOG_LEVEL="debug", WHARF_ACCESS_LOG="errors")
    for number in range(MODELS):
        make_fake(server.root, f"m{number:02d}", bytes=MODEL_BYTES)
    base_bytes = resident_bytes(server.server_pid())
    statuses: list[int] = []
    until = time.monotonic() + SECONDS
    with sampled(server.server_pid()) as samples:
        clients = [threading.Thread(target=_drive, args=(server, seed, until, statuses)) for seed in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()

    decisions = re.findall(r"event=choosing model=(\S+) idle=(\S+)", server.log())
    share = (max(samples) - base_bytes) / BUDGET_BYTES
    print(f"{len(statuses)} requests, {len(decisions)} evictions, peak {100 * share:.1f} % of the budget")
    assert set(statuses) == {200}
    assert len(decisions) > 100
    assert share <= 1.10
    _check_victims(decisions)


def _check_victims(decisions: list[tuple[str, str]]) -> None:
    """Victims of one decision come oldest first; each is older than every idle model that stays."""
    previous: tuple[str, set[str]] = ("", set())
    for victim, shown in decisions:
        gone = previous[1] if previous[0] == shown else set()
        ages = {name: int(age) for name, age in (each.rsplit(":", 1) for each in shown.split(",")) if name not in gone}
        assert ages[victim] == min(ages.values())
        previous = (shown, gone | {victim})
