"""What every benchmark needs: a server on one core, a load on the other, CPU time of the server's whole tree.

The load comes from wrk (Debian's package), pinned to the last core; the server is pinned to core 0. CPU microseconds a
request are (user + system time of the process tree) / requests: the figure to compare on a noisy machine. Every row of
a table is measured in turn, round after round (interleaved), and the median and the spread are printed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LAST_CORE = str(max(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Request:
    """What the load sends."""

    path: str
    body: bytes
    content_type: str = "application/json"
    accept: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_headers(self) -> dict[str, str]:
        """Every header that goes along."""
        return {"Content-Type": self.content_type, "Accept": self.accept, **self.headers}


@dataclass(frozen=True)
class Measurement:
    """One run of one cell."""

    cpu_us: float
    requests_per_s: float
    p50_us: float
    p99_us: float
    errors: int


class Server:
    """A server process group, as a rule pinned to core 0; `ready_path` answers when it is up.

    Without one it is up when somebody listens on its port.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        ready_path: str,
        env: Mapping[str, str] | None = None,
        *,
        is_pinned: bool = True,
    ) -> None:
        self.name = name
        self.port = _free_port()
        words = [word.replace("{port}", str(self.port)) for word in command]
        values = {key: value.replace("{port}", str(self.port)) for key, value in (env or {}).items()}
        self._log = tempfile.TemporaryFile()
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            ["taskset", "-c", "0", *words] if is_pinned else words,
            env=dict(os.environ) | {"PYTHONPATH": path} | values,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._wait(ready_path)

    def _wait(self, ready_path: str) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if not ready_path:
                    socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                    return
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}{ready_path}", timeout=5).read()
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.05)
            else:
                return
        self._log.seek(0)
        raise RuntimeError(f"{self.name} did not start:\n{self._log.read().decode()}")

    def cpu_s(self) -> float:
        """Return user + system time of the whole tree in seconds."""
        total = 0
        for pid in tree(self.process.pid):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12])
        return total / TICKS_PER_S

    def call(self, request: Request) -> bytes:
        """Send one request; return the answer's body."""
        url = f"http://127.0.0.1:{self.port}{request.path}"
        wire = urllib.request.Request(url, request.body, request.all_headers)
        return urllib.request.urlopen(wire, timeout=120).read()

    def measure(self, request: Request, connections: int, seconds: float) -> Measurement:
        """Load the server with `connections` for `seconds`."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "body").write_bytes(request.body)
            script = Path(folder) / "load.lua"
            script.write_text(
                f'local f = io.open("{folder}/body", "rb")\nwrk.body = f:read("*a")\nf:close()\nwrk.method = "POST"\n'
                + "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in request.all_headers.items())
            )
            before = self.cpu_s()
            url = f"http://127.0.0.1:{self.port}{request.path}"
            command = ["taskset", "-c", LAST_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"]
            done = subprocess.run(
                [*command, "--timeout", "60s", "-s", str(script), url], capture_output=True, text=True, check=True
            )
            return _read(done.stdout, self.cpu_s() - before)

    def stop(self) -> None:
        """End the process group that we started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(15)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self._log.close()


def _read(text: str, cpu_s: float) -> Measurement:
    requests = int(_found(r"(\d+) requests in", text))
    failed = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    for row in re.findall(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", text):
        failed += sum(map(int, row))
    p50, p99 = (_microseconds(_found(rf"(?m)^\s*{percent}%\s+(\S+)", text)) for percent in (50, 99))
    return Measurement(
        1e6 * cpu_s / max(1, requests), float(_found(r"Requests/sec:\s+([\d.]+)", text)), p50, p99, failed
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"wrk printed no {pattern!r}:\n{text}")
    return match[1]


def _microseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6, "m": 6e7}[unit]


def tree(pid: int) -> list[int]:
    """Return a process and all below it: any of its threads may have started one (our zygote, a Triton stub)."""
    children: list[str] = []
    for task in _tasks(pid):
        try:
            children += (task / "children").read_text().split()
        except OSError:
            continue
    return [pid, *(each for child in children for each in tree(int(child)))]


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def need_wrk() -> None:
    """Install wrk where it is missing and we may; otherwise say what to do."""
    if shutil.which("wrk"):
        return
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "wrk"], check=False)
    if not shutil.which("wrk"):
        sys.exit("benchmarks need wrk: apt-get install wrk")


def wharf(root: Path, name: str = "wharf", *, is_pinned: bool = True, **env: str) -> Server:
    """Start our own server over a repository."""
    base = {
        "WHARF_MODEL_ROOT": str(root),
        "WHARF_HOST": "127.0.0.1",
        "WHARF_PORT": "{port}",
        "WHARF_FAKE_BACKEND": "1",
        "WHARF_CACHE_DIR": str(root.parent / "cache"),
        "SAGEMAKER_BASE_DIR": str(root.parent / "opt-ml"),
    }
    return Server(name, [sys.executable, "-m", "serving.cli", "serve"], "/ping", base | env, is_pinned=is_pinned)


def compare(
    rows: Sequence[tuple[Server, str, Request]], connections: Sequence[int], rounds: int, seconds: float
) -> dict[tuple[str, int], list[Measurement]]:
    """Measure every cell (server, row's name, request) in turn, `rounds` times, after one warm-up each."""
    cells: dict[tuple[str, int], list[Measurement]] = {}
    for server, _, request in rows:
        server.measure(request, 8, 1)
    for _ in range(rounds):
        for count in connections:
            for server, name, request in rows:
                cells.setdefault((name, count), []).append(server.measure(request, count, seconds))
    return cells


def median(values: Sequence[Measurement], key: Callable[[Measurement], float]) -> float:
    """Return the median of one figure."""
    return statistics.median(key(each) for each in values)


def print_table(cells: dict[tuple[str, int], list[Measurement]], baseline: str) -> None:
    """Print a row a cell: medians, spread of CPU, and the ratio to the baseline's CPU at the same connections."""
    heads = f"{'server':34} {'conn':>5} {'CPU us':>8} {'(min-max)':>15} {'ratio':>6}"
    print(f"{heads} {'req/s':>8} {'p50 us':>8} {'p99 us':>9} {'errors':>6}")
    for (name, count), runs in sorted(
        cells.items(), key=lambda each: (each[0][1], median(each[1], lambda m: m.cpu_us))
    ):
        cpu = median(runs, lambda m: m.cpu_us)
        base = median(cells[baseline, count], lambda m: m.cpu_us)
        spread = f"({min(m.cpu_us for m in runs):.0f}-{max(m.cpu_us for m in runs):.0f})"
        rate, p50, p99 = (median(runs, key) for key in (_rate, _p50, _p99))
        print(
            f"{name:34} {count:5d} {cpu:8.1f} {spread:>15} {cpu / base:6.2f} "
            f"{rate:8.0f} {p50:8.0f} {p99:9.0f} {sum(m.errors for m in runs):6d}"
        )


def _rate(one: Measurement) -> float:
    return one.requests_per_s


def _p50(one: Measurement) -> float:
    return one.p50_us


def _p99(one: Measurement) -> float:
    return one.p99_us
