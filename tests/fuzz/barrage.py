"""What the fuzz tests of the routes share: the models that are asked, and batches of requests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.models import make_fake
from tests.server import RunningServer

BATCH = 20
_T = TypeVar("_T")


def make_models(root: Path) -> None:
    """Write a model of two numbers, one of any, and one that fails."""
    for name, config in (("tiny", {"dims": [2]}), ("open", {}), ("fails", {"fail_run": "told to"})):
        make_fake(root, name, **config)


def client_of(server: RunningServer) -> httpx.Client:
    """Return a client with a connection a request: Granian drops one whose body nobody read."""
    return httpx.Client(base_url=server.url, timeout=20, limits=httpx.Limits(max_keepalive_connections=0))


def fire(requests: st.SearchStrategy[_T], examples: int, check: Callable[[_T], None]) -> None:
    """Have `check` send `BATCH` requests an example and look at each answer."""

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(requests, min_size=BATCH, max_size=BATCH))
    def ask(batch: list[_T]) -> None:
        for request in batch:
            check(request)

    ask()
