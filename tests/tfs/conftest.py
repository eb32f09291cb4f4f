"""SavedModels written once, and a server over them, an ONNX file and a TorchScript file: one under each HTTP server."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server import RunningServer
from tests.tfs.saved_models import make_saved_models
from tests.v2.conftest import make_onnx


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of SavedModels."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("no tensorflow is installed")
    folder = tmp_path_factory.mktemp("saved_models")
    make_saved_models(folder)
    return folder


@pytest.fixture(scope="module", params=["granian", "gunicorn"])
def server(
    request: pytest.FixtureRequest, saved_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server in standalone mode."""
    pytest.importorskip("onnx")
    root = tmp_path_factory.mktemp(f"tfs-{request.param}")
    shutil.copytree(saved_models, root / "models")
    make_onnx(root / "models/relu", "Relu", 1, ["n", 2])
    with RunningServer(root / "models", root / "log", {"WHARF_HTTP_SERVER": request.param}) as running:
        yield running
        assert running.stop() == 0
        assert "internal_error" not in running.log()


@pytest.fixture
def client(server: RunningServer) -> httpx.Client:
    """A client of the server."""
    return server.client
