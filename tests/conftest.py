"""Options of the suite: the contract tests run against a child of ours, or by URL against any container."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server import RunningServer


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--url` and `--model-root` point the contract suite at a running server with fake models allowed."""
    parser.addoption("--url", help="a running server; without it the suite starts its own")
    parser.addoption("--model-root", help="the folder here that is mounted at /opt/ml/models there")
    parser.addoption("--server", choices=["triton", "wharf", "both"], default="both", help="whom tests/oracle asks")
    parser.addoption("--record", action="store_true", help="write down what tritonserver answers (tests/oracle)")


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All models of tests/saved_models.py; without TensorFlow the test is skipped."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("there is no TensorFlow for this machine")
    folder = tmp_path_factory.mktemp("saved_models")
    subprocess.run([sys.executable, "-m", "tests.saved_models", str(folder)], check=True, capture_output=True)
    return folder


StartServer = Callable[..., RunningServer]


@pytest.fixture(params=["granian", "gunicorn"])
def http_server(request: pytest.FixtureRequest) -> str:
    """Both HTTP servers."""
    return str(request.param)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers over `tmp_path/models`; what a test leaves running is stopped."""
    started: list[RunningServer] = []
    (tmp_path / "models").mkdir()

    def start(**env: str) -> RunningServer:
        wrap = env.pop("wrap", None)
        server = RunningServer(
            tmp_path / "models", tmp_path / f"server{len(started)}.log", env, wrap=wrap.split() if wrap else None
        )
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """Do what the server does at its start (`Server.start`): here it makes an unload 20 times cheaper."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
