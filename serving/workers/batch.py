"""Requests that one call answers: taken from the line by the first of them, who hands out the answers.

Knows nothing of workers: `pool` says how they are called, and when one may lead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from serving.errors import ServingError, UnavailableError
from serving.workers.handler import Reply, Request
from serving.workers.line import Job, Line


def gather(line: Line, came: threading.Condition, most: int, delay_s: float) -> list[Job]:
    """Return up to `most` of those in line, and of those who join it, as `came` tells, within the delay.

    Called under the lock of `came`.
    """
    until = time.monotonic() + delay_s
    batch: list[Job] = []
    while len(batch) < most:
        if (job := line.take()) is not None:
            batch.append(job)
        elif (left_s := until - time.monotonic()) <= 0 or not came.wait(left_s):
            break
    return batch


def answer(name: str, batch: Sequence[Job], call: Callable[[list[Request]], list[Reply]]) -> list[Reply]:
    """Have a batch answered, and give those after the first their answers, or the error that all have."""
    error: ServingError = UnavailableError(f"Model '{name}' failed on another request of a batch.")
    replies: Sequence[Reply | None] = [None] * len(batch)
    try:
        replies = found = call([each.request for each in batch])
        return found
    except ServingError as failure:
        error = failure
        raise
    finally:
        for each, reply in zip(batch[1:], replies[1:], strict=True):
            each.end(reply or error)
