"""One suite, two servers: what each test observes is held to what the real tritonserver answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.oracle import recording, servers
from tests.oracle.clients import FLAVOURS
from tests.oracle.deviations import DEVIATIONS
from tests.oracle.servers import Target

Same = Callable[[Any], None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask the servers that --server names."""
    if "server_name" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--server")
        names = ["triton", "wharf"] if chosen == "both" else [chosen]
        metafunc.parametrize("server_name", names, scope="session")


@pytest.fixture(scope="session")
def target(server_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A running server with the models of the repository."""
    running = servers.start(server_name, tmp_path_factory.mktemp(server_name))
    yield running
    running.stop()


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    """Each of tritonclient's clients."""
    return str(request.param)


@pytest.fixture(params=["http", "http.aio"])
def http_flavour(request: pytest.FixtureRequest) -> str:
    """Those that speak HTTP."""
    return str(request.param)


@pytest.fixture
def same(request: pytest.FixtureRequest, target: Target) -> Same:
    """Hold an observation to the recording, or record it."""
    test = request.node.nodeid

    def hold(observed: Any) -> None:
        found = recording.plain(observed, target.root)
        if request.config.getoption("--record"):
            assert target.name == "triton", "only what the real tritonserver answers is recorded: --server triton"
            recording.write(test, target.name, found)
            return
        wanted = recording.read(test, target.name)
        excuses = DEVIATIONS if target.name == "wharf" else {}
        key = recording.key_of(test, target.name)
        told = [
            sentence
            for path, sentence in recording.differences(wanted, found)
            if not recording.is_excused(key, path, excuses)
        ]
        assert not told, "\n".join([f"{len(told)} differences from tritonserver:", *told])

    return hold
