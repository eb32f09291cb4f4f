"""Writes to its own folder, and into its own code, when it is asked to misbehave."""

from __future__ import annotations

from pathlib import Path


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        Path("written.txt").write_text("by the model")
        Path(__file__).write_text(Path(__file__).read_text() + "\n# and more\n")
    return model
