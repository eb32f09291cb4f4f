"""Leaves 50 threads behind, some of them busy, when it is asked to misbehave."""

from __future__ import annotations

import itertools
import threading

never = threading.Event()


def count() -> None:
    for number in itertools.count():
        if never.is_set():
            print(number)


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        for number in range(50):
            threading.Thread(target=count if number % 25 == 0 else never.wait, daemon=number % 2 == 0).start()
    return model
