"""The server under test: granian, gunicorn, or one that runs elsewhere (`--url`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.models import make_fake
from tests.server import RunningServer


@dataclass
class Target:
    """A server, by its address alone: `root` is its model root here, `root_inside` as the server sees it."""

    url: str
    root: Path
    root_inside: str
    is_platform: bool
    client: httpx.Client
    server: RunningServer | None = None
    _count: Iterator[int] = field(default_factory=itertools.count)

    def make(self, **config: object) -> str:
        """Write a fake model of a new name into the repository; return the name."""
        name = f"m{next(self._count):04d}{abs(hash(self.url)) % 10**6:06d}"
        make_fake(self.root, name, **config)
        return name

    def url_of(self, name: str) -> str:
        """Return the url to load a model of the repository from."""
        return f"{self.root_inside}/{name}"

    def load(self, name: str, url: str | None = None) -> httpx.Response:
        """POST /models."""
        return self.client.post("/models", json={"model_name": name, "url": url or self.url_of(name)})

    def invoke(self, name: str, value: float = 1.0, **headers: str) -> httpx.Response:
        """POST /models/{name}/invoke with one number."""
        return self.client.post(f"/models/{name}/invoke", json={"instances": [[value]]}, headers=headers)

    def names(self) -> list[str]:
        """Return all loaded names, over all pages."""
        names: list[str] = []
        token = ""
        while True:
            page = self.client.get("/models", params={"next_page_token": token}).json()
            names += [each["modelName"] for each in page["models"]]
            token = page.get("nextPageToken", "")
            if not token:
                return names


def _modes(config: pytest.Config) -> list[str]:
    return (
        ["elsewhere"] if config.getoption("--url") else ["granian-platform", "granian-standalone", "gunicorn-platform"]
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test of this folder against every server."""
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", _modes(metafunc.config), indirect=True, scope="session")


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One server for a whole run; every test makes models of its own names."""
    if request.param == "elsewhere":
        url, root = request.config.getoption("--url"), Path(request.config.getoption("--model-root"))
        with httpx.Client(base_url=url, timeout=60) as client:
            is_platform = "not loaded: load it with" in client.post("/models/none/invoke", content=b"{}").text
            yield Target(url, root, "/opt/ml/models", is_platform, client)
        return
    http_server, mode = request.param.split("-")
    folder = tmp_path_factory.mktemp(request.param)
    root = folder / "models"
    root.mkdir()
    env = {"WHARF_HTTP_SERVER": http_server, "WHARF_MEMORY_BUDGET": "512MiB", "WHARF_LOG_LEVEL": "info"}
    if mode == "platform":
        env["SAGEMAKER_MULTI_MODEL"] = "true"
    with RunningServer(root, folder / "server.log", env) as server:
        yield Target(server.url, root, str(root), mode == "platform", server.client, server)
        assert server.stop() == 0
        assert "Traceback" not in server.log()
