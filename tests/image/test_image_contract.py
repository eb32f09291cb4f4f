"""The contract suite, by URL, against a running container of the image."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.image.conftest import ROOT, Serve

pytestmark = [pytest.mark.image, pytest.mark.slow]


@pytest.mark.parametrize("is_platform", [False, True], ids=["standalone", "platform"])
def test_the_contract_suite_passes_against_the_container(served: Serve, repository: Path, is_platform: bool) -> None:
    """What holds for the server in process holds for the image; the suite writes its models into the mounted folder."""
    root = ("--volume", f"{repository}:/opt/ml/models:ro")
    mode = ("--env", f"SAGEMAKER_MULTI_MODEL={str(is_platform).lower()}")
    # The budget that the suite's large models are made for, as where it starts its own servers.
    fakes = ("--env", "WHARF_FAKE_BACKEND=1", "--env", "WHARF_MEMORY_BUDGET=512MiB")
    container = served(*fakes, *root, *mode)
    suite = [sys.executable, "-m", "pytest", "-q", "tests/contract", "--url", container.url]
    done = subprocess.run(
        [*suite, "--model-root", str(repository)], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + container.logs()
