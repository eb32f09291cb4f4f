"""What the README shows is what happens: its console sessions are run against servers of the small sample models."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import README, ROOT, Session, sessions
from tests.server import RunningServer

PRINTED_CLONE = "/home/you/wharf"
_DECIMAL = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a clone after `make serve`: the command, the templates, the small models."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / ".venv/bin").mkdir(parents=True)
    wharf = folder / ".venv/bin/wharf"
    wharf.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m serving.cli "$@"\n')
    wharf.chmod(0o755)
    (folder / "model_repo_templates").symlink_to(ROOT / "model_repo_templates")
    builder = ROOT / "model_repo_templates/build.py"
    subprocess.run([sys.executable, builder, "--out", folder / "models", "--set", "small"], check=True, timeout=120)
    return folder


def _run(command: str, clone: Path, url: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("WHARF_")}
    env |= {"PYTHONPATH": str(ROOT), "WHARF_URL": url, "no_proxy": "127.0.0.1"}
    here = _ADDRESS.sub(url, command)
    done = subprocess.run(
        ["bash", "-c", here], cwd=clone, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.replace(str(clone), PRINTED_CLONE) + done.stderr


def _is_same(found: str, printed: str) -> bool:
    """Equal to the character, but for the last digits of decimals, which differ between processors."""
    if _DECIMAL.sub("#", found.strip()) != _DECIMAL.sub("#", printed.strip()):
        return False
    numbers = [[float(number) for number in _DECIMAL.findall(text)] for text in (found, printed)]
    return numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("session", sessions(README), ids=["first steps", "eviction"])
def test_the_console_sessions_print_what_the_readme_says(session: Session, clone: Path, tmp_path: Path) -> None:
    """Every command, in order, against one server a session, with the variables of its `make serve` line."""
    env = {name: value for name, value in session.variables.items() if name != "PORT"}
    with RunningServer(clone / "models", tmp_path / "server.log", env) as server:
        for command, printed in session.steps:
            found = _run(command, clone, server.url)
            assert _is_same(found, printed), f"$ {command}\nprinted: {printed}\nfound: {found}"


def test_the_eviction_that_the_readme_explains_is_of_iris(clone: Path, tmp_path: Path) -> None:
    """Iris goes, and only iris: the figures of the budget still fit the models."""
    session = sessions(README)[-1]
    env = {"WHARF_MEMORY_BUDGET": session.variables["WHARF_MEMORY_BUDGET"]}
    with RunningServer(clone / "models", tmp_path / "server.log", env) as server:
        for command, _ in session.steps:
            _run(command, clone, server.url)
        assert re.findall(r"event=evicted model=(\S+)", server.log()) == ["iris_onnx"]


@pytest.mark.parametrize(
    ("found", "is_same"),
    [("[0.98028]", True), ("[0.99]", False), ("[0.98028, 1]", False), ("{0.98028}", False)],
)
def test_only_the_last_digits_of_decimals_may_differ(found: str, is_same: bool) -> None:
    """A comparison that lets more pass would prove nothing."""
    assert _is_same(found, "[0.98028725]") is is_same
