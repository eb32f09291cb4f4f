"""Prints 100,000 lines when it is asked to misbehave."""

from __future__ import annotations


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        for number in range(100_000):
            print(f"line {number} of a model that talks too much")
    return model
