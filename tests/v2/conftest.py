"""One server with gRPC for the module: two of Triton's templates, a classifier-shaped ONNX file, a texts' one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models import make_fake
from tests.server import RunningServer

TEMPLATES = Path(__file__).parent.parent.parent / "model_repo_templates/handlers"
# A decoupled model whose answers have no JSON of their own.
ODD = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            kind = int(pb_utils.get_input_tensor_by_name(request, "KIND").as_numpy()[0])
            if kind == 0:
                for value in (np.nan, np.inf, 0.1):
                    tensors = [
                        pb_utils.Tensor("NUMBER", np.array([value], np.float32)),
                        pb_utils.Tensor("TEXT", np.array([b"\\xff\\x00", b""], np.object_)),
                    ]
                    sender.send(pb_utils.InferenceResponse(tensors, parameters={"step": 1}))
            else:
                tensors = [
                    pb_utils.Tensor("NUMBER", np.zeros(1, np.float32)),
                    pb_utils.Tensor("TEXT", np.array([b"x"], np.object_)),
                ]
                sender.send(pb_utils.InferenceResponse(tensors))
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("no more of these")))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
ODD_CONFIG = """
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: True }
input [ { name: "KIND" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "NUMBER" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "TEXT" data_type: TYPE_STRING dims: [ -1 ] } ]
"""
FAILING = """
class TritonPythonModel:
    def execute(self, requests):
        raise ValueError("it broke")
"""
FAILING_CONFIG = """
backend: "python"
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
"""
# Counts its calls; each ends when the file GO is there.
WAITING = """
import os, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    calls = 0

    def execute(self, requests):
        self.calls += 1
        go = pb_utils.get_input_tensor_by_name(requests[0], "GO").as_numpy()[0].decode()
        open(go + ".began", "w").close()
        while not os.path.exists(go):
            time.sleep(0.002)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("CALLS", np.array([self.calls]))]) for _ in requests]
"""
WAITING_CONFIG = """
backend: "python"
input [ { name: "GO" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "CALLS" data_type: TYPE_INT64 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""


@pytest.fixture(scope="module")
def grpc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A running server; `grpc_address` has its second port."""
    pytest.importorskip("onnx")
    root = tmp_path_factory.mktemp("v2")
    models = root / "models"
    for name in ("triton_python", "triton_python_decoupled"):
        shutil.copytree(TEMPLATES / name, models / name)
    make_python(models / "odd", ODD, ODD_CONFIG)
    make_python(models / "failing", FAILING, FAILING_CONFIG)
    make_python(models / "waiting", WAITING, WAITING_CONFIG)
    make_python(models / "waiting_in_line", WAITING, WAITING_CONFIG + "dynamic_batching { }")
    make_onnx(models / "image", "Relu", 1, ["n", 3, 224, 224])
    make_onnx(models / "text", "Identity", 8, ["n"])
    make_onnx(models / "int8", "Identity", 3, ["n", 3])
    make_fake(models, "fake")
    with RunningServer(models, root / "log", {"WHARF_GRPC_PORT": "0"}) as server:
        yield server


@pytest.fixture(scope="module")
def address(grpc_server: RunningServer) -> str:
    """HOST:PORT of the gRPC server."""
    return address_of(grpc_server)


def address_of(server: RunningServer) -> str:
    """Return what the log says."""
    return str(re.findall(r"event=grpc_listening address=(\S+)", server.log())[-1])


def make_python(folder: Path, code: str, config: str) -> None:
    """Write a model of Triton's Python backend."""
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.py").write_text(code)
    (folder / "config.pbtxt").write_text(config)


def make_onnx(folder: Path, operator: str, kind: int, dims: list[object]) -> None:
    """Write y = operator(x)."""
    from onnx import helper

    folder.mkdir()
    x, y = (helper.make_tensor_value_info(name, kind, dims) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
