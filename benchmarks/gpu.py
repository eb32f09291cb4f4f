"""How many copies of a network a GPU holds, by the method of AWS' measurement, beside what that found.

Copy the model, load and invoke it, read the device's memory; stop when one more of the average would pass 90 %, or at
our own 507. Then every copy is asked again and held to what the CPU answered. Prints copies for each GiB of the device
and bytes for each byte of weights, as the seed counts (all that is in use, by copies) and for a further copy alone (the
slope of a line through the readings, whose rest is the CUDA context). Without a GPU it says so and ends with 2;
`--device cpu --budget 2GiB` fills as much host memory the same way.

    python benchmarks/gpu.py [--device cuda:0 | cpu --budget BYTES] [--networks NAME ...] [--tolerance 0.01] [--tiny]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.networks import NETWORKS
from benchmarks.rig import Server, tree, wharf
from serving.devices import DeviceMeter, find_devices
from serving.setting_values import parse_bytes

FULL = 0.9
GIB = 1 << 30
NO_GPU = 2
INSUFFICIENT = 507


@dataclass(frozen=True)
class Found:
    """What AWS found with tritonserver's PyTorch backend on a T4 of 16 GiB: copies, and bytes over those of weights."""

    copies: int
    over_weights: float

    @property
    def per_gib(self) -> float:
        return self.copies / 16


SEED = {
    "resnet50": Found(46, 3.3),
    "convnext_base": Found(33, 1.33),
    "vit_large": Found(10, 1.27),
    "bert_base": Found(26, 1.36),
    "roberta_large": Found(9, 1.3),
}


class Site(Protocol):
    """A server with the memory that is to be filled."""

    total_bytes: int

    def used_bytes(self) -> int:
        """Return what of the memory is in use now."""

    def load(self, copy: int) -> int:
        """Load one more copy; return the status of the answer."""

    def ask(self, copy: int) -> list[float]:
        """Return what a copy answers to the question."""


@dataclass
class Filled:
    """What was found: `readings` are used bytes after so many copies, from none on."""

    name: str
    weight_bytes: int
    total_bytes: int
    readings: list[tuple[int, int]] = field(default_factory=list)
    stopped_by: str = ""
    worst: float = 0.0
    wrong: list[int] = field(default_factory=list)

    @property
    def copies(self) -> int:
        return self.readings[-1][0]

    @property
    def used_bytes(self) -> int:
        return self.readings[-1][1]

    @property
    def per_gib(self) -> float:
        return self.copies / (self.total_bytes / GIB)

    @property
    def over_weights(self) -> float:
        """All that is in use, context and what was there before included, for each byte of weights."""
        return self.used_bytes / max(1, self.copies) / self.weight_bytes

    @property
    def line(self) -> tuple[float, float]:
        """Return a and b of used = a + b * copies, by least squares; NaN where fewer than two copies tell nothing."""
        points = [each for each in self.readings if each[0]]
        if len(points) < 2:
            return math.nan, math.nan
        middle = sum(n for n, _ in points) / len(points)
        height = sum(used for _, used in points) / len(points)
        slope = sum((n - middle) * (used - height) for n, used in points) / sum((n - middle) ** 2 for n, _ in points)
        return height - slope * middle, slope


def fill(site: Site, found: Filled, wanted: Sequence[float], tolerance: float, most: int) -> Filled:
    """Fill the memory with copies, then ask all of them again."""
    found.readings.append((0, site.used_bytes()))
    for copy in range(most):
        status = site.load(copy)
        if status == INSUFFICIENT:
            found.stopped_by = "507"
            break
        if status != 200:
            raise SystemExit(f"{found.name}: copy {copy} was answered {status}: see the log above")
        check(found, copy, site.ask(copy), wanted, tolerance)
        used = site.used_bytes()
        found.readings.append((copy + 1, used))
        print(f"  {copy + 1} copies, {used / site.total_bytes:.1%} in use", file=sys.stderr, flush=True)
        if (used + used / (copy + 1)) / site.total_bytes >= FULL:
            found.stopped_by = f"{FULL:.0%}"
            break
    else:
        found.stopped_by = f"--most {most}"
    for copy in range(found.copies):
        check(found, copy, site.ask(copy), wanted, tolerance)
    return found


def check(found: Filled, copy: int, answer: Sequence[float], wanted: Sequence[float], tolerance: float) -> None:
    """Note how far an answer is from the CPU's, in parts of its largest figure."""
    size = max(1e-9, *(abs(each) for each in wanted))
    off = math.inf
    if len(answer) == len(wanted) and not any(map(math.isnan, answer)):
        off = max(abs(a - b) for a, b in zip(answer, wanted, strict=True)) / size
    found.worst = max(found.worst, off)
    if off > tolerance and copy not in found.wrong:
        found.wrong.append(copy)


