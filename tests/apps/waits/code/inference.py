"""Waits for a signal when it is asked to misbehave: to be killed from outside."""

from __future__ import annotations

import signal


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        signal.pause()
    return model
