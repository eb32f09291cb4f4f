"""The routes below /v1: each with its status and its words, and the container's attributes on SageMaker's routes."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.models import make_fake
from tests.unit.http.front import Front
from tests.unit.http.wsgi import Answer

ROWS = b'{"instances": [[1, 2]]}'


@pytest.fixture
def front(tmp_path: Path) -> Front:
    """A fresh front; its model answers y = 4 x."""
    return Front(tmp_path, max_body_bytes=100_000)


def post(front: Front, route: str, body: bytes = ROWS, **headers: str) -> Answer:
    """POST below /v1/models/."""
    return front.ask("POST", f"/v1/models/{route}", body, **headers)


def get(front: Front, route: str) -> Answer:
    """GET below /v1/models/."""
    return front.ask("GET", f"/v1/models/{route}")


def states(answer: Answer) -> list[tuple[str, str]]:
    """Return version and state of a status."""
    return [(each["version"], each["state"]) for each in answer.json()["model_version_status"]]


# ---- predict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["quick", "quick/versions/1", "quick/versions/01"])
@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b'{"instances": [[1, 2]]}', {"predictions": [[4, 8]]}),
        (b'{"instances": [{"x": [1, 2]}]}', {"predictions": [[4, 8]]}),
        (b'{"inputs": [[1, 2]]}', {"outputs": [[4, 8]]}),
        (b'{"inputs": {"x": [[1, 2]]}, "signature_name": "serving_default"}', {"outputs": [[4, 8]]}),
    ],
)
def test_a_model_predicts_in_rows_and_columns(front: Front, route: str, body: bytes, answer: Any) -> None:
    """By its name and its version, loaded by the first who asks."""
    found = post(front, f"{route}:predict", body)
    assert (found.status, found.headers["Content-Type"], found.json()) == (200, "application/json", answer)


def test_a_content_encoding_is_read(front: Front) -> None:
    """As on V2's routes."""
    assert post(front, "quick:predict", gzip.compress(ROWS), content_encoding="gzip").status == 200
    assert post(front, "quick:predict", ROWS, content_encoding="br").status == 501


def test_names_may_have_slashes_and_be_percent_encoded(front: Front) -> None:
    """As on all routes; the letters of the route's own words may be large."""
    front.house.make("sub/a b")
    assert post(front, "sub/a%20b/versions/1:predict").status == 200
    assert front.ask("POST", "/v1/Models/quick:PREDICT", ROWS).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("POST", "/v1/models/none:predict", 404, "Servable not found for request: Latest(none)"),
        ("POST", "/v1/models/quick/versions/9:predict", 404, "Servable not found for request: Specific(quick, 9)"),
        ("POST", "/v1/models/quick/labels/new:predict", 400, "Unrecognized servable version label: new"),
        ("POST", f"/v1/models/quick/versions/{2**64}:predict", 400, f"Failed to convert version: {2**64} to numeric."),
        ("POST", f"/v1/models/quick/versions/{'9' * 5000}:predict", 400, "Failed to convert version"),
        ("POST", "/v1/models/quick/versions/HELLO:regress", 400, "Malformed request: POST /v1/models/quick/versions/"),
        ("POST", "/v1/models/quick", 400, "Malformed request: POST /v1/models/quick"),
        ("POST", "/v1/models/quick:explain", 400, "Malformed request"),
        ("POST", "/v1/models", 400, "Malformed request"),
        ("PUT", "/v1/models/quick:predict", 400, "Malformed request: PUT /v1/models/quick:predict"),
        ("GET", "/v1/models/quick:predict", 400, "Malformed request: GET /v1/models/quick:predict"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1", 400, "Malformed request: GET /v1"),
        ("GET", "/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("GET", "/v1/models/", 400, "Malformed request"),
        ("GET", "/v1/models/a//b", 400, "Malformed request"),
        ("GET", "/v1/models/..", 400, "not legal"),
        ("GET", "/v1/models/%ff", 400, "Failed to decode model name"),
        ("GET", "/v1/models/none", 404, "Could not find any versions of model none"),
        ("GET", "/v1/models/quick/versions/9", 404, "Could not find version 9 of model quick"),
        ("GET", "/v1/models/none/metadata", 404, "Servable not found for request: Latest(none)"),
    ],
)
def test_what_is_not_there_is_said_as_tensorflow_serving_says_it(
    front: Front, method: str, path: str, status: int, said: str
) -> None:
    """Its status, its words."""
    answer = front.ask(method, path, ROWS if method == "POST" else b"")
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    assert said in answer.error


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "JSON Parse error"),
        (b'{"instances": [["a"]]}', "is not of expected type: float"),
        (b'{"instances": [[1]], "signature_name": "other"}', 'Serving signature name: "other" not found'),
        (b'{"inputs": 3}', "unexpected shape for input 'x'"),
    ],
)
def test_a_request_that_does_not_fit_is_a_400(front: Front, body: bytes, said: str) -> None:
    """Without the id of a request that V2's clients know."""
    answer = post(front, "quick:predict", body)
    assert answer.status == 400
    assert said in answer.error
    assert not answer.error.startswith("[")


