"""What Triton's protocol costs beside a real tritonserver: 3x224x224 float32 in binary over HTTP and gRPC.

The model answers the mean of each channel: little arithmetic and a small answer, so that the way of 602,112 bytes to
the model is what is measured. One model.py is served by tritonserver's Python backend and by a worker of ours; a
third row is the same arithmetic as an ONNX model, which runs in our server process (this tritonserver has the Python
backend alone). The last rows are the least that a server over these transports can do: take the same bytes and drop
them, or hand them to a forked process that computes the same mean, with nothing parsed, checked or counted. One run,
interleaved: servers on core 0, the load on the last core. HTTP comes from wrk, gRPC from threads that send a message
made once over a connection each. Goals, for the same model.py: at most half of tritonserver's CPU us a request, and
at least twice its requests a second at 16 clients. `make bench-v2` runs it. Usage: python benchmarks/v2.py [--rounds
7] [--seconds 2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import orjson
from tritonclient.grpc import service_pb2 as pb

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rig import LAST_CORE, Measurement, Request, Server, need_wrk, print_table, wharf
from tests.oracle import tritonserver

CLIENTS = (1, 16)
TRITON, WORKER, INSIDE = "tritonserver, Python backend", "wharf, model.py in a worker", "wharf, ONNX in process"
BARE_HTTP, BARE_GRPC = "nothing but Granian", "nothing but grpcio"
BARE_WORKER = "nothing but Granian and a worker"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            y = pb_utils.Tensor("y", x.mean(axis=(2, 3)))
            answers.append(pb_utils.InferenceResponse([y]))
        return answers
"""
CONFIG = """
max_batch_size: 16
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""


@dataclass(frozen=True)
class Row:
    """One server and one of its models, over one wire: measured with a number of clients for some seconds."""

    wire: str
    name: str
    measure: Callable[[int, float], Measurement]


def write_models(root: Path) -> None:
    """Write the Python model and, of the same arithmetic, the ONNX model."""
    import onnx
    from onnx import helper

    for name, backend in (("mean_py", "python"), ("mean_onnx", "onnxruntime")):
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(f'backend: "{backend}"\n{CONFIG}')
    (root / "mean_py" / "1" / "model.py").write_text(MODEL)
    kind = onnx.TensorProto.FLOAT
    axes = helper.make_tensor("axes", onnx.TensorProto.INT64, [2], [2, 3])
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)],
        "mean",
        [helper.make_tensor_value_info("x", kind, ["n", 3, 224, 224])],
        [helper.make_tensor_value_info("y", kind, ["n", 3])],
        [axes],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    onnx.save(model, str(root / "mean_onnx" / "1" / "model.onnx"))


def http_request(model: str, tensor: np.ndarray) -> Request:
    """Return the binary form: JSON, then the tensor; the output is asked for in binary, too."""
    said = {"name": "x", "datatype": "FP32", "shape": tensor.shape, "parameters": {"binary_data_size": tensor.nbytes}}
    head = orjson.dumps({"inputs": [said], "parameters": {"binary_data_output": True}})
    return Request(
        f"/v2/models/{model}/infer",
        head + tensor.tobytes(),
        "application/octet-stream",
        "*/*",
        {"Inference-Header-Content-Length": str(len(head))},
    )


def grpc_request(model: str, tensor: np.ndarray) -> bytes:
    """Return the same as a serialized ModelInferRequest."""
    message = pb.ModelInferRequest(model_name=model, raw_input_contents=[tensor.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=tensor.shape)
    return message.SerializeToString()


def channel_to(address: str) -> grpc.Channel:
    """Open a connection of its own."""
    return grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])


def measure_grpc(server: Server, address: str, message: bytes, clients: int, seconds: float) -> Measurement:
    """Send a message that is serialized already, again and again, from as many threads."""
    before = began = 0.0

    def begin() -> None:
        nonlocal before, began
        before, began = server.cpu_s(), time.perf_counter()

    def client(_: int) -> list[float]:
        times_us = []
        with channel_to(address) as channel:
            call = channel.unary_unary(METHOD)  # bytes in, bytes out
            call(message)
            start.wait()
            while (sent := time.perf_counter()) < began + seconds:
                call(message)
                times_us.append(1e6 * (time.perf_counter() - sent))
        return times_us

    start = threading.Barrier(clients, begin, timeout=60)
    with ThreadPoolExecutor(clients) as pool:
        times_us = [each for list_ in pool.map(client, range(clients)) for each in list_]
    spent_s, cpu_s, count = time.perf_counter() - began, server.cpu_s() - before, len(times_us)
    p50, p99 = np.percentile(times_us, (50, 99))
    return Measurement(1e6 * cpu_s / count, count / spent_s, p50, p99, 0)


def rows_of(triton: Server, triton_grpc: str, ours: Server, our_grpc: str, tensor: np.ndarray) -> list[Row]:
    """Return every server and model, over both wires."""
    rows = []
    for server, address, name, model in (
        (triton, triton_grpc, TRITON, "mean_py"),
        (ours, our_grpc, WORKER, "mean_py"),
        (ours, our_grpc, INSIDE, "mean_onnx"),
    ):
        request, message = http_request(model, tensor), grpc_request(model, tensor)
        check(server, address, request, message, tensor)
        rows += [
            Row("HTTP", name, partial(server.measure, request)),
            Row("gRPC", name, partial(measure_grpc, server, address, message)),
        ]
    return rows


def check(server: Server, address: str, request: Request, message: bytes, tensor: np.ndarray) -> None:
    """Hold an answer over each wire to numpy's."""
    wanted = tensor.mean(axis=(2, 3)).ravel()
    with channel_to(address) as channel:
        answer = pb.ModelInferResponse.FromString(channel.unary_unary(METHOD)(message))
    for raw in (server.call(request)[-4 * wanted.size :], answer.raw_output_contents[0]):
        assert np.allclose(np.frombuffer(raw, np.float32), wanted, rtol=1e-4), server.name


