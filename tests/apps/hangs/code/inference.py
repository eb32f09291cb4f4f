"""Never answers when it is asked to misbehave, and takes a whole core for it."""

from __future__ import annotations


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        while True:
            pass
    return model
