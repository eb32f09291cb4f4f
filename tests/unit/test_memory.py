"""Limits are the tightest that bind, in both versions of cgroups."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving import memory


def _machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in ({"proc/meminfo": "MemTotal:       16000000 kB\n"} | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_a_cgroup_the_machine_is_the_limit(tmp_path: Path) -> None:
    """RAM and the processors this process may use."""
    limits = memory.read_limits(_machine(tmp_path, {}))

    assert (limits.memory_bytes, limits.memory_source) == (16_000_000 * 1024, "RAM")
    assert limits.cores == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "536870912\n",
            "sys/fs/cgroup/cpu.max": "50000 100000\n",
        },
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/memory.max": "536870912\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n",
        },
        {
            "proc/self/cgroup": "4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        {
            "proc/self/cgroup": "4:memory:/x\n2:cpu:/x\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "536870912\n",
            "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["v2", "v2-nested", "v1-in-a-container", "v1-on-the-host"],
)
def test_the_tightest_limit_of_the_cgroup_binds(tmp_path: Path, files: dict[str, str]) -> None:
    """512 MiB and half a core, wherever the kernel writes them."""
    limits = memory.read_limits(_machine(tmp_path, files))

    assert (limits.memory_bytes, limits.cores) == (536870912, 0.5)
    assert limits.memory_source.startswith("cgroup")


def test_no_quota_is_no_limit(tmp_path: Path) -> None:
    """v1 writes -1 and a huge number, v2 writes max."""
    files = {
        "proc/self/cgroup": "4:memory:/\n2:cpu:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }

    assert memory.read_limits(_machine(tmp_path, files)).memory_source == "RAM"


def test_resident_memory_follows_an_allocation_and_its_end() -> None:
    """64 MiB come and go."""
    memory.give_back()
    before = memory.resident_bytes()
    block = np.ones(64 << 20, np.uint8)
    during = memory.resident_bytes()
    del block
    memory.give_back()

    assert during - before > 60 << 20
    assert memory.resident_bytes() - before < 8 << 20


def _page_faults_of_a_body() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        bytes(588 << 10)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_tuned_the_allocator_keeps_a_bodys_pages() -> None:
    """A 588 KiB buffer that comes and goes 50 times is not faulted in 50 times (147 pages each)."""
    assert memory.tune_allocator() is True
    _page_faults_of_a_body()

    assert _page_faults_of_a_body() < 147


_CHILD = """
import mmap, os, sys
import numpy as np
inherited = np.ones(64 << 20, np.uint8)
pid = os.fork()
if pid == 0:
    own = np.ones(24 << 20, np.uint8)
    with open(sys.argv[1], "rb") as file:
        view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    sum(view[:: 4096])
    print("ready", os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_a_forked_process_owns_what_it_added_and_its_share_of_files(tmp_path: Path) -> None:
    """24 MiB of its own and 32 MiB of a file that nobody else maps; not the 64 MiB that it inherited."""
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(32 << 20))
    command = [sys.executable, "-c", _CHILD, str(weights)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline().split()[1])
        own, share = memory.own_bytes(pid, memory.file_bytes(parent.pid)), memory.share_bytes(pid)
        touched = memory.touched_bytes(pid)
        parent.communicate("")

    assert 50 << 20 < own < 72 << 20
    assert own < share < touched
    assert touched > 120 << 20


def test_a_process_that_is_gone_holds_nothing() -> None:
    """Its number is nobody's."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    pid = gone.pid

    assert memory.own_bytes(pid) == memory.share_bytes(pid) == memory.touched_bytes(pid) == memory.file_bytes(pid) == 0
