"""Groups of ranks in the books of several GPUs: a whole server over a fake NVML; each rank takes bytes of its own card.

Which cards a group may use is load_on_devices'; what it takes is booked on each of them, and comes back with it. That
torch and NCCL do as much on real cards was not tried: none was at hand.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu.nvml.pynvml import make_cards
from tests.gpu.test_device_server import scraped
from tests.server import RunningServer
from tests.waiting import until

GIB = 1 << 30
MIB = 1 << 20
CARDS = 5
# What a process that uses a GPU is expected to take there (serving.devices).
PROCESS = 512 * MIB
MODEL = """
import os
from pathlib import Path
from djl_python import Input, Output
from pynvml import take

cards = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
take(Path(os.environ["FAKE_NVML"]), int(cards[int(os.environ["LOCAL_RANK"])]), TAKEN)

def handle(inputs):
    if inputs.is_empty():
        return None
    return Output().add_as_json([cards, os.getpid()])
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """A server that sees the last four of five cards of 16 GiB, the third first; the driver keeps nothing."""
    make_cards(tmp_path / "cards", [16 * GIB] * CARDS)
    (tmp_path / "models").mkdir()
    paths = [str(Path(__file__).parent / "nvml"), os.environ.get("PYTHONPATH", "")]
    environ = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "FAKE_NVML": str(tmp_path / "cards"),
        "CUDA_VISIBLE_DEVICES": "2,1,3,4",
        "WHARF_DEVICE": "cuda",
        "WHARF_DEVICE_HEADROOM": "1%",
        "WHARF_PRELOAD": "numpy",
    }
    with RunningServer(tmp_path / "models", tmp_path / "log", environ) as running:
        yield running


def load(server: RunningServer, more: str = "", taken: int = 2 * GIB) -> tuple[int, str]:
    """Write a group of two ranks, and load it."""
    folder = server.root / "big"
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(MODEL.replace("TAKEN", str(taken)))
    (folder / "serving.properties").write_text(f"engine=MPI\noption.tensor_parallel_degree=2\n{more}\n")
    answer = server.client.post("/models", json={"model_name": "big", "url": str(folder)})
    return answer.status_code, answer.text


def booked(server: RunningServer) -> list[int]:
    """What models have in the books of each card, in MiB, by CUDA's numbers."""
    found = scraped(server)
    return [round(found["DeviceReservedBytes", f"cuda:{index}"] / MIB) for index in range(CARDS - 1)]


def ask(server: RunningServer) -> tuple[list[str], int]:
    """The cards that the group sees, and rank 0's process."""
    cards, pid = server.client.post("/models/big/invoke", json=[1]).json()
    return cards, pid


def test_each_card_of_a_group_has_what_its_rank_took(server: RunningServer) -> None:
    """All cards by default, in groups of two; with the group goes what it held."""
    assert load(server)[0] == 200
    assert booked(server) == [2048] * 4
    assert ask(server)[0] in (["2", "1"], ["3", "4"])
    assert server.client.delete("/models/big").status_code == 200
    assert booked(server) == [0] * 4
    assert "event=device_bytes_not_back" not in server.log()


def test_a_group_uses_the_cards_that_it_names(server: RunningServer) -> None:
    """In its order, by CUDA's numbers, which count what the server sees; a new generation the same."""
    assert load(server, "load_on_devices=3;gpu0")[0] == 200
    assert booked(server) == [2048, 0, 0, 2048]
    cards, pid = ask(server)
    assert cards == ["4", "2"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.client.post("/models/big/invoke", json=[1]).status_code == 200)
    assert ask(server)[0] == ["4", "2"]


def test_fewer_groups_take_fewer_cards(server: RunningServer) -> None:
    """And leave the others' books alone."""
    assert load(server, "maxWorkers=1\nload_on_devices=1;2;3")[0] == 200
    assert booked(server) == [0, 2048, 2048, 0]


def test_a_share_that_no_card_has_is_a_507_before_anything_starts(server: RunningServer) -> None:
    """The weights' share and a context, on each card."""
    folder = server.root / "big"
    folder.mkdir()
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(40 * GIB)
    status, text = load(server)
    assert status == 507
    assert "cuda:" in text
    assert booked(server) == [0] * 4
    assert "event=worker" not in server.log()


def test_cards_that_are_not_there_are_named(server: RunningServer) -> None:
    """With how many there are."""
    status, text = load(server, "load_on_devices=0;7")
    assert status == 500
    assert "is to use GPU 7 and CUDA_VISIBLE_DEVICES shows 4" in text
    status, text = load(server, "load_on_devices=2")
    assert status == 500
    assert "wants 2 GPUs (1 groups of tensor_parallel_degree=2) and there are 1 (CUDA_VISIBLE_DEVICES=3)" in text
