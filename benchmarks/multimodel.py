"""Ours beside NVIDIA's own multi-model front end: what the platform asks of a container, row by row.

Both get the same calls of SageMaker's contract over the same folders: POST /models, invoke, DELETE, GET /models. Theirs
is tritonserver with --allow-sagemaker, which takes urls below /opt/ml/models alone and binds all addresses: so both run
in a network and mount namespace of their own, with an empty /opt. Python models, as the wheel has no other backend.
Times are medians of rounds in turn. Needs root and `.oracle`. Usage: python benchmarks/multimodel.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rig import Server, tree, wharf
from tests.oracle import tritonserver

ROOT = Path("/opt/ml/models")
MODEL = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        {initialize}

    def execute(self, requests):
        {execute}
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", r.inputs()[0].as_numpy() * 2)]) for r in requests]
"""
CONFIG = """
backend: "python"
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}).encode()
RIGHT = [2, 4]
# What the platform gives a call before it gives up, shortened: theirs was seen to hang for 98 s.
PATIENCE_S = 20.0
# A trivial Python model of theirs holds 42 MB, one of ours less; room for 15 is what 15 of each take.
MODELS, ROOM = 60, 15
ROUNDS = 7


def write_model(name: str, initialize: str = "pass", execute: str = "pass") -> str:
    """Write a model as SageMaker unpacks its archive; return its url."""
    folder = ROOT / name / "model" / name
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.py").write_text(MODEL.format(initialize=initialize, execute=execute))
    (folder / "config.pbtxt").write_text(CONFIG)
    return str(ROOT / name / "model")


class Side:
    """One of the two, behind the contract."""

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.server = server

    def call(self, method: str, path: str, model: str = "", body: bytes = b"") -> tuple[int, bytes, float]:
        """Return status, body and seconds; status 0 for one that did not answer in time."""
        headers = {"Content-Type": "application/json", "X-Amzn-SageMaker-Target-Model": f"{model}.tar.gz"}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.server.port}{path}", body or None, headers, method=method
        )
        began = time.perf_counter()
        status, answer = 0, b""
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as found:
                status, answer = found.status, found.read()
        except urllib.error.HTTPError as error:
            status, answer = error.code, error.read()
        except OSError as error:
            answer = str(error).encode()
        return status, answer, time.perf_counter() - began

    def load(self, name: str, url: str) -> tuple[int, bytes, float]:
        """POST /models."""
        return self.call("POST", "/models", name, json.dumps({"model_name": name, "url": url}).encode())

    def invoke(self, name: str) -> tuple[int, bytes, float]:
        """POST /models/NAME/invoke."""
        return self.call("POST", f"/models/{name}/invoke", name, BODY)

    def delete(self, name: str) -> tuple[int, bytes, float]:
        """DELETE /models/NAME."""
        return self.call("DELETE", f"/models/{name}", name)

    def is_right(self, name: str) -> bool:
        """Say whether a model answers, and what it should."""
        status, body, _ = self.invoke(name)
        return status == 200 and json.loads(body)["outputs"][0]["data"] == RIGHT

    def held_mib(self) -> float:
        """Memory of all its processes, shared pages by share."""
        total = 0
        for pid in tree(self.server.process.pid):
            with suppress(OSError):
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += int(text.partition("Pss:")[2].split()[0])
        return total / 1024


def start_theirs(folder: Path) -> Side:
    """Start tritonserver with its SageMaker front end."""
    empty = folder / "empty"
    empty.mkdir()
    words = tritonserver.command(empty, folder / "backends", tritonserver.free_port(), tritonserver.free_port())
    words = [word for word in words if not word.startswith(("--http", "--grpc"))]
    more = ["--allow-http=false", "--allow-grpc=false", "--allow-sagemaker=true", "--model-namespacing=true"]
    env = tritonserver.environment()
    return Side(
        "tritonserver",
        Server("tritonserver", [*words, *more, "--sagemaker-port={port}"], "/ping", env, is_pinned=False),
    )


def start_ours(folder: Path, **env: str) -> Side:
    """Start ours, as the platform starts it."""
    folder.mkdir(exist_ok=True)
    base = {"WHARF_CACHE_DIR": str(folder / "cache"), "SAGEMAKER_BASE_DIR": str(folder / "opt-ml")}
    env = {"SAGEMAKER_MULTI_MODEL": "true", "WHARF_WARM_WORKERS": "true"} | base | env
    return Side("wharf", wharf(ROOT, is_pinned=False, **env))


def timed(sides: list[Side], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Load and delete an idle model, in turn; return seconds by what and by side."""
    found: dict[str, dict[str, list[float]]] = {"load": {}, "delete": {}}
    for number in range(rounds):
        for side in sides:
            name = f"timed{number}{side.name}"
            url = write_model(name)
            status, body, seconds = side.load(name, url)
            assert status == 200, body
            found["load"].setdefault(side.name, []).append(seconds)
            assert side.is_right(name), side.name
            status, body, seconds = side.delete(name)
            assert status == 200, body
            found["delete"].setdefault(side.name, []).append(seconds)
    return found


def listed(side: Side) -> str:
    """GET /models after a load with the platform's header."""
    name = f"listed{side.name}"
    side.load(name, write_model(name))
    status, body, _ = side.call("GET", "/models")
    side.delete(name)
    return f"{status} {' '.join(body.decode().split())[:90]}"


