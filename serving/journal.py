"""What was loaded, on disk, so that a killed server process comes back with it.

The platform believes a model to be loaded until it unloads it; a server that restarts empty would answer 404. The
master makes one journal per life and deletes it at its end, so a restarted container starts empty, as the platform
expects. Only models that were loaded stand in it, and where evicted ones would be loaded from again: one whose load
killed the process is not tried again. Called by `manager`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

log = logging.getLogger("wharf.journal")


class Journal:
    """Names and urls of models in one small JSON file, loaded and evicted; without a path it forgets everything."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def read(self) -> dict[str, str]:
        """Return url by name of what was loaded; empty for a missing or damaged file (which is logged)."""
        return self._read("loaded")

    def read_evicted(self) -> dict[str, str]:
        """Return url by name of what was not loaded any more, and would have been when asked for."""
        return self._read("evicted")

    def _read(self, what: str) -> dict[str, str]:
        if self._path is None:
            return {}
        try:
            entries = json.loads(self._path.read_text() or "{}").get(what, {})
            return {str(name): str(url) for name, url in entries.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:
            log.warning("event=journal_unreadable error=%r", str(error))
            return {}

    def write(self, loaded: Mapping[str, str], evicted: Mapping[str, str] = MappingProxyType({})) -> None:
        """Replace the contents atomically; a failure is logged, never raised: serving goes on."""
        if self._path is None:
            return
        part = self._path.with_suffix(".part")
        try:
            part.write_text(json.dumps({"loaded": dict(loaded), "evicted": dict(evicted)}))
            part.replace(self._path)
        except OSError as error:
            log.warning("event=journal_unwritable error=%r", str(error))
            with contextlib.suppress(OSError):  # half of it would only keep a full disk full
                part.unlink()


def make_journal_path(cache_dir: Path) -> Path | None:
    """Create an empty journal for a new master and return its path; None where nothing is writable.

    Under a read-only root file system /dev/shm is still a tmpfs.
    """
    # Not tempfile.gettempdir(): it raises where nothing is writable.
    for folder in (cache_dir, Path("/tmp"), Path("/dev/shm")):  # noqa: S108  mkstemp is safe there
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(prefix="wharf-journal-", suffix=".json", dir=folder)
        except OSError:
            continue
        os.close(handle)
        return Path(name)
    log.warning("event=no_journal reason='no writable folder' hint='set WHARF_CACHE_DIR to one'")
    return None
