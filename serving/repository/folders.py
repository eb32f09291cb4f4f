"""What lies in a model's folder, as people and tools lay it out.

Hidden entries and macOS' leftovers do not count. Archives often hold one folder that holds the model (SageMaker's lie
below `<hash>/model`), and Triton's models lie in numbered versions, of which the highest is meant. This room looks at
names only; `layouts` decides what they mean, `artifact` which of them are models.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from serving.errors import InvalidArtifactError

MODEL_SUFFIXES = (".onnx", ".pt", ".pt2")
"""Files that are served; the name decides only who is asked, the content what it is."""

CONFIG_FILES = ("wharf.toml", "config.pbtxt", "fake.json")

_DEPTH_MAX = 4
"""Folders in folders: an archive's, SageMaker's `model`, Triton's, and one to spare."""

_LISTED_MAX = 10
_WALKED_MAX = 500


def visible(folder: Path) -> list[Path]:
    """List the entries of `folder` that count, sorted by name; none where it cannot be read."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]


def latest_version(folder: Path) -> Path | None:
    """Return the folder with the highest number; names that start with 0 are no versions (Triton's rule)."""
    versions = [each for each in visible(folder) if _is_number(each.name) and each.is_dir()]
    return max(versions, key=lambda each: int(each.name), default=None)


def descend(folder: Path) -> Path:
    """Follow folders that hold one folder and nothing else down to the one that holds a model."""
    for _ in range(_DEPTH_MAX):
        entries = visible(folder)
        if len(entries) != 1 or not entries[0].is_dir() or _is_number(entries[0].name) or model_file(entries[0]):
            break
        folder = entries[0]
    return folder


def model_file(entry: Path) -> Path | None:
    """Return the file that `entry` is or holds: one with a model's suffix, or Triton's folder `x.onnx/model.onnx`."""
    if not entry.name.endswith(MODEL_SUFFIXES):
        return None
    if entry.is_dir():
        inner = entry / "model.onnx"
        return inner if entry.suffix == ".onnx" and inner.is_file() else None
    return entry


def model_files(folder: Path) -> list[Path]:
    """List the model files directly in `folder`."""
    return [found for entry in visible(folder) if (found := model_file(entry))]


def holds_model(folder: Path) -> bool:
    """Say from names alone whether `folder` is laid out as a model."""
    found = descend(folder)
    names = {entry.name for entry in visible(found)}
    return bool(names.intersection(CONFIG_FILES) or model_files(found) or latest_version(found))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield visible files below `folder`, the nearest first, at most some hundreds."""
    return islice(_walk([folder]), _WALKED_MAX)


def listing(folder: Path) -> str:
    """Return the first names in `folder` for an error message."""
    entries = visible(folder)
    names = ", ".join(entry.name + ("/" if entry.is_dir() else "") for entry in entries[:_LISTED_MAX])
    more = len(entries) - _LISTED_MAX
    return (names + (f" and {more} more" if more > 0 else "")) or "nothing"


def check_readable(path: Path, within: Path) -> None:
    """Raise `InvalidArtifactError` for what is missing, unreadable or, links followed, outside `within`."""
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(within)):
        raise InvalidArtifactError(f"'{path.name}' leads outside {within}: put the file itself there, not a link.")
    try:
        mode = os.R_OK | (os.X_OK if os.path.isdir(path) else 0)  # noqa: PTH112  an error here is `os.stat`'s below
        os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise InvalidArtifactError(f"Artifact '{path}' cannot be read ({error.strerror}): check the path.") from error
    if not os.access(path, mode):
        raise InvalidArtifactError(f"Artifact '{path}' may not be read by this user: change its mode or owner.")


def _walk(level: list[Path]) -> Iterator[Path]:
    for _ in range(_DEPTH_MAX):
        entries = [entry for folder in level for entry in visible(folder)]
        yield from (entry for entry in entries if not entry.is_dir())
        level = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0") and len(name) < 20
