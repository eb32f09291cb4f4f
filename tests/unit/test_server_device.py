"""A server whose models run on a GPU, over a stand-in for CUDA: it answers, and says so when the GPU is lost."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest

from serving import runtimes
from serving.devices import Device, NoDevices
from serving.server import Server
from serving.settings import Settings
from tests.models import make_fake
from tests.unit.backends.standin_device import StandInDriver
from tests.unit.backends.test_torch import scripted
from tests.unit.http.wsgi import Answer, ask

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.(script|trace|trace_method)` is deprecated:DeprecationWarning"),
]

BODY = json.dumps({"instances": [[1, 2, 3]]}).encode()

CONFIG = """
backend: "pytorch" max_batch_size: 8 dynamic_batching { }
input { name: "x" data_type: TYPE_FP32 dims: 3 } output { name: "y" data_type: TYPE_FP32 dims: 3 }
instance_group { kind: %s }
"""


def settings_of(folder: Path, **env: str) -> Settings:
    """Settings over `folder`/models."""
    (folder / "models").mkdir(exist_ok=True)
    defaults = {
        "WHARF_MODEL_ROOT": str(folder / "models"),
        "WHARF_CACHE_DIR": str(folder / "cache"),
        "SAGEMAKER_BASE_DIR": str(folder / "opt-ml"),
        "WHARF_ACCESS_LOG": "off",
        "WHARF_FAKE_BACKEND": "1",
        "WHARF_MEMORY_BUDGET": "1GiB",
    }
    return Settings.from_env(defaults | env)


def test_a_lost_gpu_fails_the_ping_and_the_models_on_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 for those, 503 for /ping with the reason, 400 for V2's readiness; models on the CPU go on."""
    driver = StandInDriver()
    monkeypatch.setattr(runtimes, "open_cuda", lambda _: driver)
    root = settings_of(tmp_path).model_root
    make_fake(root, "beside")
    (root / "net").mkdir()
    scripted(root / "net", "def forward(self, x):\n    return x * 2")
    (root / "net" / "wharf.toml").write_text(
        'device = "cuda"\n[[inputs]]\nname = "x"\ndtype = "FP32"\ndims = [-1, 3]\n'
    )
    server = Server(settings_of(tmp_path), None)
    server.start()
    try:
        assert invoke(server, "net").json() == {"predictions": [[2.0, 4.0, 6.0]]}
        assert driver.copies == 2
        assert ask(server.app, "GET", "/ping").status == 200
        driver.is_lost = True
        answer = invoke(server, "net")
        assert (answer.status, "restart the container" in answer.error) == (500, True)
        answer = ask(server.app, "GET", "/ping")
        assert (answer.status, "illegal memory access" in answer.error) == (503, True)
        assert ask(server.app, "GET", "/v2/health/ready").status == 400
        assert ask(server.app, "GET", "/v2/health/live").status == 200
        assert invoke(server, "beside").status == 200
    finally:
        server.close()
        gc.unfreeze()


def test_instance_groups_put_a_batching_model_on_the_gpu_or_keep_it_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By V2's protocol, behind the batcher; KIND_AUTO is on the GPU of a server that has one."""
    driver = StandInDriver()
    monkeypatch.setattr(runtimes, "open_cuda", lambda _: driver)
    root = settings_of(tmp_path).model_root
    for kind in ("KIND_GPU", "KIND_AUTO", "KIND_CPU"):
        (root / kind / "1").mkdir(parents=True)
        scripted(root / kind / "1", "def forward(self, x):\n    return x * 2")
        (root / kind / "config.pbtxt").write_text(CONFIG % kind)
    server = Server(settings_of(tmp_path, WHARF_DEVICE="cuda"), None)
    server.start()
    document = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}]}
    try:
        for kind, copies in (("KIND_GPU", 2), ("KIND_AUTO", 4), ("KIND_CPU", 4)):
            answer = ask(server.app, "POST", f"/v2/models/{kind}/infer", json.dumps(document).encode())
            assert answer.json()["outputs"][0]["data"] == [2, 4, 6, 8, 10, 12]
            assert driver.copies == copies
    finally:
        server.close()
        gc.unfreeze()


def invoke(server: Server, name: str) -> Answer:
    """POST instances of three numbers, or of one for a fake model."""
    body = BODY if name == "net" else b'{"instances": [[1]]}'
    return ask(server.app, "POST", f"/models/{name}/invoke", body, CONTENT_TYPE="application/json")


def test_auto_is_the_cpu_where_there_is_no_gpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says why there is none."""
    caplog.set_level("INFO")
    settings = settings_of(tmp_path, WHARF_DEVICE="auto")
    assert runtimes.with_device(settings, NoDevices("no driver")).device == "cpu"
    assert "event=no_gpu device=cpu reason='no driver'" in caplog.text
    assert runtimes.with_device(settings, OneGpu()).device == "cuda"


class OneGpu:
    """The meter of a machine with one."""

    why_none = ""

    def devices(self) -> list[Device]:
        """Return it."""
        return [Device(0, "stand-in", "GPU-0", 1 << 30, 0)]

    def used_bytes(self, index: int, pids: object = None) -> int:
        """Return nothing in use."""
        return 0
