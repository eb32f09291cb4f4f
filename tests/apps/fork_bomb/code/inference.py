"""Forks and lets its children fork when it is asked to misbehave; `scatter` makes each a session of its own.

All of them together stop at 3,000: a bug of ours must not take the machine down with it.
"""

from __future__ import annotations

import mmap
import os
import signal

# A byte for each fork, in memory that all of them share.
_MOST = 3_000
_forks = mmap.mmap(-1, _MOST)


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body in (b"misbehave", b"scatter"):
        fork(is_scattered=body == b"scatter")
    return model


def fork(*, is_scattered: bool) -> None:
    while (number := _forks.find(b"\0")) >= 0:
        _forks[number] = 1
        try:
            if os.fork() == 0 and is_scattered:
                os.setsid()
        except OSError:
            break
    signal.pause()
