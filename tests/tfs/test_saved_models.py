"""TensorFlow Serving's API and SageMaker's TensorFlow container over real SavedModels, under both HTTP servers."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from tests.server import RunningServer

HALF = "/v1/models/half_plus_two"


def post(client: httpx.Client, path: str, **document: Any) -> Any:
    """POST a document; return that of the answer, which is a 200."""
    answer = client.post(path, json=document)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: httpx.Client, path: str, **document: Any) -> tuple[int, str]:
    """POST a document; return the status and the sentence."""
    answer = client.post(path, json=document)
    return answer.status_code, answer.json()["error"]


def test_the_highest_version_predicts_and_each_may_be_asked_for(client: httpx.Client) -> None:
    """Several versions at once."""
    assert post(client, f"{HALF}:predict", instances=[1.0, 2.0]) == {"predictions": [3.5, 4.0]}
    assert post(client, f"{HALF}/versions/2:predict", instances=[1.0]) == {"predictions": [3.5]}
    assert post(client, f"{HALF}/versions/1:predict", inputs=[1.0, 5]) == {"outputs": [2.5, 4.5]}
    status, said = refused(client, f"{HALF}/versions/3:predict", instances=[1.0])
    assert (status, "Servable not found for request: Specific(half_plus_two, 3)" in said) == (404, True)


def test_a_version_may_be_asked_for_by_its_label(client: httpx.Client) -> None:
    """As the model's wharf.toml has it, on every route."""
    assert post(client, f"{HALF}/labels/stable:predict", instances=[1.0]) == {"predictions": [2.5]}
    assert post(client, f"{HALF}/labels/canary:predict", instances=[1.0]) == {"predictions": [3.5]}
    (found,) = client.get(f"{HALF}/labels/stable").json()["model_version_status"]
    assert found["version"] == "1"
    assert client.get(f"{HALF}/labels/canary/metadata").json()["model_spec"]["version"] == "2"
    status, said = refused(client, f"{HALF}/labels/old:predict", instances=[1.0])
    assert (status, "Unrecognized servable version label: old: model" in said) == (400, True)
    assert "has stable, canary" in said


def test_the_status_has_every_version_the_highest_first(client: httpx.Client) -> None:
    """One alone where one is asked for."""
    found = client.get(HALF).json()["model_version_status"]
    assert [(each["version"], each["state"]) for each in found] == [("2", "AVAILABLE"), ("1", "AVAILABLE")]
    (one,) = client.get(f"{HALF}/versions/1").json()["model_version_status"]
    assert one["version"] == "1"


def test_the_metadata_tells_every_signature(client: httpx.Client) -> None:
    """With what it is for."""
    found = client.get(f"{HALF}/versions/1/metadata").json()
    assert found["model_spec"]["version"] == "1"
    signatures = found["metadata"]["signature_def"]["signature_def"]
    methods = {name: each["method_name"].rpartition("/")[2] for name, each in signatures.items()}
    assert methods == {"serving_default": "predict", "regress_x_to_y": "regress", "classify_x_to_y": "classify"}
    assert signatures["regress_x_to_y"]["inputs"]["inputs"]["dtype"] == "DT_STRING"


@pytest.mark.parametrize("context", [{}, {"context": {"x": 80.0}}])
def test_regress_answers_a_number_an_example(client: httpx.Client, context: dict[str, Any]) -> None:
    """Each is a tf.Example, with the context's features in it."""
    examples = [{}, {"x": 2.0}] if context else [{"x": 80.0}, {"x": 2.0}]
    said = {"signature_name": "regress_x_to_y", "examples": examples}
    assert post(client, f"{HALF}/versions/1:regress", **said, **context) == {"results": [42.0, 3.0]}


def test_classify_answers_pairs_of_label_and_score(client: httpx.Client) -> None:
    """This model has no labels."""
    said = {"signature_name": "classify_x_to_y", "examples": [{"x": [20.0]}, {"x": 10.0}]}
    assert post(client, f"{HALF}/versions/1:classify", **said) == {"results": [[["", 12.0]], [["", 7.0]]]}


@pytest.mark.parametrize(
    ("path", "document", "said"),
    [
        (":classify", {"examples": [{"x": 1.0}]}, "No classification inputs found in SignatureDef: model 'half_plus"),
        (":regress", {"examples": [{"x": 1.0}]}, "No regression inputs found"),
        (":regress", {"signature_name": "classify_x_to_y", "examples": [{"x": 1.0}]}, "No regression outputs found"),
        (":regress", {"signature_name": "no", "examples": [{"x": 1.0}]}, 'Serving signature name: "no" not found'),
        (":predict", {"signature_name": "no", "instances": [1.0]}, "has classify_x_to_y, regress_x_to_y, serving_def"),
        (":regress", {"signature_name": "regress_x_to_y", "examples": [{"x": 1}]}, "Data types don't match"),
        (":predict", {"signature_name": "regress_x_to_y", "instances": ["none"]}, "Could not parse example input"),
    ],
)
def test_what_a_signature_does_not_take_is_a_400(client: httpx.Client, path: str, document: Any, said: str) -> None:
    """Ours in TensorFlow Serving's words, the model's in TensorFlow's."""
    status, sentence = refused(client, HALF + path, **document)
    assert (status, said in sentence) == (400, True), sentence


