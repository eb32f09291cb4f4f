"""A folder like somebody's clone after `make serve`, and a page's commands typed in it.

Tests of pages run their console sessions here: a command, its answer, and whether that is what the page prints.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

PRINTED_CLONE = "/home/you/wharf"
_DECIMAL = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


def make_clone(folder: Path) -> Path:
    """Lay out the commands, the templates and the small models below `folder`, and return it."""
    commands = folder / ".venv/bin"
    commands.mkdir(parents=True)
    for name, words in (("wharf", " -m serving.cli"), ("python", "")):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        (commands / name).chmod(0o755)
    (folder / "model_repo_templates").symlink_to(ROOT / "model_repo_templates")
    builder = ROOT / "model_repo_templates/build.py"
    subprocess.run([sys.executable, builder, "--out", folder / "models", "--set", "small"], check=True, timeout=120)
    return folder


def run(command: str, clone: Path, url: str) -> str:
    """Type a command in the clone, with `url` in place of the page's address; return what it prints."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("WHARF_")}
    env |= {"PYTHONPATH": str(ROOT), "WHARF_URL": url, "no_proxy": "127.0.0.1"}
    here = _ADDRESS.sub(url, command)
    done = subprocess.run(
        ["bash", "-c", here], cwd=clone, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout.replace(str(clone), PRINTED_CLONE) + done.stderr


def is_same(found: str, printed: str) -> bool:
    """Equal to the character, but for the last digits of decimals, which differ between processors."""
    if _DECIMAL.sub("#", found.strip()) != _DECIMAL.sub("#", printed.strip()):
        return False
    numbers = [[float(number) for number in _DECIMAL.findall(text)] for text in (found, printed)]
    return numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-7)
