"""A server over a copy of tests/apps, and which of its processes are left.

Tests of misbehaving models use it: `House` asks and manages the models over HTTP and finds workers in /proc by their
titles and sessions, as an operator would.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.server import RunningServer
from tests.waiting import until

APPS = Path(__file__).parents[1] / "apps"
BODY = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class Process:
    """A process as /proc tells of it."""

    pid: int
    parent: int
    session: int
    state: str
    title: str


def copy_apps(root: Path) -> None:
    """Put the models of tests/apps into an empty repository."""
    shutil.copytree(APPS, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "README.md"))


def processes() -> list[Process]:
    """Return every process that is no zombie."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                title = (folder / "cmdline").read_text().rstrip("\0")
            except (OSError, UnicodeDecodeError):  # it ended meanwhile
                continue
            if fields[0] != "Z":
                found.append(Process(int(folder.name), int(fields[1]), int(fields[3]), fields[0], title))
    return found


class House:
    """A running server and its models."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.client = httpx.Client(base_url=server.url, timeout=60)

    def ask(self, name: str, body: bytes = b"behave") -> httpx.Response:
        """Invoke a model."""
        return self.client.post(f"/models/{name}/invoke", content=body, headers=BODY)

    def misbehave(self, name: str) -> httpx.Response:
        """Invoke a model so that it does what it is here for; /ping must stay 200."""
        answer = self.ask(name, b"misbehave")
        assert self.client.get("/ping").status_code == 200
        return answer

    def load(self, name: str) -> httpx.Response:
        """POST /models."""
        return self.client.post("/models", json={"model_name": name, "url": str(self.server.root / name)})

    def unload(self, name: str) -> None:
        """DELETE it if it is loaded; nothing of it may be left then."""
        family = self.sessions(name)
        assert self.client.delete(f"/models/{name}").status_code in (200, 404)
        assert in_sessions(family) == self.workers(name) == []

    def serves_again(self, name: str) -> None:
        """Wait until a model answers as a good one."""
        until(lambda: self.ask(name).text == "fine")

    def workers(self, name: str) -> list[Process]:
        """Return the workers of a model."""
        return [each for each in self.all() if each.title.startswith(f"wharf worker: {name} #")]

    def zygote(self) -> Process:
        """Return the zygote."""
        (found,) = (each for each in self.all() if each.title == "wharf zygote")
        return found

    def sessions(self, name: str) -> set[int]:
        """Return the sessions that a model's workers and whatever they started are in."""
        return {each.session for each in self.workers(name)}

    def all(self) -> list[Process]:
        """Return the processes below this server: other servers may run on this machine."""
        everyone = processes()
        mine, size = {self.server.server_pid()}, 0
        while len(mine) > size:
            size = len(mine)
            mine |= {each.pid for each in everyone if each.parent in mine}
        return [each for each in everyone if each.pid in mine]


def in_sessions(sessions: set[int]) -> list[Process]:
    """Return the processes that belong to these sessions."""
    return [each for each in processes() if each.session in sessions]
