"""Fixtures of the image tests: an engine (scripts/engine), an image built by make, containers, always removed."""

import logging
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.image.containers import Container, serve

ROOT = Path(__file__).parents[2]
Serve = Callable[..., Container]
# A line for each of thousands of requests would bury the figures that these tests log.
logging.getLogger("httpx").setLevel(logging.WARNING)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--flavour", default="cpu", help="the image to test: a folder of docker/ with a Dockerfile")


def run(*command: str, limit_s: float = 900) -> str:
    """Run a command of this repository, its progress on our stderr; return what it printed."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=limit_s, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="session")
def flavour(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("--flavour", default="cpu"))


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """The DOCKER_HOST of an engine; a private one that was started for these tests is stopped after them."""
    was_running = "running" in run("scripts/engine", "status")
    host, before = run("scripts/engine", "up"), os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = host
    yield host
    if before is None:
        del os.environ["DOCKER_HOST"]
    else:
        os.environ["DOCKER_HOST"] = before
    if not was_running:
        run("scripts/engine", "down")


@pytest.fixture(scope="session")
def base_image(engine: str, flavour: str) -> str:
    dockerfile = (ROOT / "docker" / flavour / "Dockerfile").read_text()
    wanted = next(line for line in dockerfile.splitlines() if line.startswith("ARG BASE_IMAGE=")).partition("=")[2]
    return run("scripts/standin-base", wanted)


@pytest.fixture(scope="session")
def image(base_image: str, flavour: str) -> str:
    """The name of the image of the flavour under test, built from this working tree."""
    native = {"aarch64": "arm64"}.get(platform.machine(), "amd64")  # graviton's default is arm64
    build = ("BUILD_IMAGE=" + base_image, f"PLATFORM=linux/{native}") if flavour == "graviton" else ()
    run("make", f"build/{flavour}", f"BASE_IMAGE={base_image}", "IMAGE=wharf-test", *build)
    return f"wharf-test:{flavour}"


@pytest.fixture
def served(image: str) -> Iterator[Serve]:
    """Call it with `docker run` options for a serving container of the image; all are removed after the test."""
    containers: list[Container] = []

    def factory(*options: str, image: str = image, command: tuple[str, ...] = (), inner_port: int = 8080) -> Container:
        containers.append(serve(image, *options, command=command, inner_port=inner_port))
        return containers[-1]

    yield factory
    for container in containers:
        container.remove()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty model repository to mount; the container's user may read it."""
    root = tmp_path / "models"
    root.mkdir(mode=0o755)
    return root
