"""A server that has a real tritonserver under it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server import RunningServer
from tests.triton.models import triton_environ


@pytest.fixture(scope="session")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a server needs to run Python models in tritonserver."""
    return triton_environ(tmp_path_factory.mktemp("tritonserver"))


@pytest.fixture(scope="module")
def house(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose Python models run in tritonserver."""
    folder = tmp_path_factory.mktemp("house")
    root = folder / "models"
    root.mkdir()
    with RunningServer(root, folder / "log", environ | {"WHARF_LOG_LEVEL": "debug"}) as server:
        yield server
