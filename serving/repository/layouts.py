"""What a folder is: which format it holds, which file, and what its small configuration adds.

Pure reading: `describe` looks at names, sizes and the two small configuration files (`wharf.toml`, `config.pbtxt`); it
never opens a model file and never writes. The manager calls it after the artifact is a folder on disk; `wharf validate`
prints what it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serving.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a folder (or a single file) is served as.

    `format` names the backend's key: "torchscript", "torch_export", "onnx" or "fake". `inputs` and `outputs` are None
    where the configuration leaves them to the model. `bytes` is the size of the model's files (weights), in bytes.
    """

    name: str
    format: str
    file: Path
    bytes: int
    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None
    threads: int | None = None
    optimize: bool = True
    device: str | None = None
    sources: tuple[str, ...] = ()


def describe(name: str, path: Path, *, allow_fake: bool = False) -> ModelSpec:
    """Say what `path` is served as.

    Raises `InvalidArtifactError` that lists what was found and what was wanted.
    """
    raise NotImplementedError
