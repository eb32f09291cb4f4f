"""Models of Triton's Python backend as people write them, loaded by the dialect and forgotten after each test."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.workers.dialects import triton_python
from serving.workers.dialects.triton_python import TritonPythonHandler
from serving.workers.handler import Launch, Reply, Request

HEADER = "import json, threading\nimport numpy as np\nimport triton_python_backend_utils as pb_utils\n"

OK = "pb_utils.InferenceResponse([pb_utils.Tensor('y', np.zeros(1, np.float32))])"
# How Triton begins what it says of a model that raised.
FAILED = "Failed to process the request(s) for model 'm_0', message: "

Load = Callable[..., TritonPythonHandler]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Write a model's code below `tmp_path` and load it; the handlers are closed and their modules forgotten."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loaded: list[TritonPythonHandler] = []
    before = set(sys.modules)

    def write_and_load(code: str, config: dict[str, Any] | None = None, **more: Any) -> TritonPythonHandler:
        launch = launch_of(tmp_path / "m", code, config, **more)
        loaded.append(triton_python.load(launch))
        return loaded[-1]

    yield write_and_load
    for handler in loaded:
        handler.close()
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("1", "7", "triton_python_backend_utils") or _is_below(name, tmp_path):
            del sys.modules[name]


def launch_of(folder: Path, code: str, config: dict[str, Any] | None = None, **more: Any) -> Launch:
    """Write `code` as version 1 of a model and describe its launch."""
    file = folder / more.pop("version", "1") / "model.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(HEADER + textwrap.dedent(code))
    return Launch("m", "triton_python", str(folder), str(file), config=config or {}, **more)


def tensor(name: str, dtype: str = "TYPE_FP32", *dims: int) -> dict[str, Any]:
    """One input or output of a configuration."""
    return {"name": name, "data_type": dtype, "dims": list(dims or (-1,))}


def _is_below(name: str, folder: Path) -> bool:
    return str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(folder))


def executing(body: str, kind: str = "def") -> str:
    """A model whose execute has this body."""
    return f"class TritonPythonModel:\n    {kind} execute(self, requests):\n" + textwrap.indent(body, " " * 8) + "\n"


def ask(**tensors: Any) -> Request:
    return Request(tensors={name: np.asarray(value) for name, value in tensors.items()})


def error_of(reply: Reply) -> str:
    document = json.loads(bytes(reply.body))
    assert document.keys() == {"error"}
    return str(document["error"])


def lines(reply: Reply) -> list[dict[str, Any]]:
    assert reply.chunks is not None
    return [json.loads(chunk) for chunk in reply.chunks]
