"""The image for large models: groups of two ranks over gloo in a container as people start one, 64 MB of /dev/shm.

What the ranks answer is held to the whole model in this process.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.image.containers import Container, serve, wait_until
from tests.image.people import titled
from tests.workers.causal_folders import save_causal
from tests.workers.seed_handler import seed_handler

pytestmark = pytest.mark.image
TEXT = "hello world"
GREEDY = {"do_sample": False, "min_new_tokens": 20, "max_new_tokens": 25}
INSIDE = "/opt/ml/models"
RANKS = ("--env", "TENSOR_PARALLEL_DEGREE=2")


@pytest.fixture(scope="module", autouse=True)
def _flavour(flavour: str) -> None:
    """Skip before anything is built, not after."""
    if flavour != "djl":
        pytest.skip("the image for large models alone")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-J as it is, once more to be split by DeepSpeed, and behind the seed's handler."""
    root = tmp_path_factory.mktemp("models")
    save_causal(root, "gptj").joinpath("wharf.toml").write_text("tensor_parallel_degree = 2\n")
    by_deepspeed = save_causal(root / "by", "gptj").rename(root / "autotp")
    by_deepspeed.joinpath("wharf.toml").write_text('tensor_parallel_degree = 2\noptions = { split = "deepspeed" }\n')
    (root / "by").rmdir()
    (root / "seed").mkdir()
    (root / "seed/serving.properties").write_text("engine=Rubikon\n")
    (root / "seed/model.py").write_text(seed_handler(f"{INSIDE}/gptj"))
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return root


@pytest.fixture(scope="module")
def whole(models: Path) -> Any:
    """What the whole model says, in one process."""
    import transformers

    return transformers.pipeline("text-generation", model=str(models / "gptj"))(TEXT, **GREEDY)


@pytest.fixture(scope="module")
def container(image: str, models: Path) -> Iterator[Container]:
    made = serve(image, "--volume", f"{models}:{INSIDE}:ro", *RANKS)
    yield made
    made.remove()


def ask(container: Container, name: str) -> httpx.Response:
    asked: dict[str, Any] = {"content": TEXT, "headers": {"Content-Type": "text/plain"}}
    if name != "seed":
        asked = {"json": {"inputs": TEXT, "parameters": GREEDY}}
    return container.client.post(f"/models/{name}/invoke", timeout=120, **asked)


def generate(container: Container, name: str) -> Any:
    reply = ask(container, name)
    assert reply.status_code == 200, reply.text + container.logs()
    return reply.json()


@pytest.mark.parametrize("name", ["gptj", "autotp", "seed"])
def test_two_ranks_answer_as_the_whole_model(container: Container, whole: Any, name: str) -> None:
    """By our plan, by DeepSpeed, and in the seed's own handler with DeepSpeed."""
    assert generate(container, name) == whole
    assert [each.uid for each in titled(container, f"wharf worker: {name} ")] == [1000, 1000]


def signal_rank(container: Container, name: str, rank: int, what: str) -> None:
    """Send a signal to one rank, by a process of its own user inside."""
    files = f"grep -l '^wharf worker: {name} #[0-9]* rank {rank}' /proc/[0-9]*/cmdline"
    container.exec("sh", "-c", f"kill -{what} $({files} | cut -d/ -f3)")


def test_a_killed_rank_is_answered_at_once_and_the_group_comes_back(container: Container, whole: Any) -> None:
    """kill -9 from inside, while the other rank waits for it: 503 for who asked, and then the same answer."""
    assert generate(container, "autotp") == whole
    before = {each.pid for each in titled(container, "wharf worker: autotp ")}
    signal_rank(container, "autotp", 1, "STOP")
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(ask, container, "autotp")
        in_flight = 'ModelInFlight{model="autotp"} 1.0'
        wait_until(lambda: in_flight in container.client.get("/metrics").text, "the request")
        began = time.monotonic()
        signal_rank(container, "autotp", 1, "KILL")
        reply = asked.result(60)
    assert time.monotonic() - began < 2  # of which docker's exec is the most
    assert reply.status_code == 503
    assert "(rank 1) lost its worker, which was killed by signal 9" in reply.text
    wait_until(lambda: ask(container, "autotp").status_code == 200, "the next group")
    assert generate(container, "autotp") == whole
    after = {each.pid for each in titled(container, "wharf worker: autotp ")}
    assert len(after) == 2
    assert not before & after
    assert container.client.get("/ping").status_code == 200


def test_there_is_no_compiler_and_nothing_is_left_in_shared_memory(container: Container) -> None:
    """Neither is wanted: DeepSpeed's own operation is prebuilt, and off."""
    for name in ("autotp", "seed"):
        generate(container, name)
    assert container.exec("sh", "-c", "command -v cc gcc g++ clang nvcc || true") == ""
    assert "deepspeed" not in container.exec("ls", "/dev/shm")
    assert container.exec("id", "-u") == "1000"


@pytest.fixture
def shared(image: str, models: Path, request: pytest.FixtureRequest) -> Iterator[Container]:
    """With DeepSpeed's shared-memory operation switched on, and so much of /dev/shm."""
    switch = ("--env", "DS_BUILD_SHM_COMM=1", "--shm-size", request.param)
    made = serve(image, "--volume", f"{models}:{INSIDE}:ro", *RANKS, *switch)
    yield made
    made.remove()


@pytest.mark.parametrize("shared", ["256m"], indirect=True)
def test_the_prebuilt_operation_is_used_where_it_is_switched_on(shared: Container, whole: Any) -> None:
    """Without a compiler; its buffers go with the group."""
    assert generate(shared, "seed") == whole
    assert shared.exec("ls", "/dev/shm").count("deepspeed_allreduce_buffer") == 2
    assert shared.client.delete("/models/seed").status_code == 200
    assert "deepspeed" not in shared.exec("ls", "/dev/shm")


@pytest.mark.parametrize("shared", ["64m"], indirect=True)
def test_too_little_shared_memory_is_said_and_not_died_of(shared: Container) -> None:
    """Docker's default has no room for two buffers: writing them would be a bus error."""
    reply = ask(shared, "seed")
    assert reply.status_code == 500
    assert "wants 132 MiB of /dev/shm for a group of 2 ranks and 6" in reply.text
    assert "--shm-size" in reply.text
    assert "event=dev_shm_is_small" in shared.logs()
    assert "larger --shm-size" in shared.exec("wharf", "env")