def test_a_model_that_fails_is_a_500(front: Front) -> None:
    """With what it says."""
    front.house.make("broken", fail_run="told to")
    answer = post(front, "broken:predict")
    assert (answer.status, "told to" in answer.error) == (500, True)


@pytest.mark.parametrize("method", ["classify", "regress"])
def test_a_model_that_takes_no_examples_says_so(front: Front, method: str) -> None:
    """In TensorFlow Serving's words, with what to call instead."""
    answer = post(front, f"quick:{method}", b'{"examples": [{"x": 1}]}')
    assert answer.status == 400
    assert "inputs found in SignatureDef: model 'quick' takes x (FP32), not tf.Examples: call :predict" in answer.error


# ---- status and metadata ---------------------------------------------------------------------------------------------


def test_the_status_loads_nothing_and_says_what_would_serve(front: Front) -> None:
    """What a first request would load is available."""
    for route in ("quick", "quick/versions/1"):
        assert get(front, route).json() == {
            "model_version_status": [
                {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            ]
        }
    assert front.house.manager.loaded() == []
    assert post(front, "quick:predict").status == 200
    assert states(get(front, "quick")) == [("1", "AVAILABLE")]


def test_an_unloaded_model_and_a_failed_load_have_ended(front: Front) -> None:
    """The reason of a failure is there, and nobody predicts."""
    front.house.make("broken", fail_load="no good")
    front.ask("POST", "/v2/repository/models/quick/load")
    front.ask("POST", "/v2/repository/models/quick/unload")
    front.ask("POST", "/v2/repository/models/broken/load")

    assert states(get(front, "quick")) == [("1", "END")]
    (found,) = get(front, "broken").json()["model_version_status"]
    assert (found["state"], found["status"]["error_code"]) == ("END", "UNKNOWN")
    assert "no good" in found["status"]["error_message"]
    assert post(front, "quick:predict").status == 404


def test_a_model_that_a_request_could_not_load_has_ended(front: Front) -> None:
    """Until a request can: it is tried anew each time."""
    front.house.make("broken", fail_load="no good")
    assert states(get(front, "broken")) == [("1", "AVAILABLE")]
    assert post(front, "broken:predict").status == 500
    (found,) = get(front, "broken").json()["model_version_status"]
    assert (found["state"], found["status"]["error_code"]) == ("END", "UNKNOWN")
    assert "no good" in found["status"]["error_message"]
    front.house.make("broken")
    assert post(front, "broken:predict").status == 200
    assert states(get(front, "broken")) == [("1", "AVAILABLE")]
    front.ask("DELETE", "/models/broken")
    assert states(get(front, "broken")) == [("1", "AVAILABLE")]


def test_a_folder_that_cannot_be_served_has_ended(front: Front) -> None:
    """With the sentence that a load would answer."""
    (front.house.root / "odd").mkdir()
    (front.house.root / "odd/wharf.toml").write_text("format = 3")
    (found,) = get(front, "odd").json()["model_version_status"]
    assert (found["version"], found["state"]) == ("1", "END")
    assert "wants one of" in found["status"]["error_message"]


def test_a_model_that_loads_is_loading(front: Front) -> None:
    """Until it is ready."""
    front.house.make("slow")
    gate = front.house.backend.hold("slow")
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(front.house.manager.load, "slow", str(front.house.root / "slow"))
        assert gate.reached.wait(15)
        assert states(get(front, "slow")) == [("1", "LOADING")]
        gate.go()
        load.result()
    assert states(get(front, "slow")) == [("1", "AVAILABLE")]


def test_the_platform_s_models_are_those_that_it_loaded(tmp_path: Path) -> None:
    """Others are not there."""
    front = Front(tmp_path, is_platform=True, max_body_bytes=10_000)
    assert get(front, "quick").status == 404
    assert post(front, "quick:predict").status == 404
    front.house.manager.load("quick", str(front.house.root / "quick"))
    assert states(get(front, "quick")) == [("1", "AVAILABLE")]
    assert post(front, "quick:predict").status == 200


def test_the_metadata_has_the_signatures(front: Front) -> None:
    """Types and shapes in protobuf's names, sizes as texts."""
    found = get(front, "quick/metadata").json()
    assert found["model_spec"] == {"name": "quick", "signature_name": "", "version": "1"}
    (signature,) = found["metadata"]["signature_def"]["signature_def"].items()
    assert signature[0] == "serving_default"
    assert signature[1]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signature[1]["inputs"]["x"]["tensor_shape"]["dim"][0] == {"size": "-1", "name": ""}
    assert signature[1]["method_name"] == "tensorflow/serving/predict"


def test_labels_are_those_of_the_model_s_own_configuration(front: Front) -> None:
    """Each names a version that is served; a fake has none."""
    for route in ("quick/labels/stable", "quick/labels/a%20b/metadata"):
        answer = get(front, route)
        assert (answer.status, "Unrecognized servable version label" in answer.error) == (400, True)
    assert get(front, "none/labels/stable").status == 404


# ---- what all routes have --------------------------------------------------------------------------------------------


def test_a_request_is_logged_counted_and_told_its_id(front: Front) -> None:
    """One line, one observation, V2's statistics."""
    answer = post(front, "quick:predict", x_request_id="7")
    assert answer.headers["X-Request-Id"] == "7"
    line = json.loads(front.log().splitlines()[-1])
    assert (line["model"], line["status"], line["request_id"]) == ("quick", "200", "7")
    assert front.counter("Invocations") == 1
    assert front.inference.catalog.stats("quick")[0]["inference_count"] == 1


def test_status_and_metadata_are_no_invocations(front: Front) -> None:
    """They count nothing."""
    assert [get(front, "quick").status, get(front, "quick/metadata").status] == [200, 200]
    assert front.counter("Invocations") == 0


def test_a_full_house_refuses_at_once(tmp_path: Path) -> None:
    """503 with when to come again; a body that is too large is 413."""
    front = Front(tmp_path, max_in_flight=0, max_body_bytes=100)
    answer = post(front, "quick:predict")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert post(front, "quick:predict", b" " * 101).status == 413


# ---- SageMaker's routes ----------------------------------------------------------------------------------------------


def attributed(front: Front, path: str, body: bytes, attributes: str, **headers: str) -> Answer:
    """POST with custom attributes, JSON unless something else is said."""
    said = {"content_type": "application/json", "x_amzn_sagemaker_custom_attributes": attributes} | headers
    return front.ask("POST", path, body, **said)


def test_an_attribute_names_the_model_where_nothing_else_does(front: Front) -> None:
    """Target-Model goes before it, and so does the path."""
    make_fake(front.house.root, "other", scale=10)
    named = "tfs-model-name=other"
    assert attributed(front, "/invocations", ROWS, named).json() == {"predictions": [[10, 20]]}
    found = attributed(front, "/invocations", ROWS, named, x_amzn_sagemaker_target_model="quick")
    assert found.json() == {"predictions": [[4, 8]]}
    assert attributed(front, "/models/quick/invoke", ROWS, named).json() == {"predictions": [[4, 8]]}
    assert attributed(front, "/invocations", ROWS, "tfs-model-name=none").status == 404


def test_the_one_model_of_an_endpoint_may_have_the_name_of_its_folder(tmp_path: Path) -> None:
    """As clients of the container call it; below /v1 too."""
    front = Front(tmp_path, max_body_bytes=10_000, own_name={"half": "quick"}.get)
    assert attributed(front, "/invocations", ROWS, "tfs-model-name=half").json() == {"predictions": [[4, 8]]}
    assert post(front, "half:predict").json() == {"predictions": [[4, 8]]}


def test_attributes_come_back_as_they_were_sent(front: Front) -> None:
    """As everybody's do."""
    found = attributed(front, "/invocations", ROWS, "a=1, tfs-method=predict")
    assert found.headers["X-Amzn-SageMaker-Custom-Attributes"] == "a=1, tfs-method=predict"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"[[1, 2]]"),
        ("application/json", b"[1, 2]"),
        ("application/json", b'{"x": [1, 2]}'),
        ("application/json", ROWS),
        ("application/jsonlines", b"[1, 2]\n"),
        ("application/jsonlines", b'{"x": [1, 2]}'),
        ("application/jsons", ROWS),
        ("text/csv", b"1,2\n"),
        ("TEXT/CSV; charset=utf-8", b"1,2"),
    ],
)
def test_who_speaks_to_the_container_gets_predictions(front: Front, content_type: str, body: bytes) -> None:
    """Whatever runs the model, in every type that the container reads."""
    found = attributed(front, "/invocations", body, "tfs-method=predict", content_type=content_type)
    assert (found.status, found.json()) == (200, {"predictions": [[4, 8]]})


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("application/json", "application/json"),
        ("application/jsonlines", "application/jsonlines"),
        ("text/html, application/jsonlines;q=0.5, application/json", "application/jsonlines"),
        ("*/*", "application/json"),
    ],
)
def test_the_container_answers_json_in_one_line(front: Front, accept: str, content_type: str) -> None:
    """Under the type that was asked for."""
    found = attributed(front, "/invocations", ROWS, "tfs-method=predict", accept=accept)
    assert (found.headers["Content-Type"], found.body) == (content_type, b'{"predictions":[[4.0,8.0]]}')


