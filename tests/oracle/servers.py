"""The two servers that the suite asks: the real tritonserver and ours, each over a copy of the same repository.

Knows how each is started and reached, and which models have to be loaded first. Does not know what is asked. The
fixtures of conftest call it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.oracle.tritonserver import RunningTriton
from tests.server import RunningServer

REPOSITORY = Path(__file__).parent / "repository"
# They must not load: tests of their own ask them to.
UNLOADED = {"broken_config", "fails_to_start", "misnamed", "reloaded", "spare"}
_GRPC = re.compile(r"event=grpc_listening\b.* address=(\S+)")


@dataclass(frozen=True)
class Target:
    """One running server. `name` is triton or wharf; `url` and `grpc` are where it listens."""

    name: str
    url: str
    grpc: str
    root: Path
    stop: Callable[[], object]

    @property
    def http(self) -> str:
        """Return the address as tritonclient wants it."""
        return self.url.removeprefix("http://")


def start(name: str, folder: Path) -> Target:
    """Start a server in `folder` and load the models of the repository."""
    root = folder / "models"
    shutil.copytree(REPOSITORY, root, ignore=shutil.ignore_patterns("__pycache__"))
    target = _triton(root, folder) if name == "triton" else _wharf(root, folder)
    names = sorted({path.name for path in root.iterdir()} - UNLOADED)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda name: _load(target, name), names))
    print("loaded:", dict(zip(names, answers, strict=True)))
    return target


def _load(target: Target, name: str) -> int:
    return httpx.post(f"{target.url}/v2/repository/models/{name}/load", timeout=60).status_code


def _triton(root: Path, folder: Path) -> Target:
    server = RunningTriton(root, folder)
    return Target("triton", server.url, server.grpc_address, root, server.stop)


def _wharf(root: Path, folder: Path) -> Target:
    server = RunningServer(
        root, folder / "wharf.log", {"WHARF_GRPC_PORT": "0", "WHARF_SHARED_MEMORY": "true", "WHARF_LOAD_FILES": "true"}
    )
    found = _GRPC.search(server.log())
    return Target("wharf", server.url, found[1] if found else "127.0.0.1:1", root, server.stop)
