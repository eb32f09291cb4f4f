"""Fake models on disk for tests: real folders, a real backend with a byte meter."""

from __future__ import annotations

import json
from pathlib import Path

MIB = 1 << 20


def make_fake(root: Path, name: str, **config: object) -> Path:
    """Write `root/name/fake.json`."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fake.json").write_text(json.dumps(config))
    return folder
