"""What the dynamic batcher gives: requests a second with many clients, and what it costs one client.

Two sample models in ONNX Runtime, each as it is and with a config.pbtxt that asks for dynamic batching; one server on
core 0, the load on the last core, one image or text a request, interleaved rounds. Prints, for each number of clients,
batched over unbatched throughput of the same round, and p99 of one client. Goals: BERT-base at 16 clients at least 1.5
times; p99 of one client at most 1.05 times. Usage: python benchmarks/batching.py [models] [--rounds 3] [--seconds 10]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rig import Measurement, Request, Server, need_wrk, print_table, wharf

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


def write_models(models: Path, root: Path) -> None:
    """Lay each sample model into a repository twice: as it is, and batched."""
    for name in BODIES:
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


def measure(
    rows: list[tuple[Server, str, Request]], rounds: int, seconds: float
) -> dict[tuple[str, int], list[Measurement]]:
    """Measure every model with each number of clients in turn, `rounds` times."""
    cells: dict[tuple[str, int], list[Measurement]] = {}
    for _ in range(rounds):
        for count in CLIENTS:
            for server, name, request in rows:
                cells.setdefault((name, count), []).append(server.measure(request, count, seconds))
                # The load leaves requests in the line: this one comes behind them, so that none is the next cell's.
                server.call(request)
    return cells


def print_ratios(name: str, cells: dict[tuple[str, int], list[Measurement]]) -> None:
    """Print what batching does for one model."""
    for count in CLIENTS:
        pairs = list(zip(cells[f"{name}_on", count], cells[f"{name}_off", count], strict=True))
        ratios = [on.requests_per_s / max(off.requests_per_s, 0.01) for on, off in pairs]
        spread = f"({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"{name:15} {count:2d} clients: {statistics.median(ratios):.2f} times the requests a second {spread}")
    on, off = ([one.p99_us / 1000 for one in cells[f"{name}_{kind}", 1]] for kind in ("on", "off"))
    print(
        f"{name:15}  1 client, p99: {statistics.median(on):.1f} ms batched, {statistics.median(off):.1f} ms unbatched"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="?", type=Path, default=Path("models"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    need_wrk()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        write_models(arguments.models.resolve(), root)
        server = wharf(root, WHARF_CPU_CORES="1")
        try:
            rows = []
            for name, (body, content_type) in BODIES.items():
                for kind in ("off", "on"):
                    request = Request(f"/models/{name}_{kind}/invoke", body, content_type)
                    server.call(request)
                    rows.append((server, f"{name}_{kind}", request))
            cells = measure(rows, arguments.rounds, arguments.seconds)
        finally:
            server.stop()
    for name in BODIES:
        print_table({key: runs for key, runs in cells.items() if key[0].startswith(name)}, f"{name}_off")
    for name in BODIES:
        print_ratios(name, cells)


if __name__ == "__main__":
    main()
