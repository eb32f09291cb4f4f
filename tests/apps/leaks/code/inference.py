"""Keeps 8 MiB more each time that it is asked to misbehave."""

from __future__ import annotations

kept: list[bytearray] = []


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        kept.append(bytearray(b"leak") * (2 << 20))
    return model
