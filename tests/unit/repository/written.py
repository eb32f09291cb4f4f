"""Models as people lay them out, written to disk for the tests of who handles them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serving.repository.handler_spec import HandlerSpec
from serving.repository.layouts import ModelSpec, describe
from serving.repository.surroundings import Surroundings
from tests.unit.repository import packs

TOOLKIT = "def model_fn(model_dir):\n    return 1\n"
SERVING = "def handler(data, context):\n    return b'', 'text/plain'\n"
DJL = "from djl_python import Input, Output\n\ndef handle(inputs: Input) -> Output:\n    return Output()\n"
TRITON = "import triton_python_backend_utils as pb_utils\n\nclass TritonPythonModel:\n    pass\n"

CONTENT = {".onnx": packs.onnx(), ".pt": packs.TORCHSCRIPT, ".pt2": packs.EXPORTED}


def write(folder: Path, *names: str, **texts: str) -> Path:
    """Make files: known suffixes get honest content, `code__inference_py="..."` makes `code/inference.py`."""
    files: dict[str, bytes] = {name: CONTENT.get(Path(name).suffix, b"x") for name in names}
    for name, text in texts.items():
        stem, _, suffix = name.replace("__", "/").rpartition("_")
        files[f"{stem}.{suffix}"] = text.encode()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def handled(folder: Path, environ: Mapping[str, str] | None = None, name: str = "m") -> HandlerSpec:
    """Describe a folder that must have a handler; return that."""
    return worker(folder, environ, name)[1]


def worker(folder: Path, environ: Mapping[str, str] | None = None, name: str = "m") -> tuple[ModelSpec, HandlerSpec]:
    """Describe a folder that must have a handler; return both."""
    spec = describe(name, folder, within=folder.parent, surroundings=Surroundings(environ or {}))
    assert spec.handler is not None, spec
    assert spec.format in ("worker", "tensorflow")
    assert spec.handler.folder == spec.handler.folder.resolve()
    return spec, spec.handler
