"""What people's Python may take of a container: memory, shared memory, processes, packages, and what a neighbour sees."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.image.conftest import Serve
from tests.image.containers import Container, docker, wait_until
from tests.image.fakes import MIB
from tests.image.people import OFFLINE, SMALL_ZYGOTE, app, obeys, processes, tell, titled, who
from tests.workers.packages import wheel

pytestmark = [pytest.mark.image, pytest.mark.slow]


def limited(served: Serve, repository: Path, memory_mib: int, *options: str) -> Container:
    # No swap: the kernel must have no way out but the one under test.
    memory = ("--memory", f"{memory_mib}m", "--memory-swap", f"{memory_mib}m")
    return served(*memory, *SMALL_ZYGOTE, "--volume", f"{repository}:/opt/ml/models:ro", *options)


@contextmanager
def a_neighbour_answers(container: Container, name: str = "steady") -> Iterator[None]:
    """Ask a model all the while: every answer is right, and there are some."""
    over, answers = threading.Event(), 0

    def ask() -> int:
        count = 0
        while not over.is_set():
            reply = container.client.post(f"/models/{name}/invoke", json=[count])
            assert reply.status_code == 200, f"{reply.status_code} {reply.text}"
            assert reply.json() == [2 * count]
            count += 1
        return count

    with ThreadPoolExecutor(1) as client:
        asking = client.submit(ask)
        try:
            yield
        finally:
            over.set()
        answers = asking.result(60)
    assert answers > 0


def test_a_model_past_the_containers_limit_is_killed_alone(served: Serve, repository: Path) -> None:
    """The kernel kills its worker and says so in its counter: 507. Neighbour and container live, and it comes back."""
    obeys(repository), app(repository, "steady")
    container = limited(served, repository, 300)
    who(container)
    with a_neighbour_answers(container):
        reply = tell(container, b"hold %d" % (400 * MIB))
        assert reply.status_code == 507, reply.text
        assert "killed it for memory" in reply.text
        wait_until(lambda: tell(container, b"who").status_code == 200, "another worker", 10)
    assert container.oom_kills() == 1
    assert container.inspect()["State"]["Running"]


def test_the_kernel_takes_a_worker_before_the_zygote_and_the_server(served: Serve, repository: Path) -> None:
    """Whichever is largest, a worker costs one model and the others cost them all."""
    obeys(repository)
    container = limited(served, repository, 300)
    score = f"cat /proc/{who(container)['pid']}/oom_score_adj /proc/1/oom_score_adj"
    worker, first = container.exec("sh", "-c", score).split()
    assert int(worker) > int(first)


def test_a_model_that_python_refuses_memory_answers_507_and_goes_on(served: Serve, repository: Path) -> None:
    """Its own MemoryError is no kill: the same worker answers the next request."""
    obeys(repository)
    container = limited(served, repository, 300)
    before = who(container)["pid"]
    reply = tell(container, b"hold %d" % (1 << 60))
    assert (reply.status_code, "MemoryError" in reply.text) == (507, True), reply.text
    assert who(container)["pid"] == before
    assert container.oom_kills() == 0


def test_large_bodies_need_neither_dev_shm_nor_much_memory(served: Serve, repository: Path) -> None:
    """6 MiB there and back, twenty times, in 200 MB with a /dev/shm that has room for nothing."""
    obeys(repository)
    container = limited(served, repository, 200, "--shm-size", "4096")
    body = b"x" * (6 * MIB)
    with ThreadPoolExecutor(4) as clients:
        replies = list(clients.map(lambda _: tell(container, body), range(20)))
    assert [reply.status_code for reply in replies] == [200] * 20, replies[0].text[:300]
    assert all(reply.content == body for reply in replies)
    assert container.exec("ls", "/dev/shm") == ""
    assert container.oom_kills() == 0


@pytest.mark.parametrize("user", ["1000:1000", "0:0"], ids=["the image's user", "root"])
@pytest.mark.parametrize("command", [b"misbehave", b"scatter"], ids=bytes.decode)
def test_a_fork_bomb_ends_at_its_limit(served: Serve, repository: Path, user: str, command: bytes) -> None:
    """For root too, whom RLIMIT_NPROC does not bind; all of it is gone, and the neighbour answers throughout."""
    app(repository, "fork_bomb"), app(repository, "steady")
    limit = ("--env", "WHARF_WORKER_PROCESSES=64", "--pids-limit", "4000", "--user", user)
    container = limited(served, repository, 600, *limit)
    assert tell(container, b"fine", "fork_bomb").status_code == 200
    container.client.post("/models/steady/invoke", json=[1]).raise_for_status()
    before = len(processes(container))
    with a_neighbour_answers(container):
        reply = tell(container, command, "fork_bomb", timeout_s=30)
        assert reply.status_code in (424, 503), reply.text
        wait_until(lambda: len(processes(container)) <= before, "the end of the bomb", 20)
    wait_until(lambda: tell(container, b"fine", "fork_bomb").status_code == 200, "another worker", 20)