def print_goals(wire: str, cells: dict[tuple[str, int], list[Measurement]]) -> None:
    """Print tritonserver's CPU over ours, and our throughput over tritonserver's: medians of the rounds, and spread."""
    for name in (WORKER, INSIDE):
        for clients in CLIENTS:
            pairs = list(zip(cells[TRITON, clients], cells[name, clients], strict=True))
            less_cpu = shown([theirs.cpu_us / ours.cpu_us for theirs, ours in pairs])
            more = shown([ours.requests_per_s / theirs.requests_per_s for theirs, ours in pairs])
            print(f"{wire}, {clients:2d} clients, {name}: CPU {less_cpu} times less, {more} times the requests/s")


def shown(ratios: list[float]) -> str:
    """Write median and spread."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="?", help="not used; `make bench` gives it to every benchmark")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=2)  # wrk takes whole ones
    arguments = parser.parse_args()
    need_wrk()
    os.sched_setaffinity(0, {int(LAST_CORE)})
    tensor = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    cells: dict[str, dict[tuple[str, int], list[Measurement]]] = {"HTTP": {}, "gRPC": {}}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        write_models(root)
        their_grpc, our_grpc = tritonserver.free_port(), tritonserver.free_port()
        command = tritonserver.command(root, Path(folder) / "backends", "{port}", their_grpc, "--load-model=mean_py")
        triton = Server("tritonserver", command, "/v2/health/ready", tritonserver.environment())
        ours = wharf(root, WHARF_GRPC_PORT=str(our_grpc), WHARF_CPU_CORES="1", WHARF_MAX_WORKERS="1")
        peer = [sys.executable, "-m", "benchmarks.peers", "{port}"]
        bare, quiet = Server(BARE_HTTP, [*peer, "256"], "/"), Server(BARE_GRPC, [*peer, "64", "grpc"], "")
        handing = Server(BARE_WORKER, [*peer, "256", "worker"], "/")
        try:
            rows = rows_of(triton, f"127.0.0.1:{their_grpc}", ours, f"127.0.0.1:{our_grpc}", tensor)
            body = http_request("mean_py", tensor).body
            taken, handed = (Request(path, body, "application/octet-stream", "*/*") for path in ("/swallow", "/handed"))
            message = grpc_request("mean_py", tensor)
            rows += [
                Row("HTTP", BARE_HTTP, partial(bare.measure, taken)),
                Row("HTTP", BARE_WORKER, partial(handing.measure, handed)),
                Row("gRPC", BARE_GRPC, partial(measure_grpc, quiet, f"127.0.0.1:{quiet.port}", message)),
            ]
            for row in rows:
                row.measure(8, 1)
            for _ in range(arguments.rounds):
                for clients in CLIENTS:
                    for row in rows:
                        runs = cells[row.wire].setdefault((row.name, clients), [])
                        runs.append(row.measure(clients, arguments.seconds))
        finally:
            for server in (triton, ours, bare, handing, quiet):
                server.stop()
    for wire, found in cells.items():
        print(f"-- {wire}")
        print_table(found, TRITON)
    print("(goal for model.py in a worker: CPU at least 2 times less, and at 16 clients 2 times the requests/s)")
    for wire, found in cells.items():
        print_goals(wire, found)


if __name__ == "__main__":
    main()