def test_another_accepted_type_is_written_too(front: Front) -> None:
    """The container would answer JSON; what nobody writes is 406."""
    found = attributed(front, "/invocations", ROWS, "tfs-method=predict", accept="text/csv")
    assert (found.headers["Content-Type"], found.body) == ("text/csv", b"4.0,8.0\n")
    assert attributed(front, "/invocations", ROWS, "tfs-method=predict", accept="image/png").status == 406


@pytest.mark.parametrize(
    ("attributes", "status", "said"),
    [
        ("tfs-method=explain", 400, "invalid tfs-method: 'explain': send predict, classify, regress."),
        ("tfs-model-version=x", 400, "invalid tfs-model-version: 'x'"),
        ("tfs-model-version=9", 404, "version 9 is not found"),
        ("tfs-method=classify", 400, "key 'examples' is expected"),
        ("tfs-model-version=1", 200, ""),
        ("tfs-model-version=01", 200, ""),
        ("tfs-model-version=1,tfs-method=predict", 200, ""),
        ("tfs-other=1", 200, ""),
    ],
)
def test_attributes_choose_version_and_method(front: Front, attributes: str, status: int, said: str) -> None:
    """What cannot be is told."""
    found = attributed(front, "/invocations", ROWS, attributes)
    assert (found.status, status == 200 or said in found.error) == (status, True)


