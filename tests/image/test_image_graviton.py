"""The image with TensorFlow: x86-64's as it is, arm64's under user-mode emulation as three CPUs.

What an emulated CPU computes is what a real one computes, to the bit pattern of its rounding; how fast says nothing.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.image.conftest import ROOT, Serve, run
from tests.image.containers import EMULATED_DEADLINE_S, Container, docker, serve

pytestmark = pytest.mark.image
log = logging.getLogger(__name__)

# ONNX Runtime's CPU detection crashes in QEMU when it finds the host's description of its CPUs in sysfs; without it, it
# asks the capability bits. No machine that is what it says it is needs this. An emulated Python every five seconds for
# the health check would be half of the load.
EMULATED = ("--platform", "linux/arm64", "--tmpfs", "/sys/devices/system/cpu", "--no-healthcheck")
CONTRACT = "not pages and not storms and not fifty"  # which take a minute and a half there


@dataclass(frozen=True, slots=True)
class Cpu:
    """A CPU by what QEMU is told; at 512 bits, which no Graviton has, oneDNN prefers kernels of its own."""

    like: str
    model: str
    vector_bits: int
    has_bf16: bool


CPUS = (
    Cpu("graviton2", "neoverse-n1", 0, False),
    Cpu("graviton3", "max,sve-default-vector-length=32", 256, True),
    Cpu("graviton4", "max,sve-default-vector-length=16", 128, True),
)


@pytest.fixture(scope="module", autouse=True)
def _flavour(flavour: str) -> None:
    """Skip before anything is built, not after."""
    if flavour != "graviton":
        pytest.skip("the image with TensorFlow alone")


@pytest.fixture(scope="module")
def arm_image(engine: str, base_image: str) -> Iterator[str]:
    """The image for arm64, built from this working tree; what registers QEMU is taken away after the tests."""
    ran = run("scripts/emulation", "status", "arm64").endswith(" runs")
    run("scripts/emulation", "up", "arm64")
    dockerfile = (ROOT / "docker/graviton/Dockerfile").read_text()
    wanted = next(line for line in dockerfile.splitlines() if line.startswith("ARG BASE_IMAGE=")).partition("=")[2]
    arm_base = run("scripts/standin-base", wanted, "arm64")
    bases = (f"BASE_IMAGE={arm_base}", f"BUILD_IMAGE={base_image}")
    run("make", "build/graviton", *bases, "PLATFORM=linux/arm64", "IMAGE=wharf-test-arm64")
    yield "wharf-test-arm64:graviton"
    if not ran:
        run("scripts/emulation", "down", "arm64")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one SavedModel, its images and its answers in fp32, readable for the container's user."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, "-m", "tests.image.network", str(folder)], cwd=ROOT, timeout=120, check=True)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.fixture(scope="module", params=CPUS, ids=lambda cpu: cpu.like)
def cpu(request: pytest.FixtureRequest) -> Cpu:
    found: Cpu = request.param
    return found


@pytest.fixture(scope="module")
def emulated(arm_image: str, models: Path, cpu: Cpu) -> Iterator[Container]:
    """A serving container on one of the CPUs; oneDNN tells what it runs."""
    here = ("--volume", f"{models}:/opt/ml/models:ro", "--volume", f"{ROOT / 'benchmarks'}:/benchmarks:ro")
    told = ("--env", f"QEMU_CPU={cpu.model}", "--env", "ONEDNN_VERBOSE=1", "--env", "WHARF_REQUEST_TIMEOUT=300")
    container = serve(arm_image, *EMULATED, *here, *told, deadline_s=EMULATED_DEADLINE_S)
    yield container
    container.remove()


def load(container: Container, name: str = "network") -> None:
    reply = container.client.post(
        "/models", json={"model_name": name, "url": f"/opt/ml/models/{name}"}, timeout=EMULATED_DEADLINE_S
    )
    assert reply.status_code == 200, reply.text + container.logs()


def answers(container: Container, images: Any) -> Any:
    """Return what the SavedModel says of images."""
    reply = container.client.post("/models/network/invoke", json={"instances": images.tolist()}, timeout=300)
    assert reply.status_code == 200, reply.text + container.logs()
    return np.array(reply.json()["predictions"])


def difference(container: Container, models: Path) -> float:
    """Return how far the answers are from fp32's, relative to the largest."""
    exact = np.load(models / "logits.npy")
    return float(np.abs(answers(container, np.load(models / "images.npy")) - exact).max() / np.abs(exact).max())


def test_a_saved_model_is_served_with_arms_kernels_and_bf16_where_the_cpu_has_it(
    emulated: Container, models: Path, cpu: Cpu
) -> None:
    """Loaded, answered, unloaded; oneDNN names Arm's Compute Library; bf16 moves the numbers, or nothing does."""
    load(emulated)
    apart = difference(emulated, models)
    log.info("%s: %.1e from fp32", cpu.like, apart)

    assert (1e-4 < apart < 1e-2) if cpu.has_bf16 else apart < 1e-5
    lines = [line for line in emulated.logs().splitlines() if "exec,cpu," in line]
    kinds = {kind for kind in ("convolution", "inner_product", "matmul") for line in lines if f"{kind}," in line}
    assert {"convolution", "inner_product"} <= kinds
    assert all("acl" in line for line in lines if "convolution," in line or "inner_product," in line), lines
    assert any("wei:bf16" in line for line in lines) == cpu.has_bf16
    assert emulated.client.delete("/models/network").status_code == 200
    assert emulated.client.get("/models").json() == {"models": []}


