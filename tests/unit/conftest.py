"""What every unit test finds as it was: the garbage collector's work, and the root logger."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """Do what the server does at its start (`Server.start`): here it makes an unload 20 times cheaper."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Put the root logger back: what a test configured writes to a stream that ends with it."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], root.level = before
