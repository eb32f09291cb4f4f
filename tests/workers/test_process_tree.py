"""Whose process is whose: a worker's family is found and killed however it forked, and nobody else is."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.workers.process_tree import children, descendants, families, kill_families, kill_strays
from tests.waiting import until
from tests.workers.processes import is_alive

_PR_SET_CHILD_SUBREAPER = 36
LEADER = """
import os, sys, time, threading
def tell(role):
    os.write(1, f"{role}={os.getpid()}\\n".encode())
def sleep():
    time.sleep(60)
    os._exit(0)
if os.fork() == 0:  # a plain child
    tell("child")
    sleep()
if os.fork() == 0:  # a double fork: an orphan in the leader's session
    if os.fork() == 0:
        tell("orphan")
        sleep()
    os._exit(0)
os.wait()
if os.fork() == 0:  # a child in a session of its own, as Popen(start_new_session=True)
    os.setsid()
    if os.fork() == 0:
        tell("grandchild")
        sleep()
    tell("own_session")
    sleep()
pid = os.fork()
if pid == 0:  # a daemon: an orphan in a session of its own
    os.setsid()
    if os.fork() == 0:
        tell("daemon")
        sleep()
    os._exit(0)
os.waitpid(pid, 0)
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
tell("leader")
sleep()
"""
ROLES = ("leader", "child", "orphan", "own_session", "grandchild", "daemon")


@pytest.fixture
def reaper() -> Iterator[None]:
    """Take orphans in, as the zygote does."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    yield
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0)


Family = dict[str, int]
Start = Callable[[], Family]


@pytest.fixture
def start(reaper: None) -> Iterator[Start]:
    """Start families of six; what a test leaves of them is ended."""
    leaders: list[subprocess.Popen[bytes]] = []
    pids: set[int] = set()

    def started() -> Family:
        leader = subprocess.Popen([sys.executable, "-c", LEADER], stdout=subprocess.PIPE, start_new_session=True)
        leaders.append(leader)
        assert leader.stdout is not None
        lines = [leader.stdout.readline().decode().strip().partition("=") for _ in ROLES]
        family = {role: int(pid) for role, _, pid in lines}
        pids.update(family.values())
        return family

    yield started
    for pid in pids:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)
    for leader in leaders:
        leader.wait()
        assert leader.stdout is not None
        leader.stdout.close()
    reap(pids - {leader.pid for leader in leaders})


def reap(pids: set[int]) -> None:
    for pid in pids & set(children()):
        os.waitpid(pid, 0)


def test_a_family_is_all_that_descends_and_all_of_its_session(start: Start) -> None:
    """A daemon that left the session is nobody's any more."""
    family = start()
    until(lambda: family["daemon"] in children() and family["orphan"] in children())
    daemon = family.pop("daemon")
    found = families([family["leader"]])[family["leader"]]
    assert set(found) == set(family.values())
    assert daemon not in found


def test_threads_count(start: Start) -> None:
    """A bomb of threads is a bomb."""
    family = start()
    assert families([family["leader"]])[family["leader"]][family["leader"]] == 2


def test_killing_a_family_and_its_strays_ends_all_of_it_and_nobody_else(start: Start) -> None:
    """As the zygote does at a worker's end, until nobody is left; a neighbour with the same habits goes on."""
    family, neighbour = start(), start()
    others = [neighbour["leader"], *set(children()) - set(family.values()) - set(neighbour.values())]
    until(lambda: kill_families([family["leader"]]) + kill_strays(others) == 0)
    assert not any(map(is_alive, family.values()))
    assert all(is_alive(neighbour[role]) for role in ROLES[:-1])


def test_killing_twice_is_as_good_as_once(start: Start) -> None:
    """Until it is reaped the number is still its own; zombies have ended."""
    family = start()
    until(lambda: kill_families([family["leader"]]) == 0)
    assert kill_families([family["leader"]]) == 0
    assert not is_alive(family["leader"])
    assert not is_alive(family["child"])
    assert not is_alive(family["orphan"])


def test_strays_are_killed_with_theirs_and_workers_are_not(start: Start) -> None:
    """A daemon of a worker that is still there is one too: it left."""
    family = start()
    until(lambda: family["daemon"] in children())
    mine = set(children()) - set(family.values())  # what other tests may have left is no worker of theirs
    kill_strays([family["leader"], *mine])
    until(lambda: not is_alive(family["daemon"]))
    assert all(is_alive(family[role]) for role in ROLES[:-1])


def test_a_worker_that_is_not_there_has_no_family() -> None:
    """Its number may have been reaped this moment."""
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    assert families([gone.pid]) == {gone.pid: {}}
    assert kill_families([gone.pid]) == 0


def test_descendants_are_found_from_their_ancestor_alone(start: Start) -> None:
    """Its children and theirs, in whatever session; not who was taken in by another."""
    family = start()
    assert set(descendants(family["leader"])) == {family[role] for role in ("child", "own_session", "grandchild")}
    assert descendants(family["child"]) == []


def test_children_are_this_process_own(start: Start) -> None:
    """Ended ones too, as long as nobody asked how."""
    child = subprocess.Popen(["/bin/true"])
    until(lambda: Path(f"/proc/{child.pid}/stat").read_text().split()[2] == "Z")
    assert child.pid in children()
    child.wait()
    assert child.pid not in children()
