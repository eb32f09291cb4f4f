"""What the tests of the DJL dialect share: a model folder of given code, loaded with the interpreter left as it was."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.workers.dialects.djl import load
from serving.workers.handler import Handler, Launch, Reply, Request

LoadModel = Callable[..., Handler]

HEADER = "import os\nfrom djl_python import Input, Output\n"


@pytest.fixture
def load_model(tmp_path: Path) -> Iterator[LoadModel]:
    """Load `model.py` of the given code as the worker does: in its folder, on its path; all is undone afterwards."""
    modules, path, cwd = dict(sys.modules), list(sys.path), Path.cwd()
    handlers: list[Handler] = []

    def loaded(code: str = "", device: str = "cpu", file: str = "model.py", **options: str) -> Handler:
        if code:
            (tmp_path / file).write_text(HEADER + textwrap.dedent(code))
        os.chdir(tmp_path)
        sys.path.insert(0, str(tmp_path))
        handlers.append(load(Launch("m", "djl", str(tmp_path), file=file, device=device, options=options)))
        return handlers[-1]

    yield loaded
    for handler in handlers:
        handler.close()
    os.chdir(cwd)
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        if name.split(".")[0] in ("djl_python", "model", "djl_handler_model", "sibling"):
            del sys.modules[name]


def echo(expression: str) -> str:
    """Return the code of a handler that answers with an expression of `inputs`, as JSON."""
    return f"""
    def handle(inputs):
        return None if inputs.is_empty() else Output().add_as_json({expression})
    """


def ask(handler: Handler, body: bytes = b"", query: str = "", **headers: str) -> Reply:
    """Answer one request; a header's name is spelled with underscores."""
    titled = {name.replace("_", "-").title(): value for name, value in headers.items()}
    (reply,) = handler.call([Request(body, titled, query=query)])
    return reply
