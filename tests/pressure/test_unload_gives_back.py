"""After an unload the memory is the system's again, time after time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.models import MIB, make_fake
from tests.pressure.test_storm import resident_bytes
from tests.server import RunningServer

CYCLES = 200


def _cycle(server: RunningServer, folder: Path, body: bytes, times: int) -> None:
    for _ in range(times):
        load = {"model_name": "m", "url": str(folder)}
        assert server.client.post("/models", json=load).status_code == 200
        answer = server.client.post("/models/m/invoke", content=body, headers={"Accept": "application/octet-stream"})
        assert answer.status_code == 200, answer.text
        assert server.client.delete("/models/m").status_code == 200


def _growth_bytes(server: RunningServer, folder: Path, body: bytes, cycles: int = CYCLES) -> int:
    _cycle(server, folder, body, 10)
    early_bytes = resident_bytes(server.server_pid())
    _cycle(server, folder, body, cycles - 10)
    growth_bytes = resident_bytes(server.server_pid()) - early_bytes
    print(f"{cycles} cycles: {early_bytes / MIB:.0f} MiB after 10, {growth_bytes / MIB:+.1f} MiB since")
    return growth_bytes


def test_200_cycles_of_100_mb_leave_memory_where_it_was(start_server: StartServer) -> None:
    """Within 30 MiB of its value after the first ten."""
    server = start_server(SAGEMAKER_MULTI_MODEL="true")
    folder = make_fake(server.root, "m", bytes=100 * 10**6)

    assert _growth_bytes(server, folder, b'{"instances": [[1]]}') < 30 * MIB


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize(("kind", "cycles"), [("torchscript", CYCLES), ("onnx", 50)])
def test_200_cycles_of_a_real_100_mb_network_leave_memory_where_it_was(
    start_server: StartServer, kind: str, cycles: int
) -> None:
    """The same with weights that a framework holds."""
    server = start_server(SAGEMAKER_MULTI_MODEL="true")
    folder = server.root / "m"
    folder.mkdir()
    _write_layers(folder, kind)

    assert _growth_bytes(server, folder, b'{"inputs": [[%s]]}' % b",".join([b"0.1"] * 1024), cycles) < 30 * MIB


def _write_layers(folder: Path, kind: str) -> None:
    """Write 24 layers of 1024 x 1024 float32: 100 MB."""
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Linear(1024, 1024) for _ in range(24)]
    net = torch.nn.Sequential(*layers).eval()
    if kind == "torchscript":
        torch.jit.trace(net, torch.zeros(1, 1024)).save(str(folder / "model.pt"))
        (folder / "wharf.toml").write_text('[[inputs]]\nname = "input"\ndtype = "FP32"\ndims = [-1, 1024]\n')
        return
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    nodes, weights, last = [], [], "x"
    for number, layer in enumerate(layers):
        weights.append(numpy_helper.from_array(np.ascontiguousarray(layer.weight.detach().numpy().T), f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"h{number}"]))
        last = f"h{number}"
    kind_ = onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind_, ["n", 1024]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "layers", [ends[0]], [ends[1]], weights)
    onnx.save(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]), folder / "model.onnx"
    )
