"""Reads address 0 when it is asked to misbehave."""

from __future__ import annotations

import ctypes


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        ctypes.string_at(0)
    return model
