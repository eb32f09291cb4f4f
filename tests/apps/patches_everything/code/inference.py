"""Breaks json, print, time, os and its streams for its whole process when it is asked to misbehave."""

from __future__ import annotations

import builtins
import json
import os
import sys
import time
import traceback
from typing import Any


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("broken by a model")


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body == b"misbehave":
        json.loads = json.dumps = json.JSONEncoder.encode = json.JSONDecoder.decode = broken  # type: ignore[method-assign]
        builtins.print = time.monotonic = time.time = os._exit = os.close = traceback.print_exception = broken
        sys.exit = sys.excepthook = broken
        sys.stdout = sys.stderr = None
    return model
