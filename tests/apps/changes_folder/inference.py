"""Changes its working directory, its umask and its environment when it is asked to misbehave."""

from __future__ import annotations

import os


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        os.chdir("/")
        os.umask(0o777)
        os.environ.clear()
    return model
