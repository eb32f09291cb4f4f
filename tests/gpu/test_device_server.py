"""A whole server over a fake NVML, put before the real module by PYTHONPATH."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.gpu.nvml.pynvml import make_cards, take
from tests.server import RunningServer

GIB = 1 << 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that sees the second of two cards of 16 GiB; the driver keeps one of each."""
    folder = tmp_path_factory.mktemp("gpu")
    make_cards(folder / "cards", [16 * GIB, 16 * GIB], GIB, gpu=40)
    (folder / "models").mkdir()
    paths = [str(Path(__file__).parent / "nvml"), os.environ.get("PYTHONPATH", "")]
    environ = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "FAKE_NVML": str(folder / "cards"),
        "CUDA_VISIBLE_DEVICES": "1",
        "WHARF_DEVICE_HEADROOM": "25%",
    }
    with RunningServer(folder / "models", folder / "log", environ) as running:
        yield running


def scraped(server: RunningServer) -> dict[tuple[str, str], float]:
    """Values by name and the label of the device."""
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    return {
        (sample.name, sample.labels.get("gpu_uuid") or sample.labels.get("device", "")): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_log_says_which_devices_there_are(server: RunningServer) -> None:
    """By CUDA's numbers."""
    assert "event=device index=0 name='Fake T4' uuid=GPU-1000-fake" in server.log()
    assert server.log().count("event=device ") == 1


def test_metrics_have_the_device_under_all_its_names(server: RunningServer) -> None:
    """CloudWatch's, Triton's, ours."""
    before = scraped(server)
    held = take(server.root.parent / "cards", 1, 3 * GIB)
    found = scraped(server)
    held.unlink()
    assert before["GPUMemoryUtilization", ""] == pytest.approx(100 / 16)
    assert found["GPUMemoryUtilization", ""] == pytest.approx(400 / 16)
    assert found["GPUUtilization", ""] == pytest.approx(40)
    assert found["nv_gpu_memory_used_bytes", "GPU-1000-fake"] == 4 * GIB
    assert found["nv_gpu_utilization", "GPU-1000-fake"] == pytest.approx(0.4)
    assert found["DeviceBudgetBytes", "cuda:0"] == (16 - 4 - 1) * GIB
    assert found["DeviceReservedBytes", "cuda:0"] == 0
