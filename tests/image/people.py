"""Models of people's Python in a repository to mount, and the processes that they become in a container.

Knows where each dialect wants its file and how our processes are titled. The tests of workers in images call it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.image.containers import Container, docker

TESTS = Path(__file__).parents[1]
# torch's import alone takes seconds on a loaded machine; one test runs the image's own list.
SMALL_ZYGOTE = ("--env", "WHARF_PRELOAD=numpy")
# Where Docker puts no name server, an index cannot be asked: what is offline for pip is offline at once.
OFFLINE = ("--dns", "127.0.0.1")


def obeys(root: Path, name: str = "obeys") -> Path:
    """Write a model that does what it is told; return its folder."""
    code = root / name / "code"
    code.mkdir(parents=True)
    shutil.copy(TESTS / "image" / "handlers" / "obeys.py", code / "inference.py")
    return root / name


def app(root: Path, name: str) -> Path:
    """Copy one of the misbehaving models."""
    return _copied(TESTS / "apps" / name, root)


def template(root: Path, name: str) -> Path:
    """Copy one of the templates that people start from."""
    return _copied(TESTS.parent / "model_repo_templates" / "handlers" / name, root)


def _copied(source: Path, root: Path) -> Path:
    return Path(shutil.copytree(source, root / source.name, ignore=shutil.ignore_patterns("__pycache__")))


def tell(container: Container, command: bytes, name: str = "obeys", timeout_s: float = 60) -> httpx.Response:
    """Have a model of `obeys` do something."""
    headers = {"Content-Type": "application/octet-stream"}
    return container.client.post(f"/models/{name}/invoke", content=command, headers=headers, timeout=timeout_s)


def who(container: Container, name: str = "obeys") -> dict[str, Any]:
    """Return user id, process id (inside) and working directory of a model's worker."""
    reply = tell(container, b"who", name)
    assert reply.status_code == 200, f"{reply.status_code} {reply.text}"
    found: dict[str, Any] = reply.json()
    return found


def exists(container: Container, path: str) -> bool:
    """Return whether there is such a file inside: how people's code tells that it has come so far."""
    return container.exec("sh", "-c", f"test -e {path} && echo yes || echo no") == "yes"


@dataclass(frozen=True, slots=True)
class Process:
    """A line of `docker top`; the ids are the host's."""

    uid: int
    pid: int
    parent: int
    session: int
    title: str


def processes(container: Container) -> list[Process]:
    """Return all processes of a container, in one look."""
    found = []
    for line in docker("top", container.id, "-eo", "uid,pid,ppid,sid,args").splitlines()[1:]:
        uid, pid, parent, session, *title = line.split(maxsplit=4)
        found.append(Process(int(uid), int(pid), int(parent), int(session), "".join(title)))
    return found


def titled(container: Container, start: str) -> list[Process]:
    """Return the processes whose title starts so: `wharf zygote`, `wharf worker: NAME`."""
    return [each for each in processes(container) if each.title.startswith(start)]
