"""What people's Python may take of a container: memory, processes, packages; and that its neighbours go on."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.image.conftest import Serve
from tests.image.containers import Container, docker, wait_until
from tests.image.fakes import MIB, listed
from tests.image.people import OFFLINE, SMALL_ZYGOTE, app, exists, obeys, processes, tell, who
from tests.workers.packages import wheel

# pip asks an index five times, for eight seconds, before it believes that there is none.
INSTALLING = ("--env", "WHARF_INSTALL_REQUIREMENTS=1", "--env", "PIP_RETRIES=0")
# tini, master, server, zygote, two workers, and what looks.
MOST_PROCESSES = 8
# More than the worker's limit and its reserve for our own threads.
MANY_THREADS = """
import pathlib, signal, threading
threading.stack_size(65536)
for _ in range(500): threading.Thread(target=threading.Event().wait, daemon=True).start()
pathlib.Path("/tmp/started").touch()
signal.pause()
"""

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
    with ThreadPoolExecutor(2) as clients:
        replies = list(clients.map(lambda _: tell(container, body), range(20)))
    assert [reply.status_code for reply in replies] == [200] * 20, replies[0].text[:300]
    assert all(reply.content == body for reply in replies)
    assert container.exec("ls", "/dev/shm") == ""
    assert container.oom_kills() == 0


@pytest.mark.parametrize(("user", "command"), [("1000:1000", b"scatter"), ("0:0", b"misbehave")], ids=str)
def test_a_fork_bomb_ends_at_its_limit(served: Serve, repository: Path, user: str, command: bytes) -> None:
    """For root too, whom RLIMIT_NPROC does not bind; all of it is gone, and the neighbour answers throughout."""
    app(repository, "fork_bomb"), app(repository, "steady")
    # Room for the 3,000 that the bomb makes: where the container has none left, Granian ends at its next thread.
    limit = ("--env", "WHARF_WORKER_PROCESSES=64", "--pids-limit", "4000", "--user", user)
    container = limited(served, repository, 4096, *limit)
    assert tell(container, b"fine", "fork_bomb").status_code == 200
    container.client.post("/models/steady/invoke", json=[1]).raise_for_status()
    with a_neighbour_answers(container):
        reply = tell(container, command, "fork_bomb")
        assert (reply.status_code, "64 are allowed" in reply.text) == (503, True), reply.text
        wait_until(lambda: len(processes(container)) <= MOST_PROCESSES, "the end of the bomb", 20)
    wait_until(lambda: tell(container, b"fine", "fork_bomb").status_code == 200, "another worker", 20)


def test_another_containers_processes_are_not_counted_as_ours(served: Serve, repository: Path) -> None:
    """The kernel counts a user's processes over all containers of the machine, and ours see their own alone."""
    obeys(repository)
    other = served()
    docker("exec", "--detach", other.id, "/opt/wharf/bin/python", "-c", MANY_THREADS)
    wait_until(lambda: exists(other, "/tmp/started"), "the other container's threads")
    container = limited(served, repository, 300, "--env", "WHARF_WORKER_PROCESSES=8")
    assert tell(container, b"thread").text == "started"


def test_a_dozen_small_handlers_stay_resident_beside_torch_in_1_gib(served: Serve, repository: Path) -> None:
    """What they share with the zygote is counted once: each adds some 20 MiB of its own."""
    names = [obeys(repository, f"m{number:02d}").name for number in range(12)]
    memory = ("--memory", "1g", "--memory-swap", "1g", "--volume", f"{repository}:/opt/ml/models:ro")
    container = served(*memory)
    workers = {who(container, name)["pid"] for name in names}
    assert listed(container.client) == set(names)
    assert {who(container, name)["pid"] for name in names} == workers
    assert container.oom_kills() == 0


def test_requirements_are_installed_from_the_models_own_wheels(served: Serve, repository: Path) -> None:
    """pip is in the image and needs no index for what lies beside requirements.txt, and no place but /tmp."""
    code = obeys(repository) / "code"
    (code / "requirements.txt").write_text("brought==1.0\n")
    wheel(code / "requirements", "brought")
    container = limited(served, repository, 300, *INSTALLING, *OFFLINE, "--read-only", "--tmpfs", "/tmp")
    assert tell(container, b"version brought").text == "1.0"


def test_requirements_that_no_index_can_bring_are_an_error_that_says_so(served: Serve, repository: Path) -> None:
    """The load fails with pip's reason and the next step."""
    code = obeys(repository) / "code"
    (code / "requirements.txt").write_text("brought==1.0\n")
    reply = tell(limited(served, repository, 300, *INSTALLING, *OFFLINE), b"who")
    assert reply.status_code == 500, reply.text
    assert "No matching distribution found for brought==1.0" in reply.text
    assert "pack wheels into requirements/" in reply.text


def test_requirements_that_are_not_to_be_installed_are_warned_about(served: Serve, repository: Path) -> None:
    """The model runs with what the image has."""
    (obeys(repository) / "code" / "requirements.txt").write_text("brought==1.0\n")
    container = limited(served, repository, 300)
    who(container)
    assert "WHARF_INSTALL_REQUIREMENTS=1" in container.logs()
