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

HANDLERS = Path(__file__).parent / "handlers"
APPS = Path(__file__).parents[1] / "apps"
# torch's import alone takes seconds on a loaded machine; one test runs the image's own list.
SMALL_ZYGOTE = ("--env", "WHARF_PRELOAD=numpy")
# Where Docker puts no name server, an index cannot be asked: what is offline for pip is offline at once.
OFFLINE = ("--dns", "127.0.0.1")


def obeys(root: Path, name: str = "obeys") -> Path:
    """Write a model that does what it is told; return its folder."""
    return _write("obeys.py", root / name / "code" / "inference.py", root / name)


def djl(root: Path, name: str = "djl") -> Path:
    """Write a model in DJL's dialect."""
    return _write("djl_model.py", root / name / "model.py", root / name)


def triton(root: Path, name: str = "triton") -> Path:
    """Write a model in the dialect of Triton's Python backend."""
    return _write("triton_model.py", root / name / "1" / "model.py", root / name)


def app(root: Path, name: str) -> Path:
    """Copy one of the misbehaving models."""
    return Path(shutil.copytree(APPS / name, root / name, ignore=shutil.ignore_patterns("__pycache__")))


def _write(source: str, target: Path, folder: Path) -> Path:
    target.parent.mkdir(parents=True)
    shutil.copy(HANDLERS / source, target)
    return folder


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


@dataclass(frozen=True, slots=True)
class Process:
    """A line of `docker top`; the ids are the host's."""

    uid: int
    pid: int
    parent: int
    session: int
    title: str


def processes(container: Container) -> list[Process]:
    """Return all processes of a container, by number and in one look."""
    lines = docker("top", container.id, "-eo", "uid,pid,ppid,sid,args").splitlines()[1:]
    fields = (line.split(maxsplit=4) for line in lines)
    return [Process(*map(int, each[:4]), each[4] if len(each) > 4 else "") for each in fields]


def titled(container: Container, start: str) -> list[Process]:
    """Return the processes whose title starts so: `wharf zygote`, `wharf worker: NAME`."""
    return [each for each in processes(container) if each.title.startswith(start)]
