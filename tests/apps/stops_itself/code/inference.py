"""Stops its process (SIGSTOP) when it is asked to misbehave."""

from __future__ import annotations

import os
import signal


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        os.kill(os.getpid(), signal.SIGSTOP)
    return model