def report(rows: Sequence[Filled]) -> str:
    """Return the table: ours, and the seed's beside it."""
    heads = ("network", "weights", "copies", "stop", "/GiB", "seed", "x weights", "seed", "further", "rest", "off")
    lines = ["{:14} {:>9} {:>6} {:>5} {:>6} {:>5} {:>9} {:>5} {:>8} {:>9} {:>8}".format(*heads)]
    for each in rows:
        seed, (rest, further) = SEED[each.name], each.line
        lines.append(
            f"{each.name:14} {each.weight_bytes / 2**20:5.0f} MiB {each.copies:6d} {each.stopped_by:>5} "
            f"{each.per_gib:6.2f} {seed.per_gib:5.2f} {each.over_weights:9.2f} {seed.over_weights:5.2f} "
            f"{further / each.weight_bytes:8.2f} {rest / 2**20:5.0f} MiB {each.worst:8.1e}"
            + (f"  WRONG: copies {each.wrong}" if each.wrong else "")
        )
    return "\n".join(lines)


class Wharf:
    """Our own server over copies of one network, on a GPU or in host memory."""

    def __init__(self, network: Path, root: Path, device: str, memory: DeviceMeter | int) -> None:
        self._network = network
        self._root = root / "models"
        self._root.mkdir(parents=True)
        self._memory = memory
        self._index = int(device.partition(":")[2] or 0)
        self._question = (network / "question.json").read_bytes()
        on_host = {"WHARF_MEMORY_BUDGET": str(memory)} if isinstance(memory, int) else {}
        env = {"SAGEMAKER_MULTI_MODEL": "true", "WHARF_DEVICE": device.partition(":")[0], **on_host}
        self.server: Server = wharf(self._root, is_pinned=False, **env)
        self.total_bytes = memory if isinstance(memory, int) else memory.devices()[self._index].capacity_bytes

    def used_bytes(self) -> int:
        """Return what the device says, or what all processes of the server hold, shared pages by share."""
        if not isinstance(self._memory, int):
            return self._memory.used_bytes(self._index) or 0
        total = 0
        for pid in tree(self.server.process.pid):
            with suppress(OSError):
                total += int(Path(f"/proc/{pid}/smaps_rollup").read_text().partition("Pss:")[2].split()[0]) * 1024
        return total

    def load(self, copy: int) -> int:
        """Copy the artifact (by links) and load it."""
        folder = self._root / f"copy-{copy}"
        folder.mkdir()
        for name in ("model.pt", "wharf.toml"):
            os.link(self._network / name, folder / name)
        status, answer = self._call("/models", json.dumps({"model_name": folder.name, "url": str(folder)}).encode())
        if status not in (200, INSUFFICIENT):
            print(answer, file=sys.stderr)
        return status

    def ask(self, copy: int) -> list[float]:
        """Invoke it as the seed does: tensors in V2's JSON."""
        status, answer = self._call(f"/models/copy-{copy}/invoke", self._question)
        if status != 200:
            print(answer, file=sys.stderr)
            return []
        return [float(each) for each in answer["outputs"][0]["data"]]

    def _call(self, path: str, body: bytes) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.server.port}{path}"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")


def measure(name: str, options: argparse.Namespace, memory: DeviceMeter | int) -> Filled:
    """Build a network, fill the memory with it by a server of its own."""
    print(f"{name}: building", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        network = Path(scratch, name)
        words = [name, str(network), options.device, *(["--tiny"] if options.tiny else [])]
        subprocess.run([sys.executable, str(Path(__file__).with_name("networks.py")), *words], check=True)
        toml = network / "wharf.toml"
        toml.write_text(f'device = "{options.device}"\n{toml.read_text()}')
        wanted = json.loads((network / "answer.json").read_text())
        site = Wharf(network, Path(scratch, "site"), options.device, memory)
        try:
            found = Filled(name, (network / "model.pt").stat().st_size, site.total_bytes)
            return fill(site, found, wanted, options.tolerance, options.most)
        finally:
            site.server.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda:0", help="cuda:N, or cpu")
    parser.add_argument("--budget", type=parse_bytes, default=2 * GIB, help="host memory to fill with --device cpu")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--tolerance", type=float, default=0.01, help="of the largest figure; a GPU has TF32")
    parser.add_argument("--most", type=int, default=5000, help="copies, if it is not full before")
    parser.add_argument("--tiny", action="store_true", help="the same networks, tiny: to try the path")
    options = parser.parse_args(arguments)
    memory: DeviceMeter | int = options.budget
    if options.device != "cpu":
        memory = find_devices(os.environ)
        if int(options.device.partition(":")[2] or 0) >= len(memory.devices()):
            print(
                f"There is no {options.device} here ({memory.why_none or 'fewer GPUs'}): nothing was measured. "
                "--device cpu --budget 2GiB fills host memory by the same method."
            )
            return NO_GPU
    rows = [measure(name, options, memory) for name in options.networks]
    print(report(rows))
    return 1 if any(each.wrong for each in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
