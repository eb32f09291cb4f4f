"""Scripts of SageMaker's TensorFlow container beside real models, which answer in the same worker what they post."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server import RunningServer
from tests.workers.people import PAIR
from tests.workers.test_tensorflow_rest import POSTS

REGRESS = {"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}, {"x": 2.0}]}
CLASSIFY = {"signature_name": "classify_x_to_y", "context": {"x": 10.0}, "examples": [{"x": 20.0}, {}]}

Ask = Callable[..., Any]

pytestmark = pytest.mark.parametrize("server", ["granian"], indirect=True)  # what runs in a worker knows no server


@pytest.fixture(params=["handler", "pair"])
def ask(request: pytest.FixtureRequest, server: RunningServer, saved_models: Path) -> Ask:
    """Invoke a model with a script beside it; returns the answer."""

    def invoke(model: str, body: Any, attributes: str = "") -> Any:
        folder = server.root / f"{model}_{request.param}"
        if not folder.exists():
            shutil.copytree(saved_models / model, folder, ignore=shutil.ignore_patterns("config.pbtxt", "wharf.toml"))
            (folder / "code").mkdir()
            (folder / "code/inference.py").write_text({"handler": POSTS, "pair": PAIR}[request.param])
        headers = {"Content-Type": "application/json", "X-Amzn-SageMaker-Custom-Attributes": attributes}
        return server.client.post(
            f"/models/{folder.name}/invoke",
            content=json.dumps(body),
            headers={name: value for name, value in headers.items() if value},
        )

    return invoke


def test_a_script_gets_the_predictions_of_the_model_beside_it(ask: Ask) -> None:
    """The highest version's, or those of the one that the attributes name; by any signature and method."""
    assert ask("half_plus_two", {"instances": [1.0, 2.0]}).json() == {"predictions": [3.5, 4.0]}
    assert ask("half_plus_two", {"instances": [1.0]}, "tfs-model-version=1").json() == {"predictions": [2.5]}
    found = ask("half_plus_two", REGRESS, "tfs-method=regress,tfs-model-version=1")
    assert found.json() == {"results": [42.0, 3.0]}
    found = ask("half_plus_two", CLASSIFY, "tfs-method=classify,tfs-model-version=1")
    assert found.json() == {"results": [[["", 12.0]], [["", 7.0]]]}


@pytest.mark.parametrize(
    ("body", "attributes", "said"),
    [
        ({"instances": [1.0]}, "tfs-model-version=9", "Servable not found for request: Specific("),
        ({"instances": ["a"]}, "", "not of expected type: float32"),
        ({"inputs": {"z": 1}}, "", "the model wants"),
        ({"instances": [1.0], "signature_name": "no"}, "", "not found in signature def"),
        (REGRESS | {"signature_name": "classify_x_to_y"}, "tfs-method=regress", "Expected an output"),
        (CLASSIFY | {"signature_name": "regress_x_to_y"}, "tfs-method=classify", "Expected 'classes' or 'scores'"),
    ],
)
def test_what_the_model_does_not_take_reaches_the_script(ask: Ask, body: Any, attributes: str, said: str) -> None:
    """It raises what it was told, as these scripts do."""
    found = ask("half_plus_two", body, attributes)
    assert (found.status_code, said in found.json()["error"]) == (424, True), found.text


def test_texts_and_bytes_go_both_ways(ask: Ask) -> None:
    """As through TensorFlow Serving."""
    found = ask("texts", {"instances": ["é", {"b64": "/wA="}]}).json()
    text, binary = {"b64": "w6k="}, {"b64": "/wA="}
    assert found == {"predictions": [{"said": "é", "said_bytes": text}, {"said": binary, "said_bytes": binary}]}


def test_a_keras_file_predicts_too(ask: Ask) -> None:
    """By the container it had to be a SavedModel."""
    assert ask("keras", {"instances": [[1.5]]}).json() == {"predictions": [[3.0]]}


def test_a_model_with_a_script_is_not_asked_around_it(server: RunningServer, ask: Ask) -> None:
    """The API's own routes say where to go."""
    assert ask("pair", {"instances": [{"a": [1, 2], "b": 3}]}).status_code == 200
    for name in ("pair_handler", "pair_pair"):
        if (server.root / name).exists():
            found = server.client.post(f"/v1/models/{name}:predict", json={"instances": [1]})
            assert (found.status_code, f"/models/{name}/invoke" in found.json()["error"]) == (501, True)


def test_a_keras_file_alone_answers_the_api(server: RunningServer) -> None:
    """Its one signature is the default one."""
    found = server.client.post("/v1/models/keras:predict", json={"instances": [[1.5], [2]]})
    assert (found.status_code, found.json()) == (200, {"predictions": [[3.0], [4.0]]})
