"""SavedModels over HTTP: SageMaker's routes, Triton's client, their signatures; loaded, run and gone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from tests.server import RunningServer
from tests.workers.processes import is_alive

BROKEN = ("custom_op", "no_variables", "truncated", "tf1_bare", "keras_lambda")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, saved_models: Path) -> Iterator[RunningServer]:
    """A server over the sample models; of `half` alone both versions are served."""
    folder = tmp_path_factory.mktemp("saved")
    shutil.copytree(saved_models, folder / "models")
    with RunningServer(folder / "models", folder / "log") as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[Any]:
    """Triton's own client."""
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as made:
        yield made


def of(name: str, array: Any, datatype: str) -> Any:
    """An input of Triton's client."""
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def test_json_rows_and_columns_are_answered(server: RunningServer) -> None:
    """By SageMaker's route, in the form that was asked in."""
    rows = server.client.post("/models/half/invoke", json={"instances": [[2, 4], [0, 0]]})
    assert (rows.status_code, rows.json()) == (200, {"predictions": [[6.0, 9.0], [3.0, 3.0]]})
    pair = server.client.post("/models/pair/invoke", json={"inputs": {"left": [[1, 2, 3]], "right": [2]}})
    assert pair.json() == {"outputs": {"product": [[2.0, 4.0, 6.0]], "right_too": [2]}}
    text = server.client.post("/models/texts/invoke", json={"instances": ["ab", "c"]})
    assert text.json() == {"predictions": [{"upper": "AB", "length": 2}, {"upper": "C", "length": 1}]}


def test_a_wrong_request_is_400(server: RunningServer) -> None:
    """Names, shapes, and what the graph itself refuses."""
    for body in ({"instances": [[1, 2, 3]]}, {"inputs": {"z": [[1, 2]]}}):
        assert server.client.post("/models/half/invoke", json=body).status_code == 400
    answer = server.client.post("/models/picky/invoke", json={"instances": [7]})
    assert (answer.status_code, "not in [0, 3)" in answer.text) == (400, True)


def test_triton_clients_see_names_types_and_shapes(client: Any) -> None:
    """The worker said them; nothing of TensorFlow is in the server."""
    found = client.get_model_metadata("half")
    assert (found["platform"], found["versions"]) == ("tensorflow_savedmodel", ["3"])
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert client.get_model_config("half")["backend"] == "tensorflow"
    assert client.get_model_metadata("keras_one")["platform"] == "tensorflow"


def test_triton_clients_choose_a_signature(client: Any) -> None:
    """By a parameter, with that signature's outputs; one that is not there is named."""
    x = of("x", np.array([[2, 4]], np.float32), "FP32")
    assert client.infer("half", [x]).as_numpy("y").tolist() == [[6, 9]]
    total = client.infer("half", [x], parameters={"signature_name": "total"})
    assert (total.as_numpy("sum").tolist(), total.as_numpy("least").tolist()) == ([6], [2])
    least = triton.InferRequestedOutput("least")
    chosen = client.infer("half", [x], outputs=[least], parameters={"signature_name": "total"})
    assert [each["name"] for each in chosen.get_response()["outputs"]] == ["least"]
    with pytest.raises(triton.InferenceServerException, match=r"no signature 'rank', but \['serving_default',"):
        client.infer("half", [x], parameters={"signature_name": "rank"})


def test_triton_clients_send_texts(client: Any) -> None:
    """BYTES, both ways."""
    words = of("words", np.array([b"a\x00b", b""], np.object_), "BYTES")
    assert client.infer("texts", [words]).as_numpy("upper").tolist() == [b"A\x00B", b""]


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_served_is_refused_in_words_and_leaves_nothing(server: RunningServer, name: str) -> None:
    """A status, a sentence with the next step, no process, no reservation."""
    answer = server.client.post("/models", json={"model_name": "broken", "url": str(server.root / name)})
    assert answer.status_code in (400, 500)
    assert re.search(r"\b(copy|export|save|option)\b", answer.json()["error"])
    assert "Traceback" not in answer.text
    assert server.client.get("/models/broken").status_code == 404


def test_an_unload_ends_the_worker(server: RunningServer) -> None:
    """Its process is gone when DELETE answers."""
    assert server.client.post("/models/fixed/invoke", json={"instances": [[1, 2]]}).status_code == 200
    pids = _workers("fixed")
    assert len(pids) == 1
    assert server.client.delete("/models/fixed").status_code == 200
    assert not is_alive(pids[0])


def _workers(model: str) -> list[int]:
    """The processes that call themselves a worker of a model."""
    title = f"wharf worker: {model} #0"
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            text = (each / "cmdline").read_bytes().decode("utf-8", "replace") + (each / "comm").read_text()
        except OSError:
            continue
        if title in text or title[:15] in text:
            found.append(int(each.name))
    return found
