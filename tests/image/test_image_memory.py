"""Many models in little memory, in both modes: no OOM kill, no wrong 507, no ghost, no failed request."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.image.conftest import Serve
from tests.image.containers import Container
from tests.image.fakes import MIB, Platform, ask, listed, write_fakes, zipf

pytestmark = [pytest.mark.image, pytest.mark.slow]


def limited(served: Serve, repository: Path, memory_mib: int, *options: str) -> Container:
    # No swap: the kernel must have no way out but the one under test.
    memory = ("--memory", f"{memory_mib}m", "--memory-swap", f"{memory_mib}m")
    volume = ("--volume", f"{repository}:/opt/ml/models:ro")
    return served("--env", "WHARF_FAKE_BACKEND=1", *memory, *volume, *options)


def as_platform(served: Serve, repository: Path, memory_mib: int, fewest_resident: int) -> tuple[Container, Platform]:
    container = limited(served, repository, memory_mib, "--env", "SAGEMAKER_MULTI_MODEL=true")
    return container, Platform(container.client, fewest_resident)


def assert_unharmed(container: Container) -> None:
    state = container.inspect()["State"]
    assert state["Running"], container.logs()
    assert not state["OOMKilled"]
    assert container.oom_kills() == 0
    peak_mib, resident = container.peak_bytes() / MIB, len(listed(container.client))
    logging.getLogger(__name__).info("peak %.0f MiB, %d models resident at the end", peak_mib, resident)


def test_the_platform_walks_through_more_models_than_fit_in_512_mib(served: Serve, repository: Path) -> None:
    """60 models of 20 MiB, loaded in turn and then again at random: 507 only when memory is really taken."""
    names = write_fakes(repository, 60, 20 * MIB, inner="model")
    container, platform = as_platform(served, repository, 512, fewest_resident=8)
    for name in [*names, *zipf(names, 200)]:
        platform.invoke(name)
    assert platform.refusals > 0
    assert listed(container.client) == set(platform.loaded)
    assert_unharmed(container)


def test_standalone_makes_room_by_itself_in_512_mib(served: Serve, repository: Path) -> None:
    """The same models asked for by four clients at once: the container evicts and every request is answered."""
    names = write_fakes(repository, 60, 20 * MIB)
    container = limited(served, repository, 512)
    with ThreadPoolExecutor(4) as clients:
        list(clients.map(lambda name: ask(container.client, name), [*names, *zipf(names, 200)]))
    assert 8 <= len(listed(container.client)) < 25
    assert_unharmed(container)


def test_zipf_churn_driven_as_the_platform_does(served: Serve, repository: Path) -> None:
    """200 tiny models in memory for some 50, 1,500 requests: what other servers died of or left ghosts after."""
    names = write_fakes(repository, 200, 8 * MIB, inner="model")
    container, platform = as_platform(served, repository, 640, fewest_resident=25)
    for number, name in enumerate(zipf(names, 1500)):
        platform.invoke(name)
        if number % 100 == 0:
            assert listed(container.client) == set(platform.loaded)
    assert listed(container.client) == set(platform.loaded)
    assert platform.refusals > 0
    assert_unharmed(container)


def test_zipf_churn_standalone(served: Serve, repository: Path) -> None:
    """The same churn from eight clients at once while the container alone decides what stays."""
    names = write_fakes(repository, 200, 8 * MIB)
    container = limited(served, repository, 640)
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda name: ask(container.client, name), zipf(names, 1500)))
    assert 25 <= len(listed(container.client)) < 80
    assert_unharmed(container)
