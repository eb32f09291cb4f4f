"""Models that ask for more memory than there is, as DJL's demo of multi-model endpoints has one: 507, and no more.

A bomb says so in its serving.properties, in its answer to the warm-up, or by taking the memory for real. Beside it a
model answers two clients all the while, and a request is under way in another one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartServer
from tests.gpu.nvml.pynvml import make_cards
from tests.people.apps import House, Process, copy_apps
from tests.people.neighbour import neighbour
from tests.unit.repository.packs import tar_gz
from tests.waiting import until

BUDGET = "512MiB"
NVML = str(Path(__file__).parents[1] / "gpu" / "nvml")
_PLAIN = "def handle(inputs):\n    return None\n"
_WARM_UP = "from djl_python import Output\nkept = []\n\ndef handle(inputs):\n    {}\n"

HOLDS = """
import os, time
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    while not os.path.exists(body):
        time.sleep(0.002)
    return "done"
"""
"""A model that answers once the file is there that it is sent the name of."""


@dataclass(frozen=True, slots=True)
class Bomb:
    """What lies in its folder, and what is said of it; `limit` is the address space that its worker may have."""

    properties: str = "engine=Python"
    code: str = _PLAIN
    said: str = ""
    limit: dict[str, str] = field(default_factory=dict)


BOMBS = {
    "required": Bomb("engine=Python\nrequired_memory_mb=30000", said="needs 29.3 GiB"),
    "reserved": Bomb("engine=Python\nreserved_memory_mb=30000", said="needs 29.3 GiB"),
    "both": Bomb("required_memory_mb=400\nreserved_memory_mb=400", said="needs 800.0 MiB"),
    "in ranks": Bomb(
        "engine=DeepSpeed\noption.tensor_parallel_degree=2\nrequired_memory_mb=30000", said="needs 29.3 GiB"
    ),
    "says so": Bomb(code=_WARM_UP.format("return Output(code=507, message='OOM')"), said="OOM"),
    "raises": Bomb(code=_WARM_UP.format("raise MemoryError('no room for it')"), said="no room for it"),
    "like torch": Bomb(code=_WARM_UP.format("raise RuntimeError('CUDA error: out of memory')"), said="out of memory"),
    "is stopped": Bomb(
        *("engine=Python", _WARM_UP.format("kept.append(bytearray(4 << 30))")), limit={"WHARF_WORKER_MEMORY": "2GiB"}
    ),
    "outgrows": Bomb(
        code=_WARM_UP.format("kept.append(b'x' * (700 << 20))"), said="after its load and the budget of 512.0 MiB has"
    ),
}


def lay(root: Path, bomb: Bomb, properties: str = "") -> None:
    """Write the bomb, or the same folder with other properties."""
    folder = root / "bomb"
    folder.mkdir(exist_ok=True)
    (folder / "serving.properties").write_text(properties or bomb.properties)
    (folder / "model.py").write_text(bomb.code)


StartHouse = Callable[..., House]


@pytest.fixture
def start_house(start_server: StartServer) -> Iterator[StartHouse]:
    """Start a server of that budget over tests/apps and a bomb."""
    started: list[House] = []

    def start(bomb: Bomb, **env: str) -> House:
        server = start_server(**{"WHARF_PRELOAD": "numpy", "WHARF_MEMORY_BUDGET": BUDGET} | bomb.limit | env)
        copy_apps(server.root)
        (server.root / "holds").mkdir()
        (server.root / "holds" / "inference.py").write_text(HOLDS)
        lay(server.root, bomb)
        started.append(House(server))
        return started[-1]

    yield start
    for house in started:
        house.client.close()


def metric(house: House, name: str) -> float:
    """Return a figure of /metrics."""
    lines = house.client.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


@contextmanager
def under_way(house: House) -> Iterator[Future[httpx.Response]]:
    """Have a request in the model `holds` for the length of a `with`."""
    go = house.server.root / "go"
    with ThreadPoolExecutor(1) as background:
        request = background.submit(house.ask, "holds", str(go).encode())
        try:
            yield request
        finally:
            go.touch()


def others(house: House) -> list[Process]:
    """Return the workers of the other models."""
    return house.workers("steady") + house.workers("holds")


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("mode", ["platform", "standalone"])
def test_a_bomb_is_507_and_nobody_notices(start_house: StartHouse, mode: str, name: str) -> None:
    """Twice, and without it all is as it was: the same processes, reservations and answers; no one is evicted."""
    bomb = BOMBS[name]
    house = start_house(bomb, **({"SAGEMAKER_MULTI_MODEL": "true"} if mode == "platform" else {}))
    for each in ("steady", "holds"):
        assert house.load(each).status_code == 200
    with neighbour(house.server.url, "steady") as clients, under_way(house) as request:
        clients.lap()
        workers, reserved_bytes = others(house), metric(house, "MemoryReservedBytes")
        for _ in range(2):
            answer = house.load("bomb") if mode == "platform" else house.ask("bomb")
            assert (answer.status_code, bomb.said in answer.json()["error"]) == (507, True), answer.text
            assert house.workers("bomb") == []
        assert clients.lap().wrong == []
        assert not request.done()
        assert [each.pid for each in others(house)] == [each.pid for each in workers]
        # What a worker shares with others is counted anew when they come and go: some pages.
        assert abs(metric(house, "MemoryReservedBytes") - reserved_bytes) < 8 << 20
        assert (metric(house, "Evictions_total"), metric(house, "MemoryBudgetBytes")) == (0, 512 << 20)
        assert house.client.get("/models/bomb").status_code == 404
    assert request.result().status_code == 200


@pytest.mark.parametrize("key", ["gpu.required_memory_mb", "gpu.reserved_memory_mb", "reserved_memory_mb"])
def test_a_bomb_for_a_gpu_is_507_by_that_gpus_budget(
    start_house: StartHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """As in DJL's demo, over a fake NVML with a card of 16 GiB; the host's budget has room for it."""
    make_cards(tmp_path / "cards", [16 << 30], 1 << 30, gpu=0)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [NVML, os.environ.get("PYTHONPATH", "")])))
    bomb = Bomb(f"engine=Python\nload_on_devices=0\n{key}=30000")
    env = {"FAKE_NVML": str(tmp_path / "cards"), "WHARF_MEMORY_BUDGET": "40GiB", "SAGEMAKER_MULTI_MODEL": "true"}
    house = start_house(bomb, **env)
    answer = house.load("bomb")
    assert (answer.status_code, "of cuda:0 while it loads" in answer.json()["error"]) == (507, True), answer.text
    assert (house.workers("bomb"), metric(house, "MemoryReservedBytes")) == ([], 0)


def test_a_bomb_that_is_defused_loads(start_house: StartHouse) -> None:
    """A 507 leaves no ghost of it; from an archive, too."""
    bomb = BOMBS["reserved"]
    house = start_house(bomb, SAGEMAKER_MULTI_MODEL="true")
    files = {"bomb/serving.properties": bomb.properties.encode(), "bomb/model.py": bomb.code.encode()}
    (house.server.root / "bomb.tar.gz").write_bytes(tar_gz(files))
    assert [house.load(each).status_code for each in ("bomb", "bomb.tar.gz")] == [507, 507]
    lay(house.server.root, bomb, "engine=Python\nreserved_memory_mb=100\nrequired_memory_mb=50")
    assert house.load("bomb").status_code == 200
    assert house.ask("bomb").status_code == 204


def test_idle_models_make_room_for_what_is_to_stay_free(start_house: StartHouse) -> None:
    """Standalone: what a model wants beside itself is free when it comes; afterwards it is anybody's."""
    house = start_house(Bomb("reserved_memory_mb=480"))
    assert house.ask("steady", b"[1]").status_code == 200
    assert house.ask("bomb").status_code == 204
    assert metric(house, "Evictions_total") == 1
    until(lambda: house.workers("steady") == [])
    assert house.ask("steady", b"[1]").status_code == 200
    assert house.workers("bomb") != []