def test_env_says_what_the_cpu_has_what_is_set_and_what_is_used(emulated: Container, cpu: Cpu) -> None:
    """By the CPU's own bits: the host's /proc/cpuinfo, which shows through, may have an x86 bf16."""
    found = json.loads(emulated.exec("wharf", "env", "--json", timeout_s=400))
    libraries = {each["name"]: each for each in found["libraries"]}
    variables = {each["name"]: each["value"] for each in found["variables"]}
    log.info("%s: %s", cpu.like, json.dumps(found))

    assert found["processor"]["architecture"] == "aarch64"
    assert ("bf16" in found["processor"]["features"]) == cpu.has_bf16
    assert found["processor"]["vector_bits"] == cpu.vector_bits
    assert variables["TF_ENABLE_ONEDNN_OPTS"] == "1"
    assert variables["DNNL_DEFAULT_FPMATH_MODE"] == ("BF16" if cpu.has_bf16 else None)
    used = libraries["tensorflow"]
    assert used["precision"] == ("bf16" if cpu.has_bf16 else "fp32")
    assert {kernel["operation"] for kernel in used["kernels"]} >= {"convolution", "inner_product"}
    assert all("acl" in kernel["implementation"] for kernel in used["kernels"])
    assert all(kernel["is_bf16"] == cpu.has_bf16 for kernel in used["kernels"])
    # When this fails, a newer ONNX Runtime is right: docs/graviton.md tells what 1.31.1's bf16 does.
    assert libraries["onnxruntime"]["precision"] == ("wrong" if cpu.has_bf16 else "fp32")
    assert found["onnx_options"] == {"mlas.enable_gemm_fastmath_arm64_bfloat16": False}
    assert [warning.split(" in bf16")[0] for warning in found["warnings"]] == (
        ["onnxruntime 1.31.1 computes wrong products"] if cpu.has_bf16 else []
    )


def test_the_server_leaves_onnx_runtimes_option_off_where_its_products_are_wrong(emulated: Container, cpu: Cpu) -> None:
    """Asked as a first load asks."""
    code = "import serving.backends.onnx as o; o.OnnxBackend('cpu', 1).prepare(); print(o.is_bf16_right())"

    assert emulated.exec("/opt/wharf/bin/python", "-c", code, timeout_s=200) == str(not cpu.has_bf16)


def test_the_accuracy_gate_passes_where_bf16_is_used(emulated: Container, cpu: Cpu) -> None:
    """The best class of random images stays the same."""
    if cpu.like != "graviton3":
        pytest.skip("two servers' starts are saved: graviton4 has the same arithmetic, graviton2 no bf16")
    gate = ("/opt/wharf/bin/python", "/benchmarks/accuracy.py", "/opt/ml/models", "network")
    printed = emulated.exec(*gate, "--least-agreement", "0.9", timeout_s=800)
    log.info("%s: %s", cpu.like, printed)

    assert "top-1 agreement" in printed
    assert "bf16 was not used" not in printed


def test_the_quick_part_of_the_contract_suite_passes_on_arm64(arm_image: str, repository: Path) -> None:
    """Against the running container, as SageMaker starts it."""
    options = (*EMULATED, "--volume", f"{repository}:/opt/ml/models:ro", "--env", f"QEMU_CPU={CPUS[1].model}")
    mode = ("WHARF_FAKE_BACKEND=1", "WHARF_MEMORY_BUDGET=512MiB", "SAGEMAKER_MULTI_MODEL=true")
    env = tuple(part for each in mode for part in ("--env", each))
    container = serve(arm_image, *options, *env, command=("serve",), deadline_s=EMULATED_DEADLINE_S)
    try:
        suite = [sys.executable, "-m", "pytest", "-q", "tests/contract", "--url", container.url, "-k", CONTRACT]
        done = subprocess.run(
            [*suite, "--model-root", str(repository)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + container.logs()
        assert docker("image", "inspect", "--format", "{{.Architecture}}", arm_image) == "arm64"
    finally:
        container.remove()


def test_the_same_dockerfile_serves_the_saved_model_on_x86(served: Serve, models: Path) -> None:
    """In fp32: whatever this host's CPU has, nobody asked for bf16."""
    container = served("--volume", f"{models}:/opt/ml/models:ro")
    load(container)

    assert difference(container, models) < 1e-5
    found = json.loads(container.exec("wharf", "env", "--json"))
    assert (found["processor"]["architecture"], found["warnings"]) == (os.uname().machine, [])
    assert all(each["precision"] == "fp32" for each in found["libraries"])
