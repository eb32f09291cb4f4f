"""Nothing stays of models that came and went: memory and files of both processes, over many loads and unloads.

`WHARF_CYCLES=1000 python -m pytest -s tests/triton/test_triton_cycles.py` is the long form: some ten minutes.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.server import RunningServer
from tests.triton.models import write_model
from tests.triton.test_triton_backend import answer, tritonserver_pid

CYCLES = int(os.environ.get("WHARF_CYCLES", "16"))
# At once: most of a cycle is a Python process that starts and ends.
LANES = 8
MOST_MIB, MOST_FILES = 20, 5


def held(pid: int) -> tuple[float, int]:
    """MiB in memory and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir()))


def cycle(server: RunningServer, name: str, count: int) -> None:
    """Load by a request and unload, `count` times."""
    for _ in range(count):
        assert answer(server, name) == [2, 4]
        assert server.client.delete(f"/models/{name}").status_code == 200


def test_memory_and_files_are_those_of_the_first_cycles(house: RunningServer) -> None:
    """Of tritonserver and of ours; what both warm up to comes with the first fifth."""
    names = [f"lane{number}" for number in range(LANES)]
    for name in names:
        write_model(house.root / name)

    def run(count: int) -> list[tuple[float, int]]:
        with ThreadPoolExecutor(LANES) as pool:
            list(pool.map(lambda name: cycle(house, name, count // LANES), names))
        return [held(tritonserver_pid(house)), held(house.server_pid())]

    before = run(max(LANES, min(50, CYCLES // 5)))
    after = run(CYCLES)
    for name, (mib, files), (mib_after, files_after) in zip(("tritonserver", "wharf"), before, after, strict=True):
        print(f"{name}: {mib:.1f} -> {mib_after:.1f} MiB, {files} -> {files_after} files, after {CYCLES} cycles")
        assert mib_after - mib <= MOST_MIB
        assert files_after - files <= MOST_FILES
