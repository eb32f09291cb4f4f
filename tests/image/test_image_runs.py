"""The image as people run it: started both ways, mounted, read-only, watched by Docker, and stopped."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.image.conftest import ROOT, Serve, run
from tests.image.containers import docker, send_only
from tests.image.fakes import MIB, ask, write_fakes

pytestmark = pytest.mark.image
FAKES = ("--env", "WHARF_FAKE_BACKEND=1")


def mount(repository: Path) -> tuple[str, str]:
    return "--volume", f"{repository}:/opt/ml/models:ro"


def test_the_image_is_built_as_the_contract_and_our_style_want_it(image: str) -> None:
    """Labels, user, port, entry point, environment and files are what structure.yaml says."""
    tool, config = Path(sys.executable).parent / "container-structure-test", ROOT / "tests/image/structure.yaml"
    command = [str(tool), "test", "--image", image, "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_health_check_is_in_exec_form(image: str) -> None:
    """Docker runs the check itself, without a shell that could be missing or wait."""
    check = docker("image", "inspect", "--format", "{{json .Config.Healthcheck.Test}}", image)
    assert check == '["CMD","/opt/wharf/bin/python","/usr/local/bin/healthcheck.py"]'


@pytest.mark.parametrize("command", [(), ("serve",)], ids=["no argument", "serve"])
def test_it_serves_with_and_without_the_argument_that_sagemaker_gives(served: Serve, command: tuple[str, ...]) -> None:
    """`docker run IMAGE` and `docker run IMAGE serve` are the same."""
    container = served(command=command)
    assert container.client.get("/models").json() == {"models": []}


def test_another_command_runs_as_it_is(image: str) -> None:
    """The image is a toolbox too: what is not `serve` is executed."""
    assert docker("run", "--rm", image, "echo", "serve", "twice") == "serve twice"


def test_a_failing_command_gives_its_own_exit_status(image: str) -> None:
    """Neither tini nor the entry point hides how a command ended."""
    with pytest.raises(RuntimeError, match="exit 7"):
        docker("run", "--rm", image, "sh", "-c", "exit 7")


def test_pid_1_is_tini_and_no_shell_stays_between_it_and_the_server(served: Serve) -> None:
    """A shell that does not exec is how other images lose SIGTERM."""
    container = served()
    children = container.exec("cat", "/proc/1/task/1/children").split()
    names = [container.exec("cat", f"/proc/{pid}/cmdline") for pid in children]
    assert container.exec("cat", "/proc/1/comm") == "tini"
    assert any("wharf" in name for name in names), names
    assert not any("entrypoint" in name for name in names), names


def test_a_mounted_repository_is_served(served: Serve, repository: Path) -> None:
    """`docker run -v models:/opt/ml/models -p 8080:8080` answers for the models in it, and writes nothing there."""
    write_fakes(repository, 2, MIB)
    before = sorted(repository.rglob("*"))
    container = served(*FAKES, "--volume", f"{repository}:/opt/ml/models")
    for name in ("m000", "m001"):
        ask(container.client, name)
    assert sorted(repository.rglob("*")) == before


@pytest.mark.parametrize("options", [(), ("--tmpfs", "/tmp")], ids=["nothing writable", "tmpfs at /tmp"])
def test_it_serves_on_a_read_only_root(served: Serve, repository: Path, options: tuple[str, ...]) -> None:
    """Folders need no writable place at all."""
    write_fakes(repository, 1, MIB)
    container = served(*FAKES, *mount(repository), "--read-only", *options)
    ask(container.client, "m000")


def test_it_runs_as_any_user_without_any_capability(served: Serve, repository: Path) -> None:
    """Hardened platforms choose the user id and drop every capability."""
    write_fakes(repository, 1, MIB)
    hardened = ("--user", "4321:4321", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
    ask(served(*FAKES, *mount(repository), *hardened).client, "m000")


def test_it_runs_as_root_where_the_platform_wants_that(served: Serve, repository: Path) -> None:
    """SageMaker's documentation expects root."""
    write_fakes(repository, 1, MIB)
    ask(served(*FAKES, *mount(repository), "--user", "0:0", command=("serve",)).client, "m000")


def test_the_image_without_torch_is_small_and_serves(base_image: str, served: Serve, flavour: str) -> None:
    """EXTRAS=onnx needs no torch wheel; torch's files are not in the image and the server does not miss them."""
    if flavour != "cpu":
        pytest.skip("one flavour has torch")
    run("make", f"build/{flavour}", f"BASE_IMAGE={base_image}", "IMAGE=wharf-test-onnx", "EXTRAS=onnx")
    small = f"wharf-test-onnx:{flavour}"
    assert int(docker("image", "inspect", "--format", "{{.Size}}", small)) < 500e6
    container = served(image=small)
    assert container.exec("/opt/wharf/bin/pip", "list", "--format=freeze").count("torch==") == 0


def test_docker_sees_it_become_healthy(served: Serve) -> None:
    """HEALTHCHECK asks /ping."""
    served().wait_healthy()


def test_server_and_health_check_use_the_port_that_sagemaker_gives(served: Serve) -> None:
    """SAGEMAKER_BIND_TO_PORT moves both."""
    served("--env", "SAGEMAKER_BIND_TO_PORT=9090", inner_port=9090).wait_healthy()


def test_docker_stop_ends_it_well_within_its_grace(served: Serve) -> None:
    """Exit status 0, and not by SIGKILL after Docker's ten seconds."""
    container, began = served(), time.monotonic()
    docker("stop", container.id)
    took_s = time.monotonic() - began
    assert (container.inspect()["State"]["ExitCode"], took_s < 10) == (0, True), f"{took_s:.1f} s\n{container.logs()}"


def test_a_request_in_flight_is_answered_before_the_end(served: Serve, repository: Path) -> None:
    """SIGTERM drains: who is being served gets the answer, and then the exit status is 0."""
    write_fakes(repository, 1, MIB, delay_ms=2000)
    container = served(*FAKES, *mount(repository))
    ask(container.client, "m000")
    connection = send_only(container.port, "/models/m000/invoke", b'{"instances": [[1.0, 2.0]]}')
    assert container.client.get("/ping").status_code == 200
    docker("kill", "--signal", "TERM", container.id)
    with connection:
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert container.exit_code() == 0, container.logs()
