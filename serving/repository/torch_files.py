"""What a zip written by torch holds, told apart by the names of its members: nothing is unpickled, torch is not needed.

TorchScript has `code/` and `constants.pkl`; a state dict or a pickled module has only `data.pkl`; torch.export has
`models/*.json` (2.7 and later) or `serialized_exported_program.json` (before); an AOTInductor package has compiled
libraries. Every member lies below one folder named after the file. `archives` and `layouts` ask.
"""

from __future__ import annotations

import zipfile
from enum import Enum
from typing import IO

from serving.repository.bounded import BoundedReader

_DIRECTORY_MAX_BYTES = 16 << 20
"""A torch file has a member of some 120 bytes for each tensor, and the largest models have some 10,000 tensors."""


class TorchKind(Enum):
    """What `torch.jit.save`, `torch.export.save` and `torch.save` write."""

    SCRIPT = "torchscript"
    EXPORT = "torch_export"
    COMPILED = "AOTInductor package"
    PICKLE = "pickle"


def torch_kind(file: IO[bytes]) -> TorchKind | None:
    """Return what kind of torch file a zip is, None when it is none or no whole zip; leaves the file at its start."""
    try:
        names = _names(file)
    except Exception:  # zipfile raises a dozen types for damaged bytes; whoever reads the file next says so
        names = frozenset()
    file.seek(0)
    if "constants.pkl" in names and "data.pkl" in names and any(name.startswith("code/") for name in names):
        return TorchKind.SCRIPT
    if _is_export(names):
        return TorchKind.EXPORT
    if any(name.startswith("data/aotinductor/") for name in names):
        return TorchKind.COMPILED
    if "data.pkl" in names and "version" in names:
        return TorchKind.PICKLE
    return None


def _is_export(names: frozenset[str]) -> bool:
    if "serialized_exported_program.json" in names:
        return True
    return "archive_format" in names and any(name.startswith("models/") and name.endswith(".json") for name in names)


def _names(file: IO[bytes]) -> frozenset[str]:
    with zipfile.ZipFile(BoundedReader(file, _DIRECTORY_MAX_BYTES, ValueError("directory too large"))) as archive:
        names = archive.namelist()
    folder = names[0].partition("/")[0] + "/" if names and "/" in names[0] else ""
    return frozenset(name.removeprefix(folder) for name in names if name.startswith(folder))
