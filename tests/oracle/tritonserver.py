"""A real tritonserver 2.51.0 (24.10) in a process of its own, on free ports of loopback.

Knows where `make test-oracle` puts it (.oracle/venv: the wheel nvidia-pytriton has the server and a backend) and
how it starts without a container: one folder of backends with the stub of this Python beside the backend, the wheel's
libraries and libpython on the loader's path, and the environment's interpreter first on PATH, so that models find its
numpy (1.26; the stub crashes with 2). Does not know any test. The suite and benchmarks/v2.py start it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import threading
from pathlib import Path
from types import TracebackType

import httpx

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".oracle/venv"


def site_packages() -> Path:
    """Return the folder that holds the wheel's content, or say what makes it."""
    found = list(VENV.glob("lib/python*/site-packages/pytriton/tritonserver"))
    assert found, f"there is no tritonserver below {VENV}: `make test-oracle` installs it"
    return found[0].parents[1]


def environment() -> dict[str, str]:
    """Return what the server needs to find its libraries, and its models their interpreter and numpy."""
    libraries = [str(site_packages() / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR") or ""]
    path = f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "VIRTUAL_ENV": str(VENV), "LD_LIBRARY_PATH": os.pathsep.join(libraries)}


def command(repository: Path, backends: Path, http_port: int | str, grpc_port: int, *more: str) -> list[str]:
    """Return the command line of a server over `repository`; what it needs of backends is put into `backends`."""
    wheel = site_packages() / "pytriton/tritonserver"
    copy_backends(backends)
    (wheel / "bin/tritonserver").chmod(0o755)
    return [
        str(wheel / "bin/tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--model-control-mode=explicit",
        "--http-address=127.0.0.1",
        f"--http-port={http_port}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc_port}",
        "--allow-metrics=false",
        "--exit-timeout-secs=5",
        *more,
    ]


def copy_backends(folder: Path) -> None:
    """Make a folder of backends: Python's, with the stub of this Python beside it."""
    wheel = site_packages() / "pytriton/tritonserver"
    python = site_packages().parent.name.removeprefix("python")
    shutil.copytree(wheel / "backends/python", folder / "python")
    stub = folder / "python/triton_python_backend_stub"
    shutil.copy(wheel / "python_backend_stubs" / python / stub.name, stub)
    stub.chmod(0o755)


def free_port() -> int:
    """Return a port of loopback that nobody has now: the server takes none by itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RunningTriton:
    """A tritonserver over `repository` as a child; its files and its log in `folder`."""

    def __init__(self, repository: Path, folder: Path, *more: str) -> None:
        self.root = repository
        self.log_path = folder / "tritonserver.log"
        http, grpc = free_port(), free_port()
        self.url, self.grpc_address = f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}"
        self._log = self.log_path.open("w")
        self.process = subprocess.Popen(
            command(repository, folder / "backends", http, grpc, *more),
            env=environment(),
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._wait_until_live()

    def stop(self, timeout_s: float = 20) -> None:
        """Send SIGTERM and wait; kill what does not end."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()

    def __enter__(self) -> RunningTriton:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _wait_until_live(self) -> None:
        pause = threading.Event()
        for _ in range(600):
            assert self.process.poll() is None, f"tritonserver ended:\n{self.log_path.read_text()}"
            try:
                if httpx.get(f"{self.url}/v2/health/live").status_code == 200:
                    return
            except httpx.TransportError:
                pause.wait(0.05)
        raise AssertionError(f"tritonserver did not start:\n{self.log_path.read_text()}")
