"""People's Python in the image: as any user, with nothing writable, and stopped, killed and replaced in a container."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.image.conftest import ROOT, Serve
from tests.image.containers import docker, wait_until
from tests.image.people import SMALL_ZYGOTE, djl, obeys, processes, tell, titled, triton, who

pytestmark = [pytest.mark.image, pytest.mark.slow]
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


def mount(repository: Path) -> tuple[str, str]:
    return "--volume", f"{repository}:/opt/ml/models:ro"


def test_the_image_has_every_file_of_the_package(image: str) -> None:
    """The folders that go on a worker's path are no packages of ours, which a packaging tool may pass over."""
    code = "import serving, pathlib as p; r = p.Path(serving.__file__).parent; print(*(f.relative_to(r) for f in r.rglob('*.py')))"
    inside = set(docker("run", "--rm", image, "python", "-c", code).split())
    here = {str(path.relative_to(ROOT / "serving")) for path in (ROOT / "serving").rglob("*.py")}
    assert {"workers/compat/djl_python/__init__.py", "workers/dialects/sagemaker.py"} <= here
    assert here == inside


@pytest.mark.parametrize("user", ["1000:1000", "0:0", "4321:4321"], ids=["the image's", "root", "nobody's"])
def test_a_handler_answers_where_only_tmp_can_be_written(served: Serve, repository: Path, user: str) -> None:
    """Whoever the platform makes us, the worker is that user too and works in the model's own folder."""
    obeys(repository)
    limits = ("--memory", "300m", "--memory-swap", "300m", "--pids-limit", "512")
    container = served("--user", user, *HARDENED, *limits, *SMALL_ZYGOTE, *mount(repository))
    found = who(container)
    assert (found["uid"], found["cwd"]) == (int(user.split(":")[0]), "/opt/ml/models/obeys")
    assert tell(container, b"cache").text.startswith("/tmp/")


def test_each_dialect_answers_and_nothing_is_written_into_the_repository(served: Serve, repository: Path) -> None:
    """With the image's own settings, torch in the zygote; a folder that could be written stays as it was."""
    models = obeys(repository), djl(repository), triton(repository)
    for path in (repository, *repository.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    before = sorted(repository.rglob("*"))
    container = served("--volume", f"{repository}:/opt/ml/models")
    assert who(container)["cwd"] == f"/opt/ml/models/{models[0].name}"
    assert container.client.post("/models/djl/invoke", json=[1]).json() == {"djl": [1]}
    tensors = {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}
    reply = container.client.post("/models/triton/invoke", json=tensors)
    assert reply.status_code == 200, reply.text
    assert "2.0,4.0" in reply.text.replace(" ", "")
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


@pytest.mark.parametrize("command", [b"who", b"orphan", b"hang /tmp/hanging"], ids=lambda each: each.split()[0].decode())
def test_docker_stop_ends_workers_too(served: Serve, repository: Path, command: bytes) -> None:
    """Exit status 0 within Docker's ten seconds, with a worker that is idle, that left a process, or that hangs."""
    obeys(repository)
    container = served("--env", "WHARF_SHUTDOWN_TIMEOUT=2", *SMALL_ZYGOTE, *mount(repository))
    is_hanging = command.startswith(b"hang")
    with ThreadPoolExecutor(1) as client:
        who(container)
        asked = client.submit(tell, container, command)
        if is_hanging:
            wait_until(lambda: exists(container.id, "/tmp/hanging"), "the hanging request")
        else:
            asked.result()
        docker("stop", "--time", "10", container.id)
        assert not is_hanging or asked.exception() or asked.result().status_code == 503
    assert container.inspect()["State"]["ExitCode"] == 0, container.logs()


def exists(container: str, path: str) -> bool:
    return docker("exec", container, "sh", "-c", f"test -e {path} && echo yes || echo no") == "yes"


def test_docker_stop_does_not_wait_for_a_zygote_that_is_still_importing(
    served: Serve, repository: Path, tmp_path: Path
) -> None:
    """torch's import can take longer than Docker's ten seconds on a loaded machine."""
    obeys(repository)
    (tmp_path / "slow.py").write_text("import pathlib, signal\npathlib.Path('/tmp/importing').touch()\nsignal.pause()\n")
    slow = ("--env", "WHARF_PRELOAD=slow", "--env", "PYTHONPATH=/slow", "--volume", f"{tmp_path / 'slow.py'}:/slow/slow.py")
    container = served("--env", "WHARF_SHUTDOWN_TIMEOUT=1", *slow, *mount(repository))
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(tell, container, b"who")
        wait_until(lambda: exists(container.id, "/tmp/importing"), "the import")
        docker("stop", "--time", "10", container.id)
        assert asked.exception() or asked.result().status_code == 503
    assert container.inspect()["State"]["ExitCode"] != 137, container.logs()


def test_a_worker_killed_from_inside_is_replaced(served: Serve, repository: Path) -> None:
    """Its request gets 503 and the next ones a new worker, which may take a moment."""
    obeys(repository)
    container = served(*SMALL_ZYGOTE, *mount(repository))
    first = who(container)["pid"]
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(tell, container, b"hang /tmp/hanging")
        wait_until(lambda: exists(container.id, "/tmp/hanging"), "the hanging request")
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
