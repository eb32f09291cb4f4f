"""SavedModels through our server, next to TensorFlow's own loop over them in one process without a server: the limit.

Both have one thread and core 0, the client (wrk) the last core; rounds are interleaved. Two cells: one client, beside a
loop of single rows; 16 clients with a row each, beside a loop of as many rows as each model's wharf.toml has joined
(batch_size). The loop is a session's callable, TensorFlow's cheapest way to call a SavedModel. The models are a
ResNet-50 and a small CNN with random weights. Goal: at least 85 % of the limit for ResNet-50; for the CNN the figure
says what HTTP costs beside 0.2 ms of work. Both figures of each cell are ratios to the limit: of rows a second, and of
CPU time a row, which is the one to believe on a machine that others use. Usage: python benchmarks/tensorflow.py
[--rounds 5] [--seconds 6]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.remove(str(Path(__file__).resolve().parent))  # there `tensorflow` is this file

from benchmarks.rig import Request, Server, need_wrk, wharf

MODELS = {"resnet50": (224, 224, 3), "small_cnn": (32, 32, 3)}
CLIENTS = 16
JOINED_ROWS = 8  # docs/tensorflow.md: more cost more a row
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}


def build(root: Path) -> None:
    """Write both SavedModels below `root`."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    keras.applications.ResNet50(weights=None).export(str(root / "resnet50" / "1"), verbose=False)
    body = [layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(), layers.Conv2D(64, 3, activation="relu")]
    net = keras.Sequential([keras.Input((32, 32, 3)), *body, layers.Flatten(), layers.Dense(10, activation="softmax")])
    net.export(str(root / "small_cnn" / "1"), verbose=False)
    for model in MODELS:
        (root / model / "wharf.toml").write_text(f"batch_size = {JOINED_ROWS}\n")


def loop(path: str, shape: tuple[int, ...]) -> None:
    """Run the model in a bare loop, as each line on standard input (rows, seconds) says; print what `Cell` has."""
    import numpy as np
    import tensorflow as tf

    v1 = tf.compat.v1
    config = v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    session = v1.Session(graph=tf.Graph(), config=config)
    with session.graph.as_default():
        signature = v1.saved_model.load(session, ["serve"], path).signature_def["serving_default"]
    find = session.graph.get_tensor_by_name
    infos = (signature.outputs.values(), signature.inputs.values())
    call = session.make_callable(*([find(each.name) for each in sorted(one, key=str)] for one in infos))
    for line in sys.stdin:
        rows, seconds = json.loads(line)
        batch = np.full((rows, *shape), 0.5, np.float32)
        call(batch)
        count, began, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            call(batch)
            count += rows
        print(
            json.dumps([count / (time.perf_counter() - began), 1e6 * (time.process_time() - cpu) / count]), flush=True
        )


class Cell(NamedTuple):
    """One run: rows a second, and microseconds of CPU a row."""

    rows_per_s: float
    cpu_us: float


class Loop:
    """A bare loop in a process of its own, on core 0."""

    def __init__(self, root: Path, model: str) -> None:
        command = ["taskset", "-c", "0", sys.executable, __file__, "--loop", model, "--root", str(root)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | QUIET,
        )
        self.run(1, 0.1)  # it is ready

    def run(self, rows: int, seconds: float) -> Cell:
        """Run batches of `rows` for so long."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([rows, seconds]) + "\n")
        self._process.stdin.flush()
        return Cell(*json.loads(self._process.stdout.readline()))

    def stop(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


def request_of(model: str) -> Request:
    """One row of halves, as raw bytes."""
    body = b"\x00\x00\x00\x3f" * math.prod(MODELS[model])
    return Request(f"/models/{model}/invoke", body, "application/octet-stream")


def served(server: Server, model: str, clients: int, seconds: float) -> Cell:
    """Load the server with so many clients, one row a request."""
    found = server.measure(request_of(model), clients, seconds)
    assert not found.errors, found
    return Cell(found.requests_per_s, found.cpu_us)


def measure(root: Path, rounds: int, seconds: float) -> None:
    """Print a line for each model and number of clients."""
    cells: dict[tuple[str, int], list[tuple[Cell, Cell]]] = {}
    loops = {model: Loop(root, model) for model in MODELS}
    server = wharf(root, WHARF_CPU_CORES="1", WHARF_ACCESS_LOG="off")
    try:
        for model in MODELS:
            server.call(request_of(model))  # loads it
            served(server, model, CLIENTS, 3)
        for _ in range(rounds):
            for model, alone in loops.items():
                for clients, rows in ((1, 1), (CLIENTS, JOINED_ROWS)):
                    limit = alone.run(rows, seconds)
                    cells.setdefault((model, clients), []).append((served(server, model, clients, seconds), limit))
    finally:
        server.stop()
        for alone in loops.values():
            alone.stop()
    print(f"{'model':10} {'clients':>7} {'served/s':>9} {'limit/s':>9} {'of limit':>18} {'by CPU time':>18}")
    for (model, clients), runs in cells.items():
        ours, limit = (statistics.median(each.rows_per_s for each in side) for side in zip(*runs, strict=True))
        wall = spread([mine.rows_per_s / bare.rows_per_s for mine, bare in runs])
        cpu = spread([bare.cpu_us / mine.cpu_us for mine, bare in runs])
        goal = "  goal: at least 0.85" if model == "resnet50" else ""
        print(f"{model:10} {clients:7d} {ours:9.1f} {limit:9.1f} {wall:>18} {cpu:>18}{goal}")


def spread(ratios: list[float]) -> str:
    """Return the median, least and most."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    """Build, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--loop", choices=list(MODELS), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        build(arguments.build)
    elif arguments.loop:
        loop(str(arguments.root / arguments.loop / "1"), MODELS[arguments.loop])
    else:
        need_wrk()
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "models"
            command = [sys.executable, __file__, "--build", str(root)]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=os.environ | QUIET)
            measure(root, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
