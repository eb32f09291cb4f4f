"""Models of Triton's Python backend, and a real tritonserver laid out as NVIDIA's images have it.

`make test` and `make cover` install that below .oracle.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from serving.repository.layouts import ModelSpec, describe
from serving.repository.surroundings import Surroundings
from tests.oracle import tritonserver

MODEL = """
import os
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.factor = np.float32({factor})
        {initialize}

    def execute(self, requests):
        found = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            if x.ravel()[0] < 0:
                raise ValueError("below zero")
            found.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", x * self.factor)]))
        return found
"""
CONFIG = """
backend: "python"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""


def write_model(folder: Path, factor: int = 2, config: str = CONFIG, initialize: str = "") -> Path:
    """Write a model of Triton's Python backend."""
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.py").write_text(MODEL.format(factor=factor, initialize=initialize or "pass"))
    (folder / "config.pbtxt").write_text(config)
    return folder


def spec_of(folder: Path, name: str = "m") -> ModelSpec:
    """What a folder is described as where Python is tritonserver's."""
    return describe(name, folder, surroundings=Surroundings(triton_backends=("python", "fil")))


def triton_environ(folder: Path) -> dict[str, str]:
    """Lay a tritonserver out below `folder`; return what a process needs to run it."""
    wheel = tritonserver.site_packages() / "pytriton/tritonserver"
    binary = folder / "tritonserver/bin/tritonserver"
    if not binary.exists():
        binary.parent.mkdir(parents=True)
        shutil.copy(wheel / "bin/tritonserver", binary)
        tritonserver.copy_backends(folder / "tritonserver/backends")
        binary.chmod(0o755)
    ours = {name: value for name, value in tritonserver.environment().items() if os.environ.get(name) != value}
    return ours | {"WHARF_TRITONSERVER": str(binary), "WHARF_TRITON_BACKENDS": "python"}
