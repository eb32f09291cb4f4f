"""Which processes belong to a worker: those that descend from it, and those of its session. Read from /proc.

The zygote calls it, and who has another child that makes children (`backends.triton_server`). An orphan that has left
its worker's session is a stray: it comes to the zygote as their reaper, and nobody can tell any more whose it was.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection

# Each pass finds what was born during the one before: on two cores some forty processes, then eight, then none.
_PASSES = 20

# Parent, session, count of threads (none: it has ended, and nobody has asked how).
_Process = tuple[int, int, int]


def kill_families(leaders: Collection[int]) -> int:
    """Kill workers and all that belongs to them; return how many processes that was which have not ended yet."""
    for leader in leaders:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)  # at one blow: no child of its group slips through
    known: set[int] = set()
    alive: set[int] = set()
    for _ in range(_PASSES):
        alive = {pid for family in families(leaders).values() for pid in family}
        for pid in alive - known:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if alive <= known:
            break
        known |= alive
    return len(alive)


def kill_strays(leaders: Collection[int]) -> int:
    """Kill the children of this process that belong to no worker, with theirs; return how many have not ended yet."""
    unknown = set(children()).difference(leaders)
    table = _table() if unknown else {}
    strays = [pid for pid in unknown if pid in table and table[pid][2] and table[pid][1] not in leaders]
    return kill_families(strays) if strays else 0


def families(leaders: Collection[int]) -> dict[int, dict[int, int]]:
    """Return for each worker the processes that belong to it and have not ended, with their counts of threads."""
    table = _table()
    owners: dict[int, int | None] = {leader: leader for leader in leaders}
    found: dict[int, dict[int, int]] = {leader: {} for leader in leaders}
    for pid, (_, _, threads) in table.items():
        owner = _owner(pid, table, owners)
        if owner is not None and threads:
            found[owner][pid] = threads
    return found


def _owner(pid: int, table: dict[int, _Process], owners: dict[int, int | None]) -> int | None:
    """Climb to the first whose owner is known, by session or parent; note it for all on the way."""
    path = []
    while pid not in owners and pid in table:
        path.append(pid)
        parent, session, _ = table[pid]
        pid = session if owners.get(session) == session else parent
    owner = owners.get(pid)
    owners.update(dict.fromkeys(path, owner))
    return owner


def children() -> list[int]:
    """Return the children of this process, ended ones too."""
    me = os.getpid()
    try:
        with open(f"/proc/self/task/{me}/children") as file:  # noqa: PTH123  no Path: this runs five times a second
            return [int(each) for each in file.read().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return [pid for pid, (parent, _, _) in _table().items() if parent == me]


def descendants(pid: int) -> list[int]:
    """Return the children of a process and theirs, without a look at any other process; [] for one that is gone."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  names alone
            with open(f"/proc/{pid}/task/{thread}/children") as file:  # noqa: PTH123  as below
                found += map(int, file.read().split())
    except OSError:  # it has ended, or the kernel has no CONFIG_PROC_CHILDREN
        return found
    return [each for child in found for each in (child, *descendants(child))]


def _table() -> dict[int, _Process]:
    """Read all processes (proc(5): fields 3, 4, 6 and 20 of `stat`)."""
    table = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  names alone, and no Path for each
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            table[int(name)] = int(fields[1]), int(fields[3]), 0 if fields[0] in b"ZX" else int(fields[17])
    return table
