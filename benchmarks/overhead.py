"""What our server costs a request: CPU and throughput of a tiny model, next to a bare callable and next to Flask.

One run, interleaved. The goal: our invoke route costs at most 2.5 times the bare callable on the same server.
Usage: python benchmarks/overhead.py [--rounds 5] [--seconds 3]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rig import Request, Server, compare, median, need_wrk, print_table, wharf
from tests.models import make_fake

BODY = b'{"instances": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0]]}'
THREADS = 256


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="?", help="not used; `make bench` gives it to every benchmark")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 200])
    arguments = parser.parse_args()
    need_wrk()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        make_fake(root, "tiny", scale=4.0)
        gunicorn = [sys.executable, "-m", "gunicorn", "benchmarks.peers:make_flask()", "-b", "127.0.0.1:{port}"]
        ours, peer = Request("/models/tiny/invoke", BODY), Request("/tiny", BODY)
        servers = [
            (
                Server(
                    "bare callable (granian)", [sys.executable, "-m", "benchmarks.peers", "{port}", str(THREADS)], "/"
                ),
                peer,
            ),
            (wharf(root, "wharf invoke"), ours),
            (wharf(root, "wharf invoke (gunicorn)", WHARF_HTTP_SERVER="gunicorn"), ours),
            (Server("flask (gunicorn gthread 64)", [*gunicorn, "-k", "gthread", "--threads", "64"], "/"), peer),
        ]
        try:
            for server, request in servers:
                assert b"56.0" in server.call(request), server.name
            rows = [(server, server.name, request) for server, request in servers]
            cells = compare(rows, arguments.connections, arguments.rounds, arguments.seconds)
        finally:
            for server, _ in servers:
                server.stop()
    print_table(cells, "bare callable (granian)")
    ratios = [
        median(cells["wharf invoke", count], lambda m: m.cpu_us)
        / median(cells["bare callable (granian)", count], lambda m: m.cpu_us)
        for count in arguments.connections
    ]
    shown = ", ".join(f"{ratio:.2f} at {count}" for ratio, count in zip(ratios, arguments.connections, strict=True))
    print(f"wharf invoke / bare callable, CPU a request: {shown} (goal: at most 2.5)")


if __name__ == "__main__":
    main()
