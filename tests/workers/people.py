"""People's model folders, written and loaded as a worker does, with nothing left behind in this process.

Knows how `main` sets a worker up (cwd, sys.path, no bytecode beside the model) as far as a dialect can tell. Tests of
the script dialects use it.
"""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.workers.handler import Handler, Launch, Reply, Request

PAIR = """
import json
def input_handler(data, context):
    text = data.read().decode()
    if context.request_content_type == "text/csv":
        text = json.dumps({"instances": [float(each) for each in text.split(",")]})
    return text
def output_handler(response, context):
    if response.status_code != 200:
        raise ValueError(response.content.decode())
    return response.content, context.accept_header
"""
"""A pair of TensorFlow Serving's container that passes JSON through and makes instances of CSV."""


def script(folder: Path, source: str, **fields: Any) -> Launch:
    """Write `source` as the folder's code/inference.py; return how to launch it with the SageMaker dialect."""
    code = folder / "code"
    code.mkdir(parents=True, exist_ok=True)
    file = code / fields.pop("file_name", "inference.py")
    file.write_text(textwrap.dedent(source))
    paths = [str(code), str(code / "lib"), str(folder)]
    return Launch(
        **{
            "name": "m",
            "dialect": "sagemaker",
            "folder": str(folder),
            "file": str(file),
            "paths": paths,
            **fields,
        }
    )


@contextmanager
def loaded(launch: Launch) -> Iterator[Handler]:
    """Load the model as a worker does; leave cwd, sys.path and sys.modules as they were."""
    dialect = importlib.import_module(f"serving.workers.dialects.{launch.dialect}")
    before = Path.cwd(), sys.path[:], set(sys.modules), sys.dont_write_bytecode
    sys.path[:0] = launch.paths
    sys.dont_write_bytecode = True
    os.chdir(launch.folder)
    try:
        handler: Handler = dialect.load(launch)
        yield handler
        handler.close()
    finally:
        cwd, sys.path[:], names, sys.dont_write_bytecode = before
        os.chdir(cwd)
        for name in set(sys.modules) - names:
            if _is_in(sys.modules[name], launch.folder):
                del sys.modules[name]


def _is_in(module: object, folder: str) -> bool:
    names = getattr(module, "__dict__", {})  # torch has modules that answer to any attribute
    places = [names.get("__file__"), *names.get("__path__", ())]
    return any(str(place).startswith(folder) for place in places)


def ask(handler: Handler, body: bytes | str = b"", **headers: str) -> Reply:
    """Send one request; `content_type` and the like become headers in Title-Case, absent ones are not sent."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    (reply,) = handler.call([Request(body.encode() if isinstance(body, str) else body, named)])
    return reply


def answer(launch: Launch, body: bytes | str = b"", **headers: str) -> str:
    """Load, send one request, return the body of its answer as text."""
    with loaded(launch) as handler:
        return bytes(ask(handler, body, **headers).body).decode()
