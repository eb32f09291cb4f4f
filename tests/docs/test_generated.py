"""Generated pages equal their source, and the script that makes them says so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from serving.lifecycle import TRANSITIONS
from serving.settings import Settings
from tests.docs.pages import ROOT


def _docs(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "scripts/docs.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what the script reads and writes."""
    for folder in ("serving", "scripts", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_generated_pages_equal_their_source() -> None:
    """Whoever changes a setting or the lifecycle runs scripts/docs.py."""
    done = _docs(ROOT, "--check")

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", ["settings.md", "lifecycle.md"])
def test_a_page_that_differs_fails_the_check_and_is_left_alone(copy: Path, page: str) -> None:
    """`--check` writes nothing."""
    (copy / "docs" / page).write_text("stale")
    done = _docs(copy, "--check")

    assert done.returncode == 1
    assert f"docs/{page}" in done.stdout
    assert (copy / "docs" / page).read_text() == "stale"


def test_without_check_stale_and_missing_pages_are_written(copy: Path) -> None:
    """One run, and the check is content."""
    (copy / "docs/settings.md").unlink()
    (copy / "docs/lifecycle.md").write_text("stale")

    assert _docs(copy).returncode == 0
    assert _docs(copy, "--check").returncode == 0


def test_a_sentence_that_changed_changes_the_page(copy: Path) -> None:
    """The page is read from the source, not from a second list."""
    source = copy / "serving/settings.py"
    source.write_text(source.read_text().replace("Least level of log lines.", "How much is logged."))
    _docs(copy)

    assert "How much is logged." in (copy / "docs/settings.md").read_text()


def test_every_setting_has_a_row_with_all_its_names() -> None:
    """A setting that is not documented does not exist for anybody."""
    rows = [line for line in (ROOT / "docs/settings.md").read_text().splitlines() if line.startswith("| `")]

    assert len(rows) == len(fields(Settings))
    for each, row in zip(fields(Settings), rows, strict=True):
        assert all(f"`{name}`" in row for name, _ in each.metadata["sources"])
        assert not row.endswith("|  |")


def test_every_legal_move_is_in_the_diagram() -> None:
    """The picture is the table."""
    page = (ROOT / "docs/lifecycle.md").read_text()

    assert all(f"{old.value} --> {new.value}: {event.value}" in page for (old, event), new in TRANSITIONS.items())
