"""Fifty faults of a group of ranks behind the contract: every caller is answered, the group is back, nobody else minds.

A real server over HTTP; a rank is killed, stopped or raises, at load, idle, in a call and in a stream, in random order.
Beside it two clients keep asking another model (`tests.people.neighbour`), and their answers while the group is called
as usual, between any two faults, are what those beside the faults are held to.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from serving.workers.process_tree import families
from tests.conftest import StartServer
from tests.people.apps import APPS
from tests.people.neighbour import FLOOR_S, Lap, Neighbour, neighbour
from tests.server import RunningServer
from tests.waiting import until
from tests.workers.processes import in_background, is_alive
from tests.workers.rank_models import MODEL, shared_files

pytestmark = [pytest.mark.torch, pytest.mark.slow]

FAULTS = 50
# Who waits for a rank hears of its death within it, and the other ranks are gone.
LOST_S = 1.0
# option.predict_timeout and WHARF_WORKER_PING_TIMEOUT, in seconds.
LATE_S = 2
# The janitor's turn, and a ping's interval here.
NOTICED_S = 2.0
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
TEXT = {"Content-Type": "text/plain"}

Fault = tuple[Callable[..., None], str, int]
"""When it happens, what does, in which rank."""


def family(server: RunningServer) -> set[int]:
    """All processes of the server process."""
    return set(families([server.server_pid()])[server.server_pid()])


def cpu_s(pids: set[int]) -> float:
    """What these processes have used of the CPU, in seconds."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass
class Big:
    """The group: what its ranks were, how long it took to load and to come back, and what callers got."""

    server: RunningServer
    loads_s: list[float] = field(default_factory=list)
    backs_s: list[float] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    statuses: dict[int, int] = field(default_factory=dict)

    def write(self, name: str = "big", at_load: str = "") -> str:
        """Write the model's folder; return its url."""
        folder = self.server.root / name
        folder.mkdir(exist_ok=True)
        (folder / "model.py").write_text(MODEL.replace('os.environ.get("AT_LOAD", "")', repr(at_load)))
        properties = f"engine=DeepSpeed\noption.tensor_parallel_degree=2\noption.predict_timeout={LATE_S}\n"
        (folder / "serving.properties").write_text(properties + f"option.model_loading_timeout={10 * LATE_S}\n")
        return f"{self.server.root_inside}/{name}"

    def load(self) -> None:
        """Load it anew, and note how long that takes."""
        self.server.client.delete("/models/big")
        began = time.monotonic()
        answer = self.server.client.post("/models", json={"model_name": "big", "url": self.write()})
        self.loads_s.append(time.monotonic() - began)
        assert answer.status_code == 200, answer.text

    def ask(self, code: str) -> tuple[int, str]:
        """Have all ranks evaluate an expression."""
        answer = self.server.client.post("/models/big/invoke", content=code, headers=TEXT)
        self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
        return answer.status_code, answer.text

    def pids(self) -> list[int]:
        """Its processes, by rank."""
        status, text = self.ask("(lambda both: (dist.all_gather_object(both, os.getpid()), both)[1])([None, None])")
        assert status == 200, text
        found = [int(each) for each in text.strip("[] \n").split(",")]
        self.seen.update(found)
        return found

    def comes_back(self, since: float, before: list[int]) -> None:
        """Its ranks are gone, it answers again as it did before: note how long that took."""
        until(lambda: not any(map(is_alive, before)))
        until(lambda: self.ask("agree()") == (200, "2"), 60)
        self.backs_s.append(time.monotonic() - since)


# ---- the faults ------------------------------------------------------------------------------------------------------


def at_load(big: Big, way: str, rank: int) -> None:
    """Another group fails to load: in words, and with all of its ranks."""
    fault = {"kill": "os.kill(os.getpid(), 9)", "stop": "os.kill(os.getpid(), 19)", "raise": f"fail({rank})"}[way]
    url = big.write("broken", f"open(f'pid-{{os.getpid()}}', 'w'); rank == {rank} and {fault}")
    properties = big.server.root / "broken" / "serving.properties"
    properties.write_text(properties.read_text().replace(f"timeout={10 * LATE_S}", f"timeout={LATE_S}"))
    answer = big.server.client.post("/models", json={"model_name": "broken", "url": url})
    assert (answer.status_code, "rank" in answer.text) == (504 if way == "stop" else 500, True), answer.text
    for file in (big.server.root / "broken").glob("pid-*"):
        big.seen.add(int(file.name.removeprefix("pid-")))
        file.unlink()
    assert not any(map(is_alive, big.seen - family(big.server)))


def idle(big: Big, way: str, rank: int) -> None:
    """Nobody asks it anything: it is found all the same; an exception in a thread of its own is no fault of a rank."""
    before = big.pids()
    if way == "raise":
        thread = f"__import__('threading').Thread(target=fail, args=[{rank}]).start()"
        assert big.ask(f"{thread} or agree()") == (200, "2")
        assert big.pids() == before
        return
    os.kill(before[rank], SIGNALS[way])
    began = time.monotonic()
    until(lambda: not any(map(is_alive, before)))
    assert time.monotonic() - began < (LOST_S if way == "kill" else NOTICED_S + LATE_S + LOST_S)
    big.comes_back(time.monotonic(), before)


