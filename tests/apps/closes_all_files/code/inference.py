"""Closes every file of its process, our channel and its output too, when it is asked to misbehave."""

from __future__ import annotations

import os


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        os.closerange(0, 1 << 16)
    return model
