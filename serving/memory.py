"""What the machine allows and what the process holds: cgroup limits, resident memory, the allocator.

Measures and gives back; decides nothing. The budget comes from the cgroup (v1 or v2) or from RAM, never from free
memory as the kernel reports it. `fs_root` stands for `/` so that tests can lay out a machine. Called by `server` and
`manager`.
"""

from __future__ import annotations

import ctypes
import gc
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# mallopt's numbers, from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# By default glibc gives every freed buffer over 128 KiB back to the kernel and faults it in again for the next
# request: a 588 KiB body then costs 3-4 times the CPU. 16 MiB covers a 6 MiB body and what it decodes to; larger
# blocks, which are mostly weights, stay mappings of their own that leave at once and fragment nothing.
MMAP_THRESHOLD_BYTES = 16 << 20
# What freed memory at the end of an arena stays ours. `malloc_trim` reaches it in the main arena only; more than a few
# bodies' worth would be memory in no reservation.
TRIM_THRESHOLD_BYTES = 32 << 20
# One arena per thread (the default allows 8 per core) keeps what each of 256 threads once needed; Python allocates
# under one lock anyway.
ARENA_MAX = 2

# cgroup v1 writes "no limit" as the largest page-aligned number.
_NO_LIMIT_BYTES = 1 << 62


@dataclass(frozen=True, slots=True)
class Limits:
    """What this process may use: memory in bytes and CPU in cores, each with where it was read."""

    memory_bytes: int
    memory_source: str
    cores: float
    cores_source: str


def read_limits(fs_root: Path = Path("/")) -> Limits:
    """Return the tightest memory and CPU limits of the cgroup (v1 or v2), else those of the machine."""
    memory = [(_total_ram(fs_root), "RAM")]
    cores: list[tuple[float, str]] = [(float(len(os.sched_getaffinity(0))), "processors")]
    for folder in _cgroup_folders(fs_root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _read_int(folder / name)
            if limit is not None and limit < _NO_LIMIT_BYTES:
                memory.append((limit, f"cgroup {name}"))
    for folder in _cgroup_folders(fs_root, "cpu"):
        quota = _quota_v2(folder) or _quota_v1(folder)
        if quota:
            cores.append((quota, "cgroup CPU quota"))
    return Limits(*min(memory), *min(cores))


def oom_kills(fs_root: Path = Path("/")) -> int:
    """Return how many processes of our cgroup the kernel has killed for memory (v2, or v1 since Linux 4.13)."""
    count = 0
    for folder in _cgroup_folders(fs_root, "memory"):
        for name in ("memory.events", "memory.oom_control"):
            for line in _read_text(folder / name).splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill" and value.isdigit():
                    count = max(count, int(value))
    return count


def _cgroup_folders(fs_root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders whose limits bind this process, from its own cgroup up to the mount (v1's, then v2's)."""
    mount = fs_root / "sys/fs/cgroup"
    for line in _read_text(fs_root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        tops = [mount / controllers, mount / controller] if controllers else [mount, mount / "unified"]
        for top in tops:
            own = top / path.lstrip("/")
            # Inside a container the path is the host's and does not exist; the mount itself is then ours.
            yield from (each for each in (own, *own.parents) if each == top or top in each.parents)


def _quota_v2(folder: Path) -> float | None:
    quota, _, period = _read_text(folder / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() else None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _read_int(folder / "cpu.cfs_quota_us"), _read_int(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _total_ram(fs_root: Path) -> int:
    for line in _read_text(fs_root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _read_int(path: Path) -> int | None:
    text = _read_text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def is_in_memory(folder: Path, fs_root: Path = Path("/")) -> bool:
    """Say whether files of a folder are memory: it lies on a tmpfs or a ramfs."""
    mounts = (line.split() for line in _read_text(fs_root / "proc/self/mounts").splitlines())
    path = os.path.realpath(folder)
    around = [(len(at), kind) for _, at, kind, *_ in mounts if path == at or path.startswith(at.rstrip("/") + "/")]
    # Of two mounts at one place the later is on top.
    return bool(around) and max(reversed(around), key=lambda each: each[0])[1] in ("tmpfs", "ramfs")


def walked_bytes() -> int:
    """Return this process' anonymous memory in bytes, counted page by page (some 10 ms a GiB).

    The cheap figure of `resident_bytes` lags: each thread adds to it once in 64 page faults, and with huge pages those
    are up to 128 MiB.
    """
    for line in _read_text(Path("/proc/self/smaps_rollup")).splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    return resident_bytes()


def share_bytes(pid: int) -> int:
    """Return a process' private pages and its share of shared ones (PSS, proc(5)) in bytes; 0 for one that is gone.

    Of pages that 24 workers share with their zygote each counts for a 25th.
    """
    return _rollup(pid).get("Pss", 0)


def own_bytes(pid: int, inherited_file_bytes: int = 0) -> int:
    """Return what a forked process added to the machine's memory in bytes; 0 for one that is gone.

    Its private pages, and its share of the files that others map too (weights). What it shares with its parent is the
    parent's and would be counted twice: the pages inherited at the fork, and of shared files as many bytes as the
    parent had mapped (libraries). From smaps_rollup, proc(5).
    """
    sizes = _rollup(pid)
    private_clean, shared_clean = sizes.get("Private_Clean", 0), sizes.get("Shared_Clean", 0)
    own = sizes.get("Private_Dirty", 0) + private_clean
    if shared_clean > inherited_file_bytes:
        share = max(0, sizes.get("Pss_File", 0) - private_clean) / shared_clean
        own += int((shared_clean - inherited_file_bytes) * share)
    return own


def file_bytes(pid: int) -> int:
    """Return the bytes of files that a process has mapped and touched, shared or not."""
    sizes = _rollup(pid)
    return sizes.get("Rss", 0) - sizes.get("Anonymous", 0)


def _rollup(pid: int) -> dict[str, int]:
    lines = _read_text(Path(f"/proc/{pid}/smaps_rollup")).splitlines()[1:]
    return {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def touched_bytes(pid: int) -> int:
    """Return all pages that a process has in memory, whosever they are (VmRSS): a cheap sign that something changed."""
    return _status_bytes(pid, "VmRSS:")


def resident_bytes(pid: int | str = "self") -> int:
    """Return the anonymous memory of a process in bytes (RssAnon).

    Page cache and mapped files are the kernel's to take.
    """
    return _status_bytes(pid, "RssAnon:")


def _status_bytes(pid: int | str, field: str) -> int:
    for line in _read_text(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def give_back() -> None:
    """Collect garbage and hand freed heap pages back to the system.

    Without `malloc_trim` glibc keeps nearly all of an unloaded model: 1.1-1.4 of 1.5 GB were measured.
    """
    gc.collect()
    trim()


def trim() -> None:
    """Hand freed heap pages back to the system."""
    malloc_trim = getattr(_libc(), "malloc_trim", None)  # musl has none
    if malloc_trim is not None:
        malloc_trim(0)


def forget_locals(error: BaseException | None) -> None:
    """Let go of what the frames of a traceback hold: half a model, as a rule, that would outlive its reservation."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def tune_allocator() -> bool:
    """Set the allocator's thresholds for large bodies; return False where the libc has none of them."""
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is None:
        return False
    values = {
        _M_MMAP_THRESHOLD: MMAP_THRESHOLD_BYTES,
        _M_TRIM_THRESHOLD: TRIM_THRESHOLD_BYTES,
        _M_ARENA_MAX: ARENA_MAX,
    }
    # A list, not a generator: every value is set even where one is refused.
    return all([mallopt(key, value) == 1 for key, value in values.items()])  # noqa: C419


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
