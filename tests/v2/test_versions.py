"""Several versions at once, and an archive that holds an ensemble with its members: one model each, by tritonclient."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server import RunningServer

triton = pytest.importorskip("tritonclient.http")

# Adds its version to what comes.
_ADDER = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.version = np.float32(args["model_version"])

    def execute(self, requests):
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("y", request.inputs()[0].as_numpy() + self.version)])
            for request in requests
        ]
"""
_TENSORS = """
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
_STEPS = """
platform: "ensemble"
ensemble_scheduling {
  step [
    { model_name: "first" model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "z" } },
    { model_name: "second" model_version: 3 input_map { key: "x" value: "z" } output_map { key: "y" value: "y" } }
  ]
}
"""
X = np.array([1, 2], np.float32)


def write_adder(folder: Path, *versions: int) -> None:
    """Write a model of these versions, all of them served."""
    for version in versions:
        (folder / str(version)).mkdir(parents=True)
        (folder / str(version) / "model.py").write_text(_ADDER)
    (folder / "config.pbtxt").write_text(f'backend: "python" version_policy {{ all {{ }} }} {_TENSORS}')


def write_bundle(folder: Path) -> None:
    """Write an ensemble of two models that lie beside it."""
    write_adder(folder / "first", 1, 10)
    write_adder(folder / "second", 3, 4)
    (folder / "together/1").mkdir(parents=True)
    (folder / "together/config.pbtxt").write_text(_STEPS + _TENSORS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A model of versions 2 and 10, an archive of an ensemble, and the same as a folder."""
    folder = tmp_path_factory.mktemp("versions")
    root = folder / "models"
    write_adder(root / "adder", 2, 10)
    write_bundle(root / "bundle")
    with tarfile.open(root / "packed.tar.gz", "w:gz") as archive:
        for each in (root / "bundle").iterdir():
            archive.add(each, each.name)
    with RunningServer(root, folder / "server.log") as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[Any]:
    """A client of Triton's."""
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


def answer(client: Any, model: str, version: str = "") -> list[float]:
    """What a model makes of X."""
    given = triton.InferInput("x", [2], "FP32").set_data_from_numpy(X)
    found: list[float] = client.infer(model, [given], version).as_numpy("y").tolist()
    return found


def test_each_version_is_asked_by_its_number(client: Any) -> None:
    """Who names none gets the highest."""
    assert answer(client, "adder") == [11, 12]
    assert answer(client, "adder", "10") == [11, 12]
    assert answer(client, "adder", "2") == [3, 4]
    with pytest.raises(triton.InferenceServerException, match="'adder' version 3 is not found"):
        answer(client, "adder", "3")


def test_all_versions_are_listed(client: Any) -> None:
    """In the metadata and the index, each ready and with statistics of its own."""
    assert client.get_model_metadata("adder")["versions"] == ["2", "10"]
    answer(client, "adder", "2")
    index = [each for each in client.get_model_repository_index() if each["name"] == "adder"]
    assert [(each["version"], each["state"]) for each in index] == [("2", "READY"), ("10", "READY")]
    assert client.is_model_ready("adder", "2")
    assert not client.is_model_ready("adder", "3")
    assert client.get_inference_statistics("adder", "2")["model_stats"][0]["inference_count"] >= 1


def test_versions_come_and_go_together(client: Any) -> None:
    """They are one model of the repository, whose memory is that of all."""
    client.load_model("adder")
    assert answer(client, "adder", "2") == [3, 4]
    client.unload_model("adder")
    with pytest.raises(triton.InferenceServerException, match="'adder' has no available versions"):
        answer(client, "adder", "2")
    client.load_model("adder")
    assert answer(client, "adder", "2") == [3, 4]


@pytest.mark.parametrize("name", ["packed.tar.gz", "bundle"])
def test_an_archive_holds_an_ensemble_and_its_members(client: Any, name: str) -> None:
    """10 by the first's highest version, and 3 by the version of the second that the step names."""
    assert answer(client, name) == [14, 15]
    counted = {each["name"] for each in client.get_inference_statistics()["model_stats"]}
    assert {name, f"{name}/first", f"{name}/second"} <= counted


def test_members_of_an_archive_are_nobody_elses(client: Any) -> None:
    """Another ensemble's steps, and clients, do not find them."""
    answer(client, "packed.tar.gz")
    with pytest.raises(triton.InferenceServerException, match="not found"):
        answer(client, "packed.tar.gz/first")


def test_under_sagemaker_it_is_one_model(server: RunningServer, tmp_path: Path) -> None:
    """Loaded by its url alone, as the platform does it; its memory is back when it is deleted."""
    log = tmp_path / "log"
    environ = {"SAGEMAKER_MULTI_MODEL": "true"}
    with RunningServer(server.root, log, environ) as platform:
        url = str(server.root / "packed.tar.gz")
        loaded = platform.client.post("/models", json={"model_name": "abc", "url": url})
        assert loaded.status_code == 200, loaded.text
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}
        answered = platform.client.post("/models/abc/invoke", json=body)
        assert answered.json()["outputs"][0]["data"] == [14, 15]
        assert platform.client.delete("/models/abc").status_code == 200
        assert platform.client.get("/models").json()["models"] == []
