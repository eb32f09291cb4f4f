"""People's Python in the image: as any user, with nothing writable, and stopped, killed and replaced in a container."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.image.conftest import ROOT, Serve
from tests.image.containers import docker, wait_until
from tests.image.people import SMALL_ZYGOTE, exists, obeys, processes, tell, template, titled, who

pytestmark = [pytest.mark.image, pytest.mark.slow]
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")

NUMBERS = {"datatype": "FP32", "shape": [1, 4], "data": [[4, 3, 2, 1]]}
# For each dialect a request, and what its answer holds.
REQUESTS: dict[str, tuple[object, str]] = {
    "djl_model_py": ({"inputs": "I love it"}, "POSITIVE"),
    "tensorflow_handler": ({"instances": [[2.0]]}, '{"predictions":[[3.0]]}'),
    "triton_python": ({"inputs": [{"name": "INPUT0"} | NUMBERS, {"name": "INPUT1"} | NUMBERS]}, "8.0,6.0,4.0,2.0"),
}


def mount(repository: Path) -> tuple[str, str]:
    return "--volume", f"{repository}:/opt/ml/models:ro"


def test_the_image_has_every_file_of_the_package(image: str) -> None:
    """The folders that go on a worker's path are no packages of ours, which a packaging tool may pass over."""
    look = "cd /opt/wharf/lib/python3*/site-packages/serving && find . -name '*.py' -printf '%P\\n'"
    inside = set(docker("run", "--rm", image, "sh", "-c", look).split())
    here = {str(path.relative_to(ROOT / "serving")) for path in (ROOT / "serving").rglob("*.py")}
    assert {"workers/compat/djl_python/__init__.py", "workers/dialects/sagemaker.py"} <= here
    assert here == inside


@pytest.mark.parametrize("user", [1000, 0, 4321], ids=["the image's", "root", "nobody's"])
def test_a_handler_answers_where_only_tmp_can_be_written(served: Serve, repository: Path, user: int) -> None:
    """Whoever the platform makes us, the worker is that user too and works in the model's own folder."""
    obeys(repository)
    limits = ("--memory", "300m", "--memory-swap", "300m", "--pids-limit", "512")
    container = served("--user", f"{user}:{user}", *HARDENED, *limits, *SMALL_ZYGOTE, *mount(repository))
    found = who(container)
    assert (found["uid"], found["cwd"]) == (user, "/opt/ml/models/obeys")
    assert tell(container, b"cache").text.startswith("/tmp/")


