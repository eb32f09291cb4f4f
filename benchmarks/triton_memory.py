"""What one picture costs on its way to a model in tritonserver: by shared memory, by gRPC, and asked directly.

The model is Python's, in a real tritonserver: it answers the mean of each channel (602,112 bytes in, 12 out), or the
picture itself. Three rows each: ours in front of it, with and without shared memory, and tritonserver alone; all asked
over gRPC, by messages made once, one client after the other and 8 at a time. Ours goes one hop further, so that its
CPU is its own and its tritonserver's. Servers on core 0, the load on the last; interleaved. `make bench-triton` runs
it. Usage: python benchmarks/triton_memory.py [--rounds 7] [--seconds 2]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from tritonclient.grpc import service_pb2 as pb

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rig import LAST_CORE, Measurement, Server, print_table, wharf
from benchmarks.v2 import METHOD, channel_to, grpc_request, measure_grpc
from tests.oracle import tritonserver
from tests.triton.models import triton_environ

CLIENTS = (1, 8)
SHARED, WIRE, ALONE = "wharf, shared memory", "wharf, gRPC alone", "tritonserver by itself"
MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", {answer})]) for x in tensors]
"""
CONFIG = """
backend: "python"
max_batch_size: 16
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {dims} ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""
MODELS = {"mean": ("x.mean(axis=(2, 3))", "3"), "same": ("x", "3, 224, 224")}


def write_models(root: Path) -> None:
    """Write both models."""
    for name, (answer, dims) in MODELS.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1/model.py").write_text(MODEL.format(answer=answer))
        (root / name / "config.pbtxt").write_text(CONFIG.format(dims=dims))


def start(folder: Path, root: Path) -> dict[str, tuple[Server, str]]:
    """Start the three; return each with its address for gRPC."""
    found: dict[str, tuple[Server, str]] = {}
    env = triton_environ(folder)
    for name, shared in ((SHARED, "32MiB"), (WIRE, "off")):
        port, cache = tritonserver.free_port(), folder / shared
        own = {"WHARF_TRITON_SHARED_MEMORY": shared, "WHARF_GRPC_PORT": str(port), "WHARF_CACHE_DIR": str(cache)}
        found[name] = wharf(root, name, WHARF_CPU_CORES="1", **env, **own), f"127.0.0.1:{port}"
    port = tritonserver.free_port()
    words = tritonserver.command(
        root, folder / "backends", "{port}", port, *(f"--load-model={name}" for name in MODELS)
    )
    alone = Server(ALONE, words, "/v2/health/ready", tritonserver.environment())
    return found | {ALONE: (alone, f"127.0.0.1:{port}")}


def check(address: str, model: str, message: bytes, tensor: np.ndarray) -> None:
    """Hold an answer to numpy's."""
    wanted = tensor if model == "same" else tensor.mean(axis=(2, 3))
    with channel_to(address) as channel:
        answer = pb.ModelInferResponse.FromString(channel.unary_unary(METHOD)(message, timeout=60))
    assert np.allclose(np.frombuffer(answer.raw_output_contents[0], np.float32), wanted.ravel(), rtol=1e-4), address


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {int(LAST_CORE)})
    tensor = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    cells: dict[str, dict[tuple[str, int], list[Measurement]]] = {model: {} for model in MODELS}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        write_models(folder / "models")
        servers = start(folder, folder / "models")
        try:
            for model in MODELS:
                message = grpc_request(model, tensor)
                for server, address in servers.values():
                    check(address, model, message, tensor)
                    measure_grpc(server, address, message, 8, 1)
                for _ in range(arguments.rounds):
                    for clients in CLIENTS:
                        for name, (server, address) in servers.items():
                            runs = cells[model].setdefault((name, clients), [])
                            runs.append(measure_grpc(server, address, message, clients, arguments.seconds))
        finally:
            for server, _ in servers.values():
                server.stop()
    for model, found in cells.items():
        print(f"-- {model}: 588 KiB in, {'588 KiB' if model == 'same' else '12 bytes'} out")
        print_table(found, WIRE)


if __name__ == "__main__":
    main()
