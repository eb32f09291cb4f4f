"""Yields two pieces and raises when it is asked to misbehave; else yields both."""

from __future__ import annotations

from collections.abc import Iterator


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> Iterator[str]:
    yield model[:2]
    yield model[2:]
    if body == b"misbehave":
        raise ValueError("the well ran dry")
