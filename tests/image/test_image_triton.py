"""The image in front of tritonserver: SageMaker's own example of a Triton endpoint, walked against a real container."""

import json
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from tests.image.conftest import Serve
from tests.image.containers import Container, docker, wait_until
from tests.triton.models import write_model

pytestmark = pytest.mark.image
IN_TRITON = ("--env", "WHARF_TRITON_BACKENDS=python")
VENDOR = "application/vnd.sagemaker-triton.binary+json;json-header-size="
CONFIG = """
name: "resnet"
backend: "python"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, 8, 8 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3, 8, 8 ] } ]
model_warmup [ {
  name: "one"
  batch_size: 1
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 3, 8, 8 ] zero_data: true } }
} ]
"""
# A file that says how often the model ran before it was asked.
COUNTS = "self.count = 0; answer = self.execute; self.execute = lambda r: (print('ran', flush=True), answer(r))[1]"
IMAGE = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
ensemble_scheduling { step [
  { model_name: "first" model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "z" } },
  { model_name: "second" model_version: -1 input_map { key: "x" value: "z" } output_map { key: "y" value: "y" } }
] }
"""


@pytest.fixture(autouse=True)
def _flavour(flavour: str) -> None:
    if flavour != "triton":
        pytest.skip("the image in front of tritonserver alone")


def pack(folder: Path, archive: Path) -> None:
    """Pack a model's folder as the notebooks do: one folder at the top."""
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)


def serve_archives(served: Serve, repository: Path, tmp_path: Path) -> Container:
    """A multi-model endpoint with the two archives of the notebooks, whose engines are stand-ins in Python."""
    for name, factor in (("resnet_pt_v0", 2), ("resnet_trt_v0", 3)):
        pack(write_model(tmp_path / name / "resnet", factor, CONFIG, initialize=COUNTS), repository / f"{name}.tar.gz")
    mount = ("--volume", f"{repository}:/opt/ml/models:ro")
    return served(*IN_TRITON, *mount, "--env", "SAGEMAKER_MULTI_MODEL=true")


def load(container: Container, name: str) -> None:
    """As the platform does it."""
    url = f"/opt/ml/models/{name}.tar.gz"
    loaded = container.client.post("/models", json={"model_name": name, "url": url})
    assert loaded.status_code == 200, loaded.text + container.logs()


def test_the_notebooks_own_walk(served: Serve, repository: Path, tmp_path: Path) -> None:
    """Two archives that both hold a `resnet`, as JSON under octet-stream and as binary with the vendor's type."""
    container = serve_archives(served, repository, tmp_path)
    for name, factor in (("resnet_pt_v0", 2), ("resnet_trt_v0", 3)):
        load(container, name)
        payload = {"inputs": [{"name": "x", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": IMAGE.tolist()}]}
        headers = {"Content-Type": "application/octet-stream", "X-Amzn-SageMaker-Target-Model": f"{name}.tar.gz"}
        answered = container.client.post(f"/models/{name}/invoke", content=json.dumps(payload), headers=headers)
        assert answered.status_code == 200, answered.text
        data = np.array(answered.json()["outputs"][0]["data"], np.float32).reshape(IMAGE.shape)
        assert np.allclose(data, factor * IMAGE)

        given = triton.InferInput("x", [1, 3, 8, 8], "FP32").set_data_from_numpy(IMAGE)
        wanted = [triton.InferRequestedOutput("y", binary_data=True)]
        body, size = triton.InferenceServerClient.generate_request_body([given], outputs=wanted)
        headers["Content-Type"] = f"{VENDOR}{size}"
        answered = container.client.post(f"/models/{name}/invoke", content=body, headers=headers)
        assert answered.status_code == 200, answered.text
        header = int(answered.headers["Content-Type"][len(VENDOR) :])
        found = triton.InferenceServerClient.parse_response_body(answered.content, header_length=header)
        assert np.allclose(found.as_numpy("y"), factor * IMAGE)
    assert {each["modelName"] for each in container.client.get("/models").json()["models"]} == {
        "resnet_pt_v0",
        "resnet_trt_v0",
    }


def test_a_model_is_warm_before_it_is_ready(served: Serve, repository: Path, tmp_path: Path) -> None:
    """tritonserver runs config.pbtxt's samples at the load."""
    container = serve_archives(served, repository, tmp_path)
    load(container, "resnet_pt_v0")
    assert container.logs().count("ran") == 1


def test_an_archive_of_an_ensemble_is_one_model(served: Serve, repository: Path, tmp_path: Path) -> None:
    """Its members run in tritonserver; all of it goes with one call."""
    for name, factor in (("first", 2), ("second", 5)):
        write_model(tmp_path / "all" / name, factor)
    (tmp_path / "all/both/1").mkdir(parents=True)
    (tmp_path / "all/both/config.pbtxt").write_text(ENSEMBLE)
    with tarfile.open(repository / "all.tar.gz", "w:gz") as file:
        for each in (tmp_path / "all").iterdir():
            file.add(each, each.name)
    container = served(*IN_TRITON, "--volume", f"{repository}:/opt/ml/models:ro")
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    answered = container.client.post("/models/all.tar.gz/invoke", json=body)
    assert answered.json()["outputs"][0]["data"] == [10, 20], answered.text + container.logs()
    assert container.client.delete("/models/all.tar.gz").status_code == 200
    wait_until(lambda: "triton_python_backend_stub" not in processes(container), "the members' end", 10)


def test_a_killed_tritonserver_is_back(served: Serve, repository: Path, tmp_path: Path) -> None:
    """The container lives on, /ping stays 200, and the model answers again."""
    write_model(tmp_path / "m", 2)
    pack(tmp_path / "m", repository / "m.tar.gz")
    container = served(*IN_TRITON, "--volume", f"{repository}:/opt/ml/models:ro")
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}

    def is_right() -> bool:
        answered = container.client.post("/models/m.tar.gz/invoke", json=body)
        assert answered.status_code in (200, 503), answered.text
        return answered.status_code == 200 and answered.json()["outputs"][0]["data"] == [2, 4]

    assert is_right()
    container.exec("sh", "-c", "kill -9 $(pidof tritonserver)")
    assert container.client.get("/ping").status_code == 200
    wait_until(is_right, "the model's return", 60)


def test_it_stops_in_time_with_models_in_tritonserver(served: Serve, repository: Path, tmp_path: Path) -> None:
    """`docker stop` kills after ten seconds, and need not."""
    container = serve_archives(served, repository, tmp_path)
    load(container, "resnet_pt_v0")
    stopper = threading.Thread(target=docker, args=("stop", container.id))
    stopper.start()
    assert container.exit_code() == 0
    stopper.join()


def processes(container: Container) -> str:
    """Return the command lines of all processes inside."""
    return container.exec("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
