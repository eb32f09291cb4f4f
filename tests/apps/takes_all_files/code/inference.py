"""Opens files until it may open no more when it is asked to misbehave, and keeps them."""

from __future__ import annotations

import os

kept: list[int] = []


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        while True:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    return model
