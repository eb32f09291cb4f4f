"""Run a container of an image, detached, with a hard deadline, and talk to it.

Knows the docker command line (by DOCKER_HOST) and nothing of what is inside an image but its port. The fixtures of
conftest.py make and remove containers through it; the tests ask it about state, memory and answers.
"""

import json
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

# A crashed process may leave a container that never ends; nothing here needs longer (churn in a busy machine: 60 s).
DEADLINE_S = 240.0
EMULATED_DEADLINE_S = 900.0
START_LIMIT_S = 60.0


def docker(*args: str, timeout_s: float = 60.0) -> str:
    """Run one docker command and return what it printed; its error text is in the exception's notes."""
    done = subprocess.run(["docker", *args], capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(args)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def wait_until(holds: Callable[[], bool], what: str, limit_s: float = START_LIMIT_S) -> None:
    """Ask again every 50 ms until `holds()`; raises AssertionError naming `what` after `limit_s`."""
    pause = threading.Event()
    for _ in range(int(limit_s / 0.05)):
        if holds():
            return
        pause.wait(0.05)
    raise AssertionError(f"{what}: not within {limit_s:g} s")


@dataclass(slots=True)
class Container:
    """A running container; `url` answers on the host's loopback."""

    id: str
    inner_port: int = 8080
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60, trust_env=False))
    _deadline: threading.Timer | None = None

    @property
    def port(self) -> int:
        """Return the host's port that is published to the container's."""
        return int(docker("port", self.id, f"{self.inner_port}/tcp").splitlines()[0].rsplit(":", 1)[1])

    @property
    def url(self) -> str:
        """Return the address of the server inside."""
        return str(self.client.base_url).rstrip("/")

    def inspect(self) -> dict[str, Any]:
        """Return what `docker inspect` says of this container."""
        found: list[dict[str, Any]] = json.loads(docker("inspect", self.id))
        return found[0]

    def is_serving(self) -> bool:
        """Return whether /ping answers 200; raises AssertionError with the log when the container has ended."""
        with suppress(httpx.TransportError):
            return self.client.get("/ping").status_code == 200
        assert self.inspect()["State"]["Running"], self.logs()
        return False

    def wait_healthy(self) -> None:
        """Wait for Docker's own health check to say healthy."""
        wait_until(lambda: self.inspect()["State"]["Health"]["Status"] == "healthy", "the health check")

    def logs(self) -> str:
        """Return everything that the container wrote."""
        done = subprocess.run(["docker", "logs", self.id], capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    def exec(self, *command: str, timeout_s: float = 60.0) -> str:
        """Run a command inside and return what it printed."""
        return docker("exec", self.id, *command, timeout_s=timeout_s)

    def exit_code(self, limit_s: float = 40.0) -> int:
        """Wait for the end and return the exit status."""
        return int(docker("wait", self.id, timeout_s=limit_s))

    def oom_kills(self) -> int:
        """Return how often the kernel killed a process of this container for memory (cgroup v1 or v2)."""
        read = "cat /sys/fs/cgroup/memory.events 2>/dev/null || cat /sys/fs/cgroup/memory/memory.oom_control"
        counters = dict(line.split() for line in self.exec("sh", "-c", read).splitlines())
        return int(counters["oom_kill"])

    def peak_bytes(self) -> int:
        """Return the most memory that this container's cgroup ever held, page cache included."""
        read = "cat /sys/fs/cgroup/memory.peak 2>/dev/null || cat /sys/fs/cgroup/memory/memory.max_usage_in_bytes"
        return int(self.exec("sh", "-c", read))

    def remove(self) -> None:
        """End and delete it, whatever it is doing."""
        if self._deadline:
            self._deadline.cancel()
        self.client.close()
        docker("rm", "--force", "--volumes", self.id)


def start(
    image: str, *options: str, command: tuple[str, ...] = (), inner_port: int = 8080, deadline_s: float = DEADLINE_S
) -> Container:
    """Run `image` detached with `docker run` options, publish its port on loopback, and arm its deadline."""
    published = f"127.0.0.1::{inner_port}"
    container = Container(docker("run", "--detach", "--publish", published, *options, image, *command), inner_port)
    container._deadline = threading.Timer(deadline_s, docker, ("kill", container.id))
    container._deadline.daemon = True
    container._deadline.start()
    return container


def serve(
    image: str, *options: str, command: tuple[str, ...] = (), inner_port: int = 8080, deadline_s: float = DEADLINE_S
) -> Container:
    """Start a container as `start` does and return it once /ping answers 200, in a quarter of its time."""
    container = start(image, *options, command=command, inner_port=inner_port, deadline_s=deadline_s)
    container.client.base_url = httpx.URL(f"http://127.0.0.1:{container.port}")
    try:
        wait_until(container.is_serving, f"a serving container of {image}", deadline_s / 4)
    except AssertionError:
        container.remove()
        raise
    return container


def send_only(port: int, path: str, body: bytes) -> socket.socket:
    """Send a whole POST and return the open connection without waiting for the answer."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(head.encode() + body)
    return connection
