"""ResNet-50 class TorchScript through the server, next to the same graph in a bare loop and to the plain graph.

One thread each on core 0, batch 1, interleaved rounds; the client is pinned to the last core. Goals: at least 97 % of
the same (optimised) graph in a bare loop, at least 1.4 times the plain graph in a bare loop. Usage: python
benchmarks/resnet.py [models] [--rounds 7] [--images 40]
"""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rig import LAST_CORE, Server, wharf

SHAPE = (1, 3, 224, 224)


def loop(model_dir: Path, optimize: str) -> None:
    """Run the graph in a bare loop, as often as standard input asks, and print images a second each time."""
    import torch

    torch.set_num_threads(1)
    module = torch.jit.load(str(model_dir / "model.pt")).eval()
    if optimize == "optimised":
        module = torch.jit.optimize_for_inference(torch.jit.freeze(module))
    image = torch.rand(SHAPE)
    with torch.inference_mode():
        for _ in range(5):
            module(image)
        for line in sys.stdin:
            started = time.perf_counter()
            for _ in range(int(line)):
                module(image)
            print(int(line) / (time.perf_counter() - started), flush=True)


class Loop:
    """A bare loop in a process of its own."""

    def __init__(self, model_dir: Path, kind: str) -> None:
        command = ["taskset", "-c", "0", sys.executable, __file__, "--loop", kind, str(model_dir.parent)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def images_per_s(self, count: int) -> float:
        """Ask for `count` images."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def stop(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


def served_images_per_s(server: Server, body: bytes, count: int) -> float:
    """Send `count` images over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    started = time.perf_counter()
    for _ in range(count):
        connection.request(
            "POST", "/models/resnet50_torchscript/invoke", body, {"Content-Type": "application/octet-stream"}
        )
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
    connection.close()
    return count / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="?", type=Path, default=Path("models"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--loop", choices=["plain", "optimised"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model_dir = arguments.models.resolve() / "resnet50_torchscript"
    if not model_dir.is_dir():
        sys.exit(f"There is no {model_dir}: run `make models`, or name another repository.")
    if arguments.loop:
        loop(model_dir, arguments.loop)
        return
    os.sched_setaffinity(0, {int(LAST_CORE)})
    body = b"\x00\x00\x00\x3f" * (3 * 224 * 224)
    rates: dict[str, list[float]] = {"plain": [], "optimised": [], "served": []}
    loops = {kind: Loop(model_dir, kind) for kind in ("plain", "optimised")}
    server = wharf(model_dir.parent, WHARF_CPU_CORES="1")
    try:
        served_images_per_s(server, body, 10)
        for _ in range(arguments.rounds):
            for kind, bare in loops.items():
                rates[kind].append(bare.images_per_s(arguments.images))
            rates["served"].append(served_images_per_s(server, body, arguments.images))
    finally:
        server.stop()
        for bare in loops.values():
            bare.stop()
    for kind, values in rates.items():
        print(f"{kind:10} {statistics.median(values):6.2f} images/s ({min(values):.2f}-{max(values):.2f})")
    for kind, goal in (("optimised", 0.97), ("plain", 1.4)):
        ratios = [ours / bare for ours, bare in zip(rates["served"], rates[kind], strict=True)]
        spread = f"({min(ratios):.3f}-{max(ratios):.3f})"
        print(f"served / {kind} bare loop: {statistics.median(ratios):.3f} {spread} (goal: at least {goal})")


if __name__ == "__main__":
    main()