def failing(side: Side) -> str:
    """Load a model called BLOOM that fails, for a reason that is not memory."""
    name = f"BLOOM{side.name}"
    status, _, _ = side.load(name, write_model(name, initialize='raise RuntimeError("no such file")'))
    return str(status)


def memory_back(side: Side) -> str:
    """What stays of a model of 200 MB after its unload."""
    name = f"large{side.name}"
    url = write_model(name, initialize="self.data = np.ones(200 << 20, np.uint8)")
    before = side.held_mib()
    status, body, _ = side.load(name, url)
    assert status == 200, body
    loaded = side.held_mib()
    side.delete(name)
    return f"{loaded - before:.0f} MiB taken, {side.held_mib() - before:.0f} MiB left"


def many(side: Side) -> str:
    """Load 60 models where 15 fit, unloading the least recently used where the answer is 507, as the platform does."""
    resident: list[str] = []
    refused = wrong = 0
    most = before = side.held_mib()
    for number in range(MODELS):
        name = f"many{number}{side.name}"
        url = write_model(name)
        while (status := side.load(name, url)[0]) == 507 and resident:
            refused += 1
            side.delete(resident.pop(0))
        resident.append(name)
        wrong += status != 200 or not side.is_right(name)
        most = max(most, side.held_mib())
    for name in resident:
        side.delete(name)
    return f"{refused} times 507, {wrong} wrong, {len(resident)} held, at most {most - before:.0f} MiB"


def busy(side: Side) -> str:
    """DELETE while a request of 2 s is in flight. The last row: theirs does not serve after it."""
    name = f"busy{side.name}"
    side.load(name, write_model(name, execute="time.sleep(2)"))
    answers: list[tuple[int, bytes, float]] = []
    asking = threading.Thread(target=lambda: answers.append(side.invoke(name)), daemon=True)
    asking.start()
    time.sleep(0.5)
    status, _, seconds = side.delete(name)
    asking.join(PATIENCE_S + 5)
    deleted = f"{status} after {seconds:.1f} s" if status else f"no answer in {PATIENCE_S:g} s"
    got = str(answers[0][0] or "none") if answers else "none"
    return f"{deleted}, its request {got}"


def measure(rounds: int) -> None:
    """Measure both and print the table."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        sides = [start_theirs(folder), start_ours(folder)]
        try:
            for side in sides:  # both have imported what they import
                side.load(f"first{side.name}", write_model(f"first{side.name}"))
                assert side.is_right(f"first{side.name}")
            print_table(sides, rounds, folder)
        finally:
            for side in sides:
                side.server.stop()


def print_table(sides: list[Side], rounds: int, folder: Path) -> None:
    """Print a row for each thing that the platform asks."""
    theirs, ours = sides
    print(f"{'':34} {theirs.name:44} {ours.name}")
    for what, of in timed(sides, rounds).items():
        shown = [f"{1000 * statistics.median(of[s.name]):.0f} ms ({_span(of[s.name])})" for s in sides]
        ratio = statistics.median(of[theirs.name]) / statistics.median(of[ours.name])
        print(f"{what + ' of a trivial model':34} {shown[0]:44} {shown[1]}   {ratio:.1f}x")
    rows: list[tuple[str, Callable[[Side], str]]] = [
        ("list after a load", listed),
        ("a failing model named BLOOM", failing),
        ("200 MB, loaded and deleted", memory_back),
    ]
    for name, row in rows:
        print(f"{name:34} {row(theirs):44} {row(ours)}", flush=True)
    each = one_model_mib(ours)
    small = start_ours(folder / "small", WHARF_MEMORY_BUDGET=f"{int(ROOM * each)}MiB")
    try:
        print(f"{f'{MODELS} models, room for {ROOM}':34} {many(theirs):44} {many(small)}", flush=True)
    finally:
        small.server.stop()
    print(f"{'delete of a busy model':34} {busy(theirs):44} {busy(ours)}", flush=True)


def one_model_mib(side: Side) -> float:
    """What the ledger takes for a trivial model, so that a budget has room for so many."""
    write_model("one")
    side.load("one", str(ROOT / "one/model"))
    _, body, _ = side.call("GET", "/metrics")
    side.delete("one")
    lines = [line for line in body.decode().splitlines() if line.startswith("ModelBytes{") and 'one"' in line]
    return float(lines[0].split()[-1]) / (1 << 20) if lines else 30.0


def _span(values: list[float]) -> str:
    return f"{1000 * min(values):.0f}-{1000 * max(values):.0f}"


def enter_namespace() -> None:
    """Give this process a network of its own, loopback alone, and an empty /opt."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # SIOCSIFFLAGS with IFF_UP | IFF_RUNNING (netdevice(7)).
        fcntl.ioctl(probe, 0x8914, struct.pack("16sH14x", b"lo", 0x41))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/opt"], check=True)
    ROOT.mkdir(parents=True)


def main() -> None:
    """Enter the namespaces, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        enter_namespace()
        measure(arguments.rounds)
        return
    if os.geteuid() or not shutil.which("unshare"):
        sys.exit("benchmarks/multimodel.py needs root and unshare (util-linux), for a network and an /opt of its own.")
    command = ["unshare", "--net", "--mount", sys.executable, *sys.argv, "--inside"]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
