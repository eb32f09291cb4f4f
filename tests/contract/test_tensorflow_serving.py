"""TensorFlow Serving's API over fakes, and the custom attributes of SageMaker's TensorFlow container."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.contract.conftest import Target


@pytest.fixture
def name(target: Target) -> str:
    """A loaded model, y = 3 x."""
    name = target.make(scale=3.0)
    assert target.load(name).status_code == 200
    return name


def post(target: Target, route: str, document: Any) -> httpx.Response:
    """POST below /v1/models/."""
    return target.client.post(f"/v1/models/{route}", json=document)


@pytest.mark.parametrize("which", ["", "/versions/1"])
def test_a_loaded_model_predicts_in_rows_and_columns(target: Target, name: str, which: str) -> None:
    """By its name, or by its version."""
    rows = post(target, f"{name}{which}:predict", {"instances": [[1.0, 2.0]]})
    columns = post(target, f"{name}{which}:predict", {"inputs": {"x": [[1.0, 2.0]]}})
    assert (rows.status_code, rows.json()) == (200, {"predictions": [[3.0, 6.0]]})
    assert (columns.status_code, columns.json()) == (200, {"outputs": [[3.0, 6.0]]})
    assert rows.headers["Content-Type"] == "application/json"


def test_the_status_follows_the_life_of_a_model(target: Target, name: str) -> None:
    """Available while it is loaded; on the platform it is gone with its unload."""
    before = target.client.get(f"/v1/models/{name}")
    target.client.delete(f"/models/{name}")
    after = target.client.get(f"/v1/models/{name}")

    (version,) = before.json()["model_version_status"]
    assert (version["version"], version["state"]) == ("1", "AVAILABLE")
    assert after.status_code == (404 if target.is_platform else 200)
    if target.is_platform:
        assert after.json() == {"error": f"Could not find any versions of model {name}"}
        assert post(target, f"{name}:predict", {"instances": [[1.0]]}).status_code == 404


def test_a_model_is_loaded_by_its_first_prediction_where_that_may_be(target: Target) -> None:
    """Standalone: as by every other route. On the platform nobody but the platform loads."""
    name = target.make(scale=2.0)
    answer = post(target, f"{name}:predict", {"instances": [[1.0]]})
    assert answer.status_code == (404 if target.is_platform else 200)
    assert (name in target.names()) is not target.is_platform


def test_the_metadata_tells_the_default_signature(target: Target, name: str) -> None:
    """Types and shapes."""
    found = target.client.get(f"/v1/models/{name}/metadata").json()
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"


@pytest.mark.parametrize(
    ("route", "document", "status", "said"),
    [
        ("nowhere:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(nowhere)"),
        ("{name}/versions/7:predict", {"instances": [[1]]}, 404, "Servable not found for request: Specific({name}, 7)"),
        ("{name}:predict", {"instances": [["a"]]}, 400, "is not of expected type: float"),
        ("{name}:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("{name}:classify", {"examples": [{"x": 1}]}, 400, "No classification inputs found in SignatureDef"),
        ("{name}", {}, 400, "Malformed request: POST /v1/models/{name}"),
    ],
)
def test_errors_are_tensorflow_serving_s(
    target: Target, name: str, route: str, document: Any, status: int, said: str
) -> None:
    """A status, and a sentence in JSON."""
    answer = post(target, route.format(name=name), document)
    assert (answer.status_code, answer.json().keys()) == (status, {"error"})
    assert said.format(name=name) in answer.json()["error"]


def test_predictions_of_many_clients_at_once_are_their_own(target: Target, name: str) -> None:
    """Sixteen of them."""

    def ask(number: int) -> bool:
        body = json.dumps({"instances": [[float(number)]]})
        return bool(
            target.client.post(f"/v1/models/{name}:predict", content=body).json() == {"predictions": [[3.0 * number]]}
        )

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(200)))


def test_a_body_in_chunks_is_read(target: Target, name: str) -> None:
    """Of a client that does not know its length."""
    chunks = iter([b'{"instances": [[', b"1.0]]}"])
    answer = target.client.post(f"/v1/models/{name}:predict", content=chunks)
    assert (answer.status_code, answer.json()) == (200, {"predictions": [[3.0]]})


def test_attributes_of_the_container_choose_model_and_method(target: Target, name: str) -> None:
    """On /invocations; JSON without an envelope is answered with predictions."""
    headers = {"Content-Type": "text/csv"}
    headers["X-Amzn-SageMaker-Custom-Attributes"] = f"tfs-model-name={name},tfs-method=predict,tfs-model-version=1"
    answer = target.client.post("/invocations", content=b"1,2\n3,4\n", headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"predictions": [[3.0, 6.0], [9.0, 12.0]]})
