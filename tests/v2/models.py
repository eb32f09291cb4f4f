"""Models for Triton's clients: the templates of its Python backend, an identity of whatever comes, fakes."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.models import make_fake

TEMPLATES = Path(__file__).parents[2] / "model_repo_templates/handlers"

_IDENTITY = """
import json
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        tensors = [pb_utils.Tensor("OUT_" + each.name()[3:], each.as_numpy()) for each in request.inputs()]
        said = {"id": request.request_id(), "parameters": json.loads(request.parameters() or "{}")}
        said["sequence"] = [request.correlation_id(), request.flags()]
        if said["parameters"].get("raise"):
            raise ValueError("told to")
        import numpy as np
        tensors.append(pb_utils.Tensor("SAID", np.array([json.dumps(said)], object)))
        return pb_utils.InferenceResponse(tensors)
"""


def make_models(root: Path) -> None:
    """Write all of them below `root`."""
    for name in ("triton_python", "triton_python_decoupled"):
        shutil.copytree(TEMPLATES / name, root / name)
    for name in ("identity", "sub/id entity%41"):
        _make_identity(root / name)
    make_fake(root, "fake", dims=[4])
    make_fake(root, "bad", fail_load="no good")


def _make_identity(folder: Path) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.py").write_text(_IDENTITY)
    (folder / "config.pbtxt").write_text('backend: "python"\n')  # it takes what comes
