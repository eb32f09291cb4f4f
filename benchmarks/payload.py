"""What a 588 KiB tensor costs: 3x224x224 float32 as raw bytes, npy and JSON, next to a bare callable and Flask.

The model takes the first thousand numbers, once in numpy (what is measured is the way in and out, as in the peers) and
once in ONNX Runtime, which also gives up and takes back the interpreter. One run, interleaved. Goals: at most 130 CPU
us a binary request, at least 300 JSON requests a second on one core. Usage: python benchmarks/payload.py [--rounds 5]
[--seconds 3]
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.overhead import THREADS
from benchmarks.rig import Request, Server, compare, median, need_wrk, print_table, wharf
from tests.models import make_fake

BARE = "bare callable, raw (granian)"


def write_slice(folder: Path) -> None:
    """Write an ONNX model x [n, 3, 224, 224] -> y [n, 1000]: the first thousand numbers."""
    import onnx
    from onnx import helper

    kind = onnx.TensorProto.FLOAT
    constants = [
        helper.make_tensor(name, onnx.TensorProto.INT64, [1], [value])
        for name, value in (("start", 0), ("end", 1000), ("axis", 1))
    ]
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Slice", ["flat", "start", "end", "axis"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", kind, ["n", 3, 224, 224]),
        helper.make_tensor_value_info("y", kind, ["n", 1000]),
    ]
    graph = helper.make_graph(nodes, "slice", ends[:1], ends[1:], constants)
    folder.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]), str(folder / "model.onnx")
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="?", help="not used; `make bench` gives it to every benchmark")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    need_wrk()
    tensor = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    npy = io.BytesIO()
    np.save(npy, tensor)
    raw_type, path = "application/octet-stream", "/models/take/invoke"
    text = orjson.dumps({"instances": tensor}, option=orjson.OPT_SERIALIZE_NUMPY)
    raw = Request(path, tensor.tobytes(), raw_type, raw_type)
    peer = Request("/swallow", tensor.tobytes(), raw_type, raw_type)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        write_slice(root / "slice")
        make_fake(root, "take", dims=[3, 224, 224], take=1000, scale=1.0)
        gunicorn = [sys.executable, "-m", "gunicorn", "benchmarks.peers:make_flask()", "-b", "127.0.0.1:{port}"]
        ours = wharf(root)
        rows = [
            (ours, "wharf raw", raw),
            (ours, "wharf raw, ONNX Runtime", Request("/models/slice/invoke", raw.body, raw_type, raw_type)),
            (ours, "wharf npy", Request(path, npy.getvalue(), "application/x-npy", "application/x-npy")),
            (ours, f"wharf JSON ({len(text) / 1e6:.1f} MB)", Request(path, text)),
            (Server(BARE, [sys.executable, "-m", "benchmarks.peers", "{port}", str(THREADS)], "/"), BARE, peer),
            (
                Server("flask", [*gunicorn, "-k", "gthread", "--threads", "8"], "/"),
                "flask, raw (gunicorn gthread 8)",
                peer,
            ),
        ]
        try:
            answer = np.frombuffer(ours.call(raw), np.float32)
            assert np.array_equal(answer, tensor.reshape(-1)[:1000])
            cells = compare(rows, [1, 8], arguments.rounds, arguments.seconds)
        finally:
            for server in {id(server): server for server, _, _ in rows}.values():
                server.stop()
    print_table(cells, BARE)
    for name in ("wharf raw", "wharf npy"):
        print(f"{name}: {median(cells[name, 8], lambda m: m.cpu_us):.0f} CPU us at 8 connections (goal: at most 130)")
    name = next(name for name, _ in cells if "JSON" in name)
    print(f"{name}: {median(cells[name, 8], lambda m: m.requests_per_s):.0f} requests/s (goal: at least 300)")


if __name__ == "__main__":
    main()
