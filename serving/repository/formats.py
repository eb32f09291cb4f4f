"""Which format a model file is of: told from its bytes, without unpickling, torch or a runtime.

1. What is empty, a pointer of Git LFS, or torch's but without a program is refused by name.
2. torch's zips tell themselves, whatever the file is called.
3. A name of a known format that is not served is refused by name.
4. ONNX has no magic number: a name ending in .onnx, or a configuration, is believed and the walk of `onnx_files` checks
   it; under any other name the walk decides.

`layouts` asks about the file that it chose, and the rooms of handlers whether theirs is whole.
"""

from __future__ import annotations

from pathlib import Path

from serving.errors import InvalidArtifactError
from serving.repository.folders import MODEL_SUFFIXES
from serving.repository.onnx_files import is_onnx
from serving.repository.torch_files import TorchKind, torch_kind
from serving.repository.unserved import advice_for

_TORCH = {TorchKind.SCRIPT: "torchscript", TorchKind.EXPORT: "torch_export"}

_LFS_POINTER = b"version https://git-lfs"

_PICKLE_PROTOCOL_2 = b"\x80\x02"
"""What torch.save wrote before it wrote zips."""


def format_of(name: str, file: Path, wanted: str | None) -> str:
    """Return the format of `file`, which belongs to model `name` and is configured as `wanted` (None: not at all).

    Raises `InvalidArtifactError` that says what the file is instead and what to do.
    """
    with file.open("rb") as source:
        start = source.read(len(_LFS_POINTER))
        kind = torch_kind(source)
    fault = _fault(file.name, start, kind)
    if fault is None and kind is None and wanted is None and not file.name.endswith(MODEL_SUFFIXES):
        fault = advice_for([file.name])
    if fault:
        raise InvalidArtifactError(f"Model '{name}' cannot be served: {fault}.")
    found = _TORCH.get(kind) if kind else _untorched(file, wanted)
    if found is None:
        raise InvalidArtifactError(
            f"Model '{name}' cannot be served: '{file.name}' is of no known format, or cut short: copy it again. "
            "Served by themselves are ONNX (.onnx), TorchScript (.pt, torch.jit.script), torch.export (.pt2), and "
            "files of scikit-learn, XGBoost and LightGBM by their names."
        )
    if wanted not in (None, found):
        raise InvalidArtifactError(
            f"Model '{name}' is configured as {wanted}, and '{file.name}' holds {found}: correct the format."
        )
    return found


def check_whole(name: str, file: Path) -> None:
    """Raise `InvalidArtifactError` where `file` of model `name` is empty or a pointer of Git LFS."""
    with file.open("rb") as source:
        if fault := _hollow(file.name, source.read(len(_LFS_POINTER))):
            raise InvalidArtifactError(f"Model '{name}' cannot be served: {fault}.")


def _hollow(file_name: str, start: bytes) -> str | None:
    if not start:
        return f"'{file_name}' is empty, copy it again"
    return f"'{file_name}' is only a pointer of Git LFS, run `git lfs pull`" if start == _LFS_POINTER else None


def _fault(file_name: str, start: bytes, kind: TorchKind | None) -> str | None:
    if hollow := _hollow(file_name, start):
        return hollow
    if kind is TorchKind.COMPILED:
        return f"'{file_name}' is an AOTInductor package, compiled for one machine: use torch.export.save"
    is_old_pickle = start.startswith(_PICKLE_PROTOCOL_2) and file_name.endswith((".pt", ".pt2", ".pth"))
    if kind is TorchKind.PICKLE or is_old_pickle:
        return (
            f"'{file_name}' is a pickle of torch.save, a state dict or a whole module, which would run Python: "
            "add a code/inference.py that loads it, or save the model with torch.jit.script(m).save or "
            "torch.export.save"
        )
    return None


def _untorched(file: Path, wanted: str | None) -> str | None:
    if wanted == "onnx" or file.suffix == ".onnx":
        return "onnx"
    return "onnx" if file.suffix not in MODEL_SUFFIXES and is_onnx(file) else None
