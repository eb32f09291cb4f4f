"""Ends its process without a word when it is asked to misbehave."""

from __future__ import annotations

import os


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        os._exit(4)
    return model
