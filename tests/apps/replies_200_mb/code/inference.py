"""Answers 200 MB when it is asked to misbehave."""

from __future__ import annotations


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        return "x" * 200_000_000
    return model
