"""What the dynamic batcher gives: requests a second with many clients, and what it costs one client.

Two sample models in ONNX Runtime, each as it is and with a config.pbtxt that asks for dynamic batching; one server on
all cores, the load in between (`--cores 1`: the server on core 0, the load on the last core), one image or text a
request, interleaved rounds. A cell is a number of requests: a window of time would cut through batches. Prints, for
each number of clients, batched over unbatched throughput of the same round, and p99 of one client. Usage: python
benchmarks/batching.py [models] [--rounds 5] [--requests 128] [--cores 2] [--only resnet50_onnx]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rig import LAST_CORE, Request, Server, wharf

CLIENTS = (1, 16, 64)
IMAGE = b"\x00\x00\x00\x3f" * (3 * 224 * 224)
TEXT = json.dumps({"instances": [{"input_ids": list(range(1000, 1016)), "attention_mask": [1] * 16}]}).encode()
BODIES = {
    "resnet50_onnx": (IMAGE, "application/octet-stream"),
    "bert_base_onnx": (TEXT, "application/json"),
}
CONFIG = """backend: "onnxruntime"
max_batch_size: 16
dynamic_batching { }
instance_group [ { kind: KIND_CPU count: 1 } ]
"""


@dataclass(frozen=True)
class Cell:
    """One run of one model with one number of clients."""

    requests_per_s: float
    cpu_ms: float
    p99_ms: float


def write_models(models: Path, root: Path, names: Iterable[str]) -> None:
    """Lay each sample model into a repository twice: as it is, and batched."""
    for name in names:
        if not (models / name).is_dir():
            sys.exit(f"There is no {models / name}: run `make models`, or name another repository.")
        for folder in (root / f"{name}_off", root / f"{name}_on" / "1"):
            folder.mkdir(parents=True)
            for file in (models / name).iterdir():
                if file.name.startswith("model.onnx"):
                    _place(file, folder / file.name)
        (root / f"{name}_on" / "config.pbtxt").write_text(CONFIG)


def _place(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # another file system
        target.write_bytes(file.read_bytes())


def measure(server: Server, request: Request, clients: int, count: int) -> Cell:
    """Send `count` requests from as many clients, each over one connection."""
    numbers = iter(range(count))
    headers = {"Content-Type": request.content_type}

    def client(_: int) -> list[float]:
        connection, times_ms = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120), []
        for _ in numbers:
            started = time.perf_counter()
            connection.request("POST", request.path, request.body, headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, text
            times_ms.append(1000 * (time.perf_counter() - started))
        connection.close()
        return times_ms

    before, started = server.cpu_s(), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times_ms = sorted(each for list_ in pool.map(client, range(clients)) for each in list_)
    per_s = count / (time.perf_counter() - started)
    return Cell(per_s, 1000 * (server.cpu_s() - before) / count, times_ms[int(0.99 * (count - 1))])


def print_cells(name: str, cells: dict[tuple[str, int], list[Cell]]) -> None:
    """Print what batching does for one model."""
    for count in CLIENTS:
        for kind in ("off", "on"):
            runs = cells[f"{name}_{kind}", count]
            per_s, cpu_ms, p99_ms = (statistics.median(values) for values in zip(*map(astuple, runs), strict=True))
            print(
                f"{name}_{kind:4} {count:2d} clients {per_s:7.1f}/s {cpu_ms:7.1f} CPU ms a request, p99 {p99_ms:.0f} ms"
            )
    for count in CLIENTS:
        pairs = list(zip(cells[f"{name}_on", count], cells[f"{name}_off", count], strict=True))
        ratios = [on.requests_per_s / off.requests_per_s for on, off in pairs]
        spread = f"({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"{name}: batching at {count} clients: {statistics.median(ratios):.2f} times the throughput {spread}")
    p99 = statistics.median(on.p99_ms / off.p99_ms for on, off in pairs_at_one(name, cells))
    print(f"{name}: batching at 1 client: {p99:.2f} times the p99")


def pairs_at_one(name: str, cells: dict[tuple[str, int], list[Cell]]) -> list[tuple[Cell, Cell]]:
    """Return what one client saw with and without batching, round by round."""
    return list(zip(cells[f"{name}_on", 1], cells[f"{name}_off", 1], strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="?", type=Path, default=Path("models"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--only", choices=BODIES)
    arguments = parser.parse_args()
    bodies = {name: body for name, body in BODIES.items() if arguments.only in (None, name)}
    if arguments.cores == 1:
        os.sched_setaffinity(0, {int(LAST_CORE)})
    cells: dict[tuple[str, int], list[Cell]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        write_models(arguments.models.resolve(), root, bodies)
        server = wharf(root, is_pinned=arguments.cores == 1, WHARF_CPU_CORES=str(arguments.cores))
        try:
            rows = [
                (f"{name}_{kind}", Request(f"/models/{name}_{kind}/invoke", *body))
                for name, body in bodies.items()
                for kind in ("off", "on")
            ]
            for _, request in rows:
                server.call(request)
            for _ in range(arguments.rounds):
                for clients in CLIENTS:
                    for name, request in rows:
                        count = arguments.requests if clients > 1 else max(1, arguments.requests // 4)
                        cells.setdefault((name, clients), []).append(measure(server, request, clients, count))
        finally:
            server.stop()
    for name in bodies:
        print_cells(name, cells)


if __name__ == "__main__":
    main()