def test_each_dialect_answers_and_nothing_is_written_into_the_repository(served: Serve, repository: Path) -> None:
    """With the image's own settings, torch in the zygote; a folder that could be written stays as it was."""
    for name in REQUESTS:
        template(repository, name)
    for path in (repository, *repository.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    before = sorted(repository.rglob("*"))
    container = served("--volume", f"{repository}:/opt/ml/models")
    for name, (request, answer) in REQUESTS.items():
        reply = container.client.post(f"/models/{name}/invoke", json=request)
        assert reply.status_code == 200, f"{name}: {reply.text}"
        assert answer in reply.text.replace(" ", ""), name
    assert sorted(repository.rglob("*")) == before


def test_workers_are_the_zygotes_children_in_sessions_of_their_own(served: Serve, repository: Path) -> None:
    """`docker top` shows whose process is whose, under the image's user."""
    obeys(repository, "one"), obeys(repository, "two")
    container = served(*SMALL_ZYGOTE, *mount(repository))
    who(container, "one"), who(container, "two")
    (zygote,), workers = titled(container, "wharf zygote"), titled(container, "wharf worker:")
    assert sorted(each.title for each in workers) == ["wharf worker: one #0", "wharf worker: two #0"]
    assert {each.parent for each in workers} == {zygote.pid}
    assert all(each.session == each.pid for each in workers)
    assert {each.uid for each in processes(container)} == {1000}


def test_an_unload_ends_the_worker_and_what_it_left_behind(served: Serve, repository: Path) -> None:
    """A process that left its worker's session and hears no SIGTERM is no orphan of the container."""
    obeys(repository)
    container = served(*SMALL_ZYGOTE, *mount(repository))
    before = len(processes(container))
    assert tell(container, b"orphan").text.isdigit()
    assert len(processes(container)) == before + 3
    assert container.client.delete("/models/obeys").status_code == 200
    wait_until(lambda: len(processes(container)) == before + 1, "the end of all but the zygote", 5)


@pytest.mark.parametrize(
    ("server", "command"), [("granian", b"who"), ("granian", b"orphan"), ("gunicorn", b"orphan")], ids=str
)
def test_docker_stop_ends_workers_too(served: Serve, repository: Path, server: str, command: bytes) -> None:
    """Exit status 0 well within Docker's ten seconds, with a worker that is idle or has left a process behind."""
    obeys(repository)
    container = served("--env", f"WHARF_HTTP_SERVER={server}", *SMALL_ZYGOTE, *mount(repository))
    assert tell(container, command).status_code == 200
    began = time.monotonic()
    docker("stop", container.id)
    assert container.inspect()["State"]["ExitCode"] == 0, container.logs()
    assert time.monotonic() - began < 6
    assert "event=stopped clean=True" in container.logs()


def test_docker_stop_does_not_wait_for_a_handler_that_hangs(served: Serve, repository: Path) -> None:
    """The drain has its limit; the status is true (1, something was cut off) and not SIGKILL's 137."""
    obeys(repository)
    container = served("--env", "WHARF_SHUTDOWN_TIMEOUT=1", *SMALL_ZYGOTE, *mount(repository))
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(tell, container, b"hang /tmp/hanging")
        wait_until(lambda: exists(container, "/tmp/hanging"), "the hanging request")
        docker("stop", container.id)
        assert asked.exception() or asked.result().status_code == 503
    assert container.inspect()["State"]["ExitCode"] == 1, container.logs()


def test_docker_stop_does_not_wait_for_a_zygote_that_is_still_importing(
    served: Serve, repository: Path, tmp_path: Path
) -> None:
    """torch's import can take longer than Docker's ten seconds on a loaded machine."""
    obeys(repository)
    (tmp_path / "slow.py").write_text(
        "import pathlib, signal\npathlib.Path('/tmp/importing').touch()\nsignal.pause()\n"
    )
    slow = (
        "--env",
        "WHARF_PRELOAD=slow",
        "--env",
        "PYTHONPATH=/slow",
        "--volume",
        f"{tmp_path / 'slow.py'}:/slow/slow.py",
    )
    container = served("--env", "WHARF_SHUTDOWN_TIMEOUT=1", *slow, *mount(repository))
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(tell, container, b"who")
        wait_until(lambda: exists(container, "/tmp/importing"), "the import")
        docker("stop", container.id)
        assert asked.exception() or asked.result().status_code == 503
    assert container.inspect()["State"]["ExitCode"] != 137, container.logs()


def test_a_worker_killed_from_inside_is_replaced(served: Serve, repository: Path) -> None:
    """Its request gets 503 and the next ones a new worker, which may take a moment."""
    obeys(repository)
    container = served(*SMALL_ZYGOTE, *mount(repository))
    first = who(container)["pid"]
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(tell, container, b"hang /tmp/hanging")
        wait_until(lambda: exists(container, "/tmp/hanging"), "the hanging request")
        container.exec("sh", "-c", f"kill -9 {first}")
        reply = asked.result(10)
    assert reply.status_code == 503, reply.text
    assert re.search("killed by signal 9", reply.text)
    wait_until(lambda: tell(container, b"who").status_code == 200, "another worker", 10)
    assert who(container)["pid"] != first


def test_a_zygote_killed_from_inside_is_replaced_too(served: Serve, repository: Path) -> None:
    """Its workers go with it; the container and the model come back by themselves."""
    obeys(repository)
    container = served(*SMALL_ZYGOTE, *mount(repository))
    first = who(container)["pid"]
    zygote = container.exec("sh", "-c", "grep -l '^wharf zygote' /proc/[0-9]*/cmdline | cut -d/ -f3")
    container.exec("sh", "-c", f"kill -9 {zygote}")
    wait_until(lambda: tell(container, b"who").status_code == 200, "another zygote", 20)
    assert who(container)["pid"] != first
    assert container.client.get("/ping").status_code == 200
