"""Raises when it is asked to misbehave, over several lines."""

from __future__ import annotations


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        raise ValueError("first line\nthe shape (3,) is not (4,)")
    return model
