"""Which processes belong to a worker: those of its session, however often they forked. Read from /proc.

Only the zygote calls it. A process that left its worker's session is a stray; it comes back to the zygote when its
parent dies, which is the zygote's business as their reaper.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Collection, Iterator


def kill_session(leader: int) -> None:
    """Kill the worker `leader`, its process group, and whatever else is in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    for pid, _, session in _processes():
        if session == leader:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def count_of_session(leaders: Collection[int]) -> Counter[int]:
    """Count the processes of each worker's session, itself included."""
    return Counter(session for _, _, session in _processes() if session in leaders)


def strays(leaders: Collection[int]) -> list[int]:
    """Return the children of this process that are no worker and belong to no worker's session."""
    me = os.getpid()
    try:
        with open(f"/proc/self/task/{me}/children") as file:  # noqa: PTH123  no Path: this runs five times a second
            children = [int(each) for each in file.read().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        children = [pid for pid, parent, _ in _processes() if parent == me]
    unknown = set(children).difference(leaders)
    return [pid for pid, _, session in _processes() if pid in unknown and session not in leaders] if unknown else []


def _processes() -> Iterator[tuple[int, int, int]]:
    """Yield pid, parent and session of every process (proc(5): fields 1, 4 and 6 of `stat`)."""
    for name in os.listdir("/proc"):  # noqa: PTH208  names alone, and no Path for each
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            yield int(name), int(fields[1]), int(fields[3])
