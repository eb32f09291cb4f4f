"""The memory file system: how much a group of ranks wants of /dev/shm, and a sentence where there is less.

On the CPU ranks meet over gloo and want none, unless DeepSpeed's shared-memory operation is switched on. On GPUs NCCL
keeps buffers there. Docker gives 64 MiB unless it is told otherwise. The server and `wharf env` ask at their start, a
rank before its model is loaded, `deepspeed_shim` before anything is written: past the end that is a bus error.
Standard library alone, CPython 3.9 on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

SWITCH = "DS_BUILD_SHM_COMM"  # DeepSpeed's own, for having that operation built
FOLDER = "/dev/shm"  # noqa: S108  where the kernel has it
# A file for each rank, taken at the first all-reduce: measured with DeepSpeed 0.19.8.
_BUFFER_BYTES = 69_206_024
# NVIDIA's advice for containers, --shm-size=1g; not measured here.
_NCCL_BYTES = 1 << 30


def is_switched_on(environ: Mapping[str, str]) -> bool:
    """Say whether DeepSpeed's shared-memory operation is to be used."""
    return environ.get(SWITCH, "0") not in ("", "0")


def shortage(ranks: int, environ: Mapping[str, str], *, is_cpu: bool, folder: str = FOLDER) -> str:
    """Return what is wrong for a group of so many ranks, nothing where there is room."""
    wanted_bytes = _wanted_bytes(ranks, environ, is_cpu=is_cpu)
    free_bytes = _free_bytes(folder)
    if free_bytes >= wanted_bytes:
        return ""
    who = f"{SWITCH}=1: DeepSpeed's shared-memory operation wants" if is_cpu else "NCCL may want"
    return (
        f"{who} {wanted_bytes >> 20} MiB of {folder} for a group of {ranks} ranks and {free_bytes >> 20} MiB are free: "
        f"start the container with a larger --shm-size{', or unset the variable' if is_cpu else ''}."
    )


def shortage_for_all(environ: Mapping[str, str], *, is_cpu: bool, folder: str = FOLDER) -> str:
    """Return the same for what TENSOR_PARALLEL_DEGREE wants of models that name no degree; `max` is two or more."""
    degree = environ.get("TENSOR_PARALLEL_DEGREE", "").strip()
    ranks = int(degree) if degree.isdecimal() else 2 if degree == "max" and not is_cpu else 0
    return shortage(ranks, environ, is_cpu=is_cpu, folder=folder)


def _wanted_bytes(ranks: int, environ: Mapping[str, str], *, is_cpu: bool) -> int:
    if ranks < 2:
        return 0
    if is_cpu:
        return _BUFFER_BYTES * ranks if is_switched_on(environ) else 0
    return _NCCL_BYTES


def _free_bytes(folder: str) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize
