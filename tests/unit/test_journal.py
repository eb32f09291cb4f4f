"""What was loaded survives the server process, and nothing else stops for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.journal import Journal, make_journal_path


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    """By another life of the server."""
    urls = {"a": "/m/a", "ü b": "/m/ü b"}
    Journal(tmp_path / "j.json").write(urls)

    assert Journal(tmp_path / "j.json").read() == urls
    assert [each.name for each in tmp_path.iterdir()] == ["j.json"]


def test_what_was_evicted_is_told_apart(tmp_path: Path) -> None:
    """It is known, and not to be loaded at once."""
    Journal(tmp_path / "j.json").write({"a": "/m/a"}, {"b": "/m/b"})
    journal = Journal(tmp_path / "j.json")

    assert (journal.read(), journal.read_evicted()) == ({"a": "/m/a"}, {"b": "/m/b"})


def test_without_a_path_everything_is_forgotten() -> None:
    """Where nothing is writable, serving goes on."""
    journal = Journal(None)
    journal.write({"a": "/m/a"})

    assert journal.read() == {}


@pytest.mark.parametrize("content", ["", "{}"])
def test_an_empty_or_missing_journal_is_empty(tmp_path: Path, content: str) -> None:
    """The first start."""
    assert Journal(tmp_path / "missing").read() == {}
    (tmp_path / "j").write_text(content)
    assert Journal(tmp_path / "j").read() == {}


@pytest.mark.parametrize("content", [b"{", b"[1]", b"3", b"\xff\xfe", b'"text"'])
def test_a_damaged_journal_is_said_and_empty(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A restart never fails for it."""
    (tmp_path / "j").write_bytes(content)

    assert Journal(tmp_path / "j").read() == {}
    assert "event=journal_unreadable" in caplog.text


def test_a_journal_that_cannot_be_read_is_said_and_empty(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder in its place."""
    assert Journal(tmp_path).read() == {}
    assert "event=journal_unreadable" in caplog.text


def test_a_full_disk_is_said_and_keeps_the_journal_of_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """ENOSPC is raised to nobody; no half of a file is left to keep the disk full."""
    journal = Journal(tmp_path / "j.json")
    journal.write({"a": "/m/a"})
    (tmp_path / "j.part").symlink_to("/dev/full")
    journal.write({"b": "/m/b"})

    assert "event=journal_unwritable" in caplog.text
    assert "No space left" in caplog.text
    assert journal.read() == {"a": "/m/a"}
    assert [each.name for each in tmp_path.iterdir()] == ["j.json"]


def test_a_master_makes_an_empty_journal_in_the_cache(tmp_path: Path) -> None:
    """One for each life, readable by its owner alone."""
    first, second = make_journal_path(tmp_path / "new" / "cache"), make_journal_path(tmp_path / "new" / "cache")

    assert first is not None
    assert first != second
    assert first.parent == tmp_path / "new" / "cache"
    assert first.stat().st_mode & 0o777 == 0o600
    assert Journal(first).read() == {}


def test_without_a_writable_cache_the_journal_goes_elsewhere() -> None:
    """A read-only root file system."""
    path = make_journal_path(Path("/proc/nothing"))

    assert path is not None
    assert path.parent in (Path("/tmp"), Path("/dev/shm"))
    path.unlink()


def test_the_journal_is_plain_json(tmp_path: Path) -> None:
    """A person can read it."""
    Journal(tmp_path / "j").write({"a": "/m/a"})

    assert json.loads((tmp_path / "j").read_text()) == {"loaded": {"a": "/m/a"}, "evicted": {}}