def test_predict_takes_serialized_examples_where_a_signature_does(client: httpx.Client) -> None:
    """As base64: what `classify` makes of examples, a client may make itself."""
    example = "Cg8KDQoBeBIIEgYKBAAAoEI="  # tf.train.Example with x = 80.0
    said = {"signature_name": "regress_x_to_y", "instances": [{"b64": example}]}
    assert post(client, f"{HALF}/versions/1:predict", **said) == {"predictions": [42.0]}


def test_texts_and_bytes_come_back_as_they_went(client: httpx.Client) -> None:
    """An output whose name ends in _bytes is base64, and what is no text too."""
    found = post(client, "/v1/models/texts:predict", instances=["é", {"b64": "/wA="}])
    text, binary = {"b64": "w6k="}, {"b64": "/wA="}
    assert found == {"predictions": [{"said": "é", "said_bytes": text}, {"said": binary, "said_bytes": binary}]}


def test_several_inputs_and_outputs_keep_their_names(client: httpx.Client) -> None:
    """In rows and in columns; another signature has others."""
    path = "/v1/models/pair:predict"
    rows = [{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6}]
    assert post(client, path, instances=rows) == {"predictions": rows}
    columns = {"a": [[1, 2], [4, 5]], "b": [3]}
    assert post(client, path, inputs=columns) == {"outputs": columns}
    assert post(client, path, signature_name="sum", instances=[[1, 2], [3, 4]]) == {"predictions": [3, 7]}


def test_requests_for_several_signatures_at_once_get_their_own_answers(server: RunningServer) -> None:
    """They meet before one worker, which joins those of one signature."""
    from concurrent.futures import ThreadPoolExecutor

    def ask(number: int) -> bool:
        path = f"{server.url}/v1/models/pair:predict"
        if number % 2:
            found = httpx.post(path, json={"signature_name": "sum", "instances": [[number, 1]]}, timeout=60).json()
            return bool(found == {"predictions": [number + 1]})
        row = {"a": [number, 1], "b": number}
        return bool(httpx.post(path, json={"instances": [row]}, timeout=60).json() == {"predictions": [row]})

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(64)))


# ---- SageMaker's TensorFlow container --------------------------------------------------------------------------------


def test_a_picture_as_a_json_list_is_answered_with_predictions(client: httpx.Client) -> None:
    """The CIFAR request: [1, 32, 32, 3], JSON accepted."""
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).tolist()
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    headers["X-Amzn-SageMaker-Target-Model"] = "cifar"
    answer = client.post("/invocations", content=json.dumps(picture), headers=headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    (row,) = answer.json()["predictions"]
    assert len(row) == 10
    assert sum(row) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("content_type", "body", "answer"),
    [
        ("application/json", "[1.0, 2.0]", None),
        ("application/json", '{"instances": [1.0, 2.0]}', {"predictions": [3.5, 4.0]}),
        ("application/json", '{"inputs": {"x": [1.0]}}', {"outputs": [3.5]}),
        ("application/json", "1.0", {"predictions": [3.5]}),
        ("application/jsonlines", '{"x": 1.0}\n{"x": 2.0}\n', {"predictions": [3.5, 4.0]}),
        ("text/csv", "1.0\n2.0\n", {"predictions": [3.5, 4.0]}),
    ],
)
def test_tensorflow_s_models_are_spoken_to_as_in_the_container(
    client: httpx.Client, content_type: str, body: str, answer: Any
) -> None:
    """Without any attribute; an array of numbers is one row, which this model does not take."""
    found = client.post("/models/half_plus_two/invoke", content=body, headers={"Content-Type": content_type})
    assert (found.status_code, found.json() if answer else None) == (200 if answer else 400, answer)


def test_attributes_choose_model_version_and_method(client: httpx.Client) -> None:
    """All three on /invocations."""
    attributes = "tfs-model-name=half_plus_two,tfs-model-version=1,tfs-method=regress"
    headers = {"Content-Type": "application/json", "X-Amzn-SageMaker-Custom-Attributes": attributes}
    body = json.dumps({"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}]})
    found = client.post("/invocations", content=body, headers=headers)
    assert (found.status_code, found.json()) == (200, {"results": [42.0]})
    assert found.headers["X-Amzn-SageMaker-Custom-Attributes"] == attributes


def test_what_the_container_does_not_know_goes_the_way_of_all_models(client: httpx.Client) -> None:
    """V2's JSON, and other types in and out."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}
    assert client.post("/models/half_plus_two/invoke", json={"inputs": [tensor]}).json()["outputs"][0]["data"] == [3.5]
    headers = {"Content-Type": "text/csv", "Accept": "text/csv"}
    assert client.post("/models/half_plus_two/invoke", content="1.0\n2.0", headers=headers).text == "3.5\n4.0\n"


# ---- whatever runs the model -----------------------------------------------------------------------------------------


def test_an_onnx_model_answers_the_same_api(client: httpx.Client) -> None:
    """Status, metadata, predict."""
    assert post(client, "/v1/models/relu:predict", instances=[[1, -2]]) == {"predictions": [[1, 0]]}
    assert post(client, "/v1/models/relu/versions/1:predict", inputs={"x": [[-1, 2]]}) == {"outputs": [[0, 2]]}
    assert client.get("/v1/models/relu").status_code == 200
    signatures = client.get("/v1/models/relu/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    status, said = refused(client, "/v1/models/relu:classify", examples=[{"x": 1}])
    assert (status, "call :predict" in said) == (400, True)
