"""Models that a real tritonserver runs, with our life cycle: loaded by a request, unloaded, restarted, refused."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.server import RunningServer
from tests.triton.models import CONFIG, write_model
from tests.waiting import until

triton = pytest.importorskip("tritonclient.http")


def ask(server: RunningServer, name: str, first: float = 1.0) -> Any:
    """One row of two numbers, as JSON on SageMaker's route."""
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [first, 2.0]}]}
    return server.client.post(f"/models/{name}/invoke", json=body)


def answer(server: RunningServer, name: str) -> list[float]:
    """What a model makes of 1 and 2."""
    found = ask(server, name)
    assert found.status_code == 200, found.text
    data: list[float] = found.json()["outputs"][0]["data"]
    return data


def test_a_request_loads_its_model_intotritonserver_pid(house: RunningServer) -> None:
    """And tritonclient sees it as a model of ours."""
    write_model(house.root / "twice", 2)
    assert answer(house, "twice") == [2, 4]
    with triton.InferenceServerClient(house.url.removeprefix("http://")) as client:
        assert client.get_model_metadata("twice")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        given = triton.InferInput("x", [3, 2], "FP32").set_data_from_numpy(np.ones((3, 2), np.float32))
        assert client.infer("twice", [given]).as_numpy("y").tolist() == [[2, 2]] * 3
    assert "event=tritonserver_live" in house.log()


def test_two_archives_of_one_name_live_side_by_side(house: RunningServer) -> None:
    """Each has a name of its own in tritonserver, and people's own in what is said of it."""
    for name, factor in (("a", 3), ("b", 5)):
        write_model(house.root / name / "resnet", factor, CONFIG.replace("backend", 'name: "resnet" backend'))
    assert (answer(house, "a"), answer(house, "b")) == ([3, 6], [5, 10])
    failed = ask(house, "a", -1)
    assert failed.status_code == 424
    assert "for model 'a_0', message: ValueError: below zero At: 1/model.py(17): execute" in failed.text


def test_an_unload_is_answered_when_the_model_is_gone(house: RunningServer) -> None:
    """Without tritonserver's two seconds of polling."""
    write_model(house.root / "going", 2)
    answer(house, "going")
    pids = _stubs(house)
    began = time.monotonic()
    assert house.client.delete("/models/going").status_code == 200
    assert time.monotonic() - began < 2
    assert len(_stubs(house)) < len(pids)


@pytest.mark.parametrize("name", ["BLOOM-7b", "plain"])
def test_a_model_that_fails_to_load_is_no_matter_of_memory(house: RunningServer, name: str) -> None:
    """Whatever it is called; the reason is the model's own."""
    write_model(house.root / name, initialize='raise RuntimeError("no luck")')
    failed = ask(house, name)
    assert failed.status_code == 500
    assert "no luck" in failed.text
    assert name in failed.text


def test_words_of_memory_are_507(house: RunningServer) -> None:
    """As SageMaker wants it: it makes room and tries again."""
    write_model(house.root / "large", initialize='raise RuntimeError("CUDA out of memory")')
    assert ask(house, "large").status_code == 507


def test_a_killed_tritonserver_is_back_with_its_models(house: RunningServer) -> None:
    """Requests meanwhile are answered at once, right or 503; ours lives on."""
    write_model(house.root / "lasting", 7)
    assert answer(house, "lasting") == [7, 14]
    ours, theirs = house.server_pid(), tritonserver_pid(house)
    began = time.monotonic()
    os.kill(theirs, signal.SIGKILL)
    statuses = []

    def is_back() -> bool:
        asked = time.monotonic()
        found = ask(house, "lasting")
        assert time.monotonic() - asked < 1.5
        statuses.append(found.status_code)
        return found.status_code == 200 and tritonserver_pid(house) != theirs

    until(is_back, 30)
    print("back after", time.monotonic() - began, "s")
    assert set(statuses) <= {200, 503}
    assert answer(house, "lasting") == [7, 14]
    assert house.server_pid() == ours


def test_without_a_tritonserver_the_way_to_one_is_said(tmp_path: Path) -> None:
    """A plan is no broken file: this image cannot run it."""
    folder = tmp_path / "models" / "plan"
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.plan").write_bytes(b"x")
    (folder / "config.pbtxt").write_text('platform: "tensorrt_plan"')
    with RunningServer(tmp_path / "models", tmp_path / "log") as server:
        refused = server.client.post("/models/plan/invoke", content=b"x")
    assert refused.status_code == 400
    assert "WHARF_TRITONSERVER" in refused.text
    assert "tensorrt_plan" in refused.text


def test_it_ends_with_us(tmp_path: Path, environ: dict[str, str]) -> None:
    """However we end: nothing is left running."""
    write_model(tmp_path / "models" / "m", 2)
    server = RunningServer(tmp_path / "models", tmp_path / "log", environ)
    assert answer(server, "m") == [2, 4]
    child = tritonserver_pid(server)
    os.kill(server.server_pid(), signal.SIGKILL)
    until(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child), 10)
    strays = _stubs(server)
    until(lambda: _answers(server, "m"), 60)
    assert tritonserver_pid(server) != child
    assert not any(Path(f"/proc/{each}").exists() and not _is_zombie(each) for each in strays)
    server.stop()


def _answers(server: RunningServer, name: str) -> bool:
    """Say whether a model answers; a server process that is being started again does not."""
    try:
        return bool(ask(server, name).status_code == 200)
    except httpx.TransportError:
        return False


def tritonserver_pid(server: RunningServer) -> int:
    """Return the process of the tritonserver that was last started."""
    lines = [line for line in server.log().splitlines() if "event=tritonserver_live" in line]
    return int(lines[-1].partition("pid=")[2].split()[0])


def _stubs(server: RunningServer) -> list[int]:
    """Return the Python backend's processes of the tritonserver."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == tritonserver_pid(server) and "stub" in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
