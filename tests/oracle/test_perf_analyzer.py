"""Triton's own load generator runs against both, unmodified, and reads the server's times from the statistics."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import pytest

from tests.oracle.servers import Target
from tests.oracle.tritonserver import ROOT


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_perf_analyzer_measures_the_server(target: Target, tmp_path: Path, protocol: str) -> None:
    """Three windows of half a second; queue and compute times come from the server, and no request failed."""
    address = target.http if protocol == "http" else target.grpc
    table = tmp_path / "rows.csv"
    command = [str(ROOT / "scripts/perf_analyzer"), "-m", "add_sub", "-u", address, "-i", protocol, "-f", str(table)]
    more = ["--concurrency-range", "2", "--measurement-interval", "500", "--stability-percentage", "999"]
    done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(csv.DictReader(table.read_text().splitlines()))

    assert float(row["Inferences/Second"]) > 0
    assert float(row["Server Compute Infer"]) > 0
    assert float(row["Server Queue"]) >= 0
