"""An ensemble of a real server: tritonclient calls it, its members are models like any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from tests.models import make_fake
from tests.server import RunningServer

CONFIG = """
platform: "ensemble"
max_batch_size: 4
input [ { name: "RAW" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "DONE" data_type: TYPE_FP32 dims: [ 2 ] } ]
ensemble_scheduling { step [
  { model_name: "thrice" model_version: -1 input_map { key: "x" value: "MID" } output_map { key: "y" value: "DONE" } },
  { model_name: "twice" model_version: -1 input_map { key: "x" value: "RAW" } output_map { key: "y" value: "MID" } }
] }
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """Two fakes, an ensemble of them, and one whose member is nowhere."""
    root = tmp_path / "models"
    make_fake(root, "twice", scale=2)
    make_fake(root, "thrice", scale=3)
    for name, member in (("ens", "twice"), ("lost", "nowhere")):
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(CONFIG.replace('"twice"', f'"{member}"'))
    with RunningServer(root, tmp_path / "server.log") as running:
        yield running


def test_an_ensemble_is_loaded_called_and_unloaded_with_its_members(server: RunningServer) -> None:
    """By its own name on V2 and on SageMaker's route."""
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    raw = triton.InferInput("RAW", [1, 2], "FP32")
    raw.set_data_from_numpy(np.array([[1, 2]], np.float32))

    assert client.infer("ens", [raw]).as_numpy("DONE").tolist() == [[6, 12]]
    ready = {each["name"] for each in client.get_model_repository_index() if each.get("state") == "READY"}
    assert ready == {"ens", "twice", "thrice"}
    assert client.get_model_config("ens")["ensemble_scheduling"]["step"][0]["model_name"] == "thrice"
    counts = client.get_inference_statistics("twice")["model_stats"][0]["inference_count"]
    assert counts == 1
    answer = server.client.post("/models/ens/invoke", json={"instances": [[1, 2]]})
    assert answer.json() == {"predictions": [[6, 12]]}

    client.unload_model("ens", unload_dependents=True)

    assert not any(client.is_model_ready(each) for each in ("ens", "twice", "thrice"))
    client.close()


def test_a_member_that_is_nowhere_is_told_by_name(server: RunningServer) -> None:
    """And the ensemble is not loaded."""
    answer = server.client.get("/v2/models/lost")
    assert answer.status_code == 400
    assert "in ensemble 'lost', Request for unknown model: 'nowhere' is not found" in answer.json()["error"]
