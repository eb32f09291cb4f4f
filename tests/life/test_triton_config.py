"""Triton's config.pbtxt in a real server: shapes, optional inputs and warm-up, in process and in a worker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartServer
from tests.server import RunningServer
from tests.unit.backends.test_onnx import FLOAT, graph, node, onnx
from tests.unit.repository.written import write

pytest.importorskip("tritonclient")

TENSORS = """
max_batch_size: 4
input [{ name: "a" data_type: TYPE_FP32 dims: 4 reshape { shape: [2, 2] } },
       { name: "b" data_type: TYPE_FP32 dims: 1 reshape { } optional: true }]
output { name: "y" data_type: TYPE_FP32 dims: 4 reshape { shape: [2, 2] } }
"""
WARMUP = """
model_warmup {
  name: "cold" batch_size: 1 count: 2 inputs { key: "a" value { data_type: TYPE_%s dims: 4 zero_data: true } }
}
"""
PYTHON = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    runs = 0

    def execute(self, requests):
        answers = []
        for request in requests:
            self.runs += 1
            a = pb_utils.get_input_tensor_by_name(request, "a").as_numpy()
            b = pb_utils.get_input_tensor_by_name(request, "b")
            assert a.shape[1:] == (2, 2) and (b is None or b.as_numpy().ndim == 1), a.shape
            y = a + (self.runs if b is None else b.as_numpy()[:, None, None])
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", y.astype(np.float32))]))
        return answers
"""


def in_process(folder: Path) -> None:
    """Save y = a + b where b has a default."""
    default = onnx.helper.make_tensor("b", FLOAT, [1], [3.0])
    told = {"a": (FLOAT, ["n", 2, 2]), "b": (FLOAT, [1])}
    folder.mkdir(parents=True, exist_ok=True)
    graph(folder, [node("Add", "a b", "y")], told, {"y": (FLOAT, ["n", 2, 2])}, initializer=[default])


def ask(server: RunningServer, name: str, **columns: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/models/{name}/invoke", json={"inputs": columns}, timeout=60)


def test_a_model_in_process_and_one_in_a_worker_have_what_their_configuration_says(start_server: StartServer) -> None:
    """Both have run twice before the first request; nothing of it is warned about."""
    server = start_server()
    in_process(write(server.root / "net", config_pbtxt=TENSORS + WARMUP % "FP32"))
    write(server.root / "code", **{"1__model_py": PYTHON}, config_pbtxt='backend: "python"' + TENSORS + WARMUP % "FP32")
    for name in ("net", "code"):
        answer = ask(server, name, a=[[1, 2, 3, 4]])
        assert (answer.status_code, answer.json()) == (200, {"outputs": [[4, 5, 6, 7]]}), answer.text
        assert ask(server, name, a=[[1, 2, 3, 4]], b=[[10]]).json() == {"outputs": [[11, 12, 13, 14]]}
        assert "shape" in ask(server, name, a=[[[1, 2], [3, 4]]]).json()["error"]
        assert ask(server, name, b=[[10]]).status_code == 400
    assert "event=warmed model=net sample=cold" in server.log()
    assert not re.search(r"event=configuration", server.log())


def test_a_sample_that_fails_is_told_to_who_loads(start_server: StartServer) -> None:
    """By its name; the model is not there."""
    server = start_server()
    in_process(write(server.root / "net", config_pbtxt=TENSORS + WARMUP % "FP64"))
    answer = ask(server, "net", a=[[1, 2, 3, 4]])
    assert answer.status_code == 500
    assert "sample 'cold' of its model_warmup" in answer.json()["error"]
    assert server.client.get("/models").json()["models"] == []