def test_attributes_beside_a_body_that_the_container_does_not_read_are_refused(front: Front) -> None:
    """They would be for nothing; without them the body is read as all routes do."""
    raw = {"content_type": "application/octet-stream"}
    front.house.make("quick", dims=[2])
    found = attributed(front, "/invocations", b"\0" * 8, "tfs-method=predict", **raw)
    assert (found.status, "Unsupported Media Type: application/octet-stream" in found.error) == (415, True)
    assert attributed(front, "/invocations", b"\0" * 8, "tfs-model-name=quick", **raw).status == 200


def test_without_attributes_other_models_answer_in_the_form_of_the_question(front: Front) -> None:
    """A bare array for a bare array: the container's rules are for TensorFlow's models."""
    found = front.ask("POST", "/invocations", b"[[1, 2]]", content_type="application/json")
    assert found.json() == [[4, 8]]


def test_a_wrong_body_is_a_400_and_a_failure_424(front: Front) -> None:
    """SageMaker's own statuses, TensorFlow Serving's words."""
    found = attributed(front, "/invocations", b'{"instances": [["a"]]}', "tfs-method=predict")
    assert (found.status, "is not of expected type: float" in found.error) == (400, True)
    front.house.make("broken", fail_run="told to")
    assert attributed(front, "/models/broken/invoke", ROWS, "tfs-method=predict").status == 424
