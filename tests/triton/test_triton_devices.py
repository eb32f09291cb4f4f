"""Models of a real tritonserver beside a fake NVML's cards: it has no GPU itself, so none of them comes to be there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu.nvml.pynvml import make_cards
from tests.server import RunningServer
from tests.triton.models import CONFIG, write_model
from tests.triton.test_triton_backend import answer, ask

GIB = 1 << 30


@pytest.fixture(scope="module")
def server(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that sees two cards of 4 GiB, with tritonserver for its Python models."""
    folder = tmp_path_factory.mktemp("cards")
    make_cards(folder / "cards", [4 * GIB, 4 * GIB])
    (folder / "models").mkdir()
    nvml = Path(__file__).parent.parent / "gpu/nvml"
    paths = os.pathsep.join(filter(None, [str(nvml), environ.get("PYTHONPATH", os.environ.get("PYTHONPATH", ""))]))
    ours = {"PYTHONPATH": paths, "FAKE_NVML": str(folder / "cards"), "WHARF_DEVICE_GIVE_BACK": "0.1"}
    with RunningServer(folder / "models", folder / "log", environ | ours) as running:
        yield running


def reserved(server: RunningServer) -> list[str]:
    """What is booked on the cards, by line."""
    lines = server.client.get("/metrics").text.splitlines()
    return [each for each in lines if each.startswith(("DeviceReservedBytes", "DeviceLostBytes", "ModelDeviceBytes"))]


NOTHING = [f'Device{what}Bytes{{device="cuda:{card}"}} 0.0' for what in ("Reserved", "Lost") for card in (0, 1)]


def test_a_model_on_the_cpu_is_in_no_cards_book(server: RunningServer) -> None:
    """The Python backend asks for the CPU where nobody says GPU."""
    write_model(server.root / "plain", 2)
    assert answer(server, "plain") == [2, 4]
    assert reserved(server) == NOTHING


@pytest.mark.parametrize("group", ["gpus: [ 1 ]", "kind: KIND_GPU"])
def test_a_gpu_that_tritonserver_cannot_use_leaves_nothing_in_the_books(server: RunningServer, group: str) -> None:
    """Its own words are the answer; what was reserved is free again."""
    name = "gpu" + "_".join(filter(str.isalnum, group))
    write_model(server.root / name, 2, CONFIG + f"instance_group {{ {group} }}")
    found = ask(server, name)
    assert (found.status_code, "GPU" in found.text) == (500, True)
    assert reserved(server) == NOTHING


def test_a_model_for_a_card_that_is_not_there_is_refused(server: RunningServer) -> None:
    """With those that are, before tritonserver hears of it."""
    write_model(server.root / "lost", 2, CONFIG + "instance_group { gpus: [ 5 ] }")
    found = ask(server, "lost")
    assert found.status_code == 400
    assert "is to run on device 5 and there are [0, 1]" in found.text