def in_call(big: Big, way: str, rank: int) -> None:
    """503 to who waits, or the exception; at once for a death, at the deadline for a hang."""
    before = big.pids()
    begun = big.server.root / "big" / f"begun-{rank}"
    begun.unlink(missing_ok=True)
    fault = f"fail({rank})" if way == "raise" else f"(rank == {rank} and time.sleep(60))"
    with in_background(lambda: (*big.ask(f"begun() or {fault} or agree()"), time.monotonic())) as found:
        until(begun.exists)
        if way in SIGNALS:
            os.kill(before[rank], SIGNALS[way])
        began = time.monotonic()
    status, text, answered = found[0]
    assert (status, "rank" in text) == (424 if way == "raise" else 503, True), text
    assert answered - began < LOST_S + LATE_S * (way != "kill")
    assert not any(map(is_alive, before))
    big.comes_back(answered, before)


def in_stream(big: Big, way: str, rank: int) -> None:
    """It ends early: at once for a death, at the deadline for a hang. Granian ends it as if it were whole."""
    before = big.pids()
    fault = f"fail(*[{rank}] * (step == 20))" if way == "raise" else "None"
    code = f"stream(1000000, lambda step: {fault})"
    began = time.monotonic()
    with (
        suppress(httpx.RemoteProtocolError),
        big.server.client.stream("POST", "/models/big/invoke", content=code, headers=TEXT) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        for number, chunk in enumerate(answer.iter_raw()):
            assert b"999999:" not in chunk
            if way in SIGNALS and not number:
                os.kill(before[rank], SIGNALS[way])
                began = time.monotonic()
    ended = time.monotonic()
    assert ended - began < LOST_S + LATE_S * (way != "kill")
    big.comes_back(ended, before)


# ---- fifty of them ---------------------------------------------------------------------------------------------------


def add(whole: Lap, lap: Lap) -> None:
    whole.latencies_s.extend(lap.latencies_s)
    whole.wrong.extend(lap.wrong)


def run(big: Big, clients: Neighbour, faults: Sequence[Fault]) -> float:
    """Have them all, one after the other; return how many times the neighbour's p99 is what it was between them."""
    quiet, loud, pause = Lap([], []), Lap([], []), threading.Event()
    for number, (moment, way, rank) in enumerate(faults):
        if not number % 10:
            big.load()
        clients.lap(0)
        moment(big, way, rank)
        add(loud, clients.lap(1))
        over = time.monotonic() + 0.5
        while time.monotonic() < over:
            assert big.ask("agree()") == (200, "2"), (number, moment.__name__, way, rank)
            pause.wait(0.01)
        add(quiet, clients.lap(1))
    assert quiet.wrong == loud.wrong == []
    counts = len(quiet.latencies_s), len(loud.latencies_s)
    print(f"the neighbour's p99: {1000 * quiet.p99_s:.1f} -> {1000 * loud.p99_s:.1f} ms of {counts} answers")
    return loud.p99_s / max(quiet.p99_s, FLOOR_S / 2)


def test_fifty_faults_in_random_order_are_each_answered_and_survived(start_server: StartServer) -> None:
    """Every caller is answered, in time; the group is back within its load time; nothing stays behind or burns.

    A neighbour's p99 is at most doubled, in one of two rounds: the machine is not ours alone.
    """
    shared = shared_files()
    times = {"WHARF_WORKER_PING": "0.5", "WHARF_WORKER_PING_TIMEOUT": str(LATE_S)}
    server = start_server(WHARF_PRELOAD="numpy,torch", **times)
    shutil.copytree(APPS / "steady", server.root / "steady")
    assert server.client.post("/models/steady/invoke", json=[1]).json() == [2]
    alone, big = family(server), Big(server)
    chance = random.Random(7)
    faults: list[Fault] = [
        (
            chance.choice([at_load, idle, in_call, in_stream]),
            chance.choice(["kill", "stop", "raise"]),
            chance.choice([0, 1]),
        )
        for _ in range(FAULTS)
    ]
    with neighbour(server.url, "steady") as clients:
        times_p99 = run(big, clients, faults)
        if times_p99 > 2:
            times_p99 = run(big, clients, faults[: FAULTS // 2])
    assert times_p99 <= 2

    print(f"answers by status: {big.statuses}")
    load_s, back_s = statistics.median(big.loads_s), statistics.median(big.backs_s)
    print(f"load {load_s:.2f} s, back {back_s:.2f} s, at most {max(big.backs_s):.2f} of {len(big.backs_s)}")
    assert back_s <= 2 * load_s
    assert max(big.backs_s) <= load_s + 5  # a busy machine's worst
    assert set(big.statuses) <= {200, 424, 503}
    stopped = sum((moment, way) == (idle, "stop") for moment, way, _ in faults)
    assert server.log().count("requests=0") >= stopped > 0

    everyone = family(server)
    before = cpu_s(everyone)
    threading.Event().wait(1)
    burnt_s = cpu_s(everyone) - before
    print(f"CPU of an idle second: {burnt_s:.2f} s")
    assert burnt_s < 0.5
    assert server.client.delete("/models/big").status_code == 200
    assert family(server) <= alone
    assert not any(map(is_alive, big.seen))
    assert shared_files() <= shared
