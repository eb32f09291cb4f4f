"""Says sys.exit(3) when it is asked to misbehave."""

from __future__ import annotations

import sys


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        sys.exit(3)
    return model
