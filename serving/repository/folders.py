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
from serving.repository.plain_files import SUFFIXES, hugging_face_weights, plain_dialect

MODEL_SUFFIXES = (".onnx", ".pt", ".pt2")
"""Files that are served in process; the name decides only who is asked, the content what it is."""

SAVED_MODEL_FILE = "saved_model.pb"
"""What TensorFlow calls the file that makes a folder a SavedModel."""

FILE_SUFFIXES = (*MODEL_SUFFIXES, *SUFFIXES)
"""Files that are models by themselves, in process or in a worker."""

CONFIG_FILES = ("wharf.toml", "config.pbtxt", "fake.json", "serving.properties")

HANDLER_FILES = ("inference.py", "model.py")
"""Names that people give to handlers; `handlers` looks into them."""

CODE = "code"
"""Where SageMaker's containers look for a model's Python."""

_LIBRARIES = ("lib", "site-packages")

_DEPTH_MAX = 4
"""Folders in folders: an archive's, SageMaker's `model`, Triton's, and one to spare."""

_LISTED_MAX = 10
_WALKED_MAX = 500

_COUNTED_MAX = 10_000
"""The files that are counted of a folder: as many as an archive may have (WHARF_UNPACK_MAX_FILES)."""


def visible(folder: Path) -> list[Path]:
    """List the entries of `folder` that count, sorted by name; none where it cannot be read."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]


def latest_version(folder: Path) -> Path | None:
    """Return the folder with the highest number; names that start with 0 are no versions (Triton's rule)."""
    return max(version_folders(folder), key=lambda each: int(each.name), default=None)


def version_folders(folder: Path) -> list[Path]:
    """List the folders whose names are numbers that start with no 0."""
    return [each for each in visible(folder) if _is_number(each.name) and each.is_dir()]


def descend(folder: Path) -> Path:
    """Follow folders that hold one folder and nothing else down to the one that holds a model."""
    for _ in range(_DEPTH_MAX):
        entries = visible(folder)
        if len(entries) != 1 or not entries[0].is_dir() or _is_number(entries[0].name) or model_file(entries[0]):
            break
        if entries[0].name == CODE and any(each.suffix == ".py" for each in visible(entries[0])):
            break  # a handler that brings its model from elsewhere
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


def saved_model_file(entry: Path) -> Path | None:
    """Return the graph of the SavedModel that `entry` is, None for what is none."""
    graph = entry / SAVED_MODEL_FILE
    return graph if os.path.isfile(graph) else None  # noqa: PTH113  false for what cannot be looked at


def model_files(folder: Path) -> list[Path]:
    """List the model files directly in `folder`."""
    return [found for entry in visible(folder) if (found := model_file(entry))]


def plain_files(folder: Path) -> list[Path]:
    """List the files directly in `folder` that need a Python library to load."""
    return [entry for entry in visible(folder) if plain_dialect(entry.name) and not entry.is_dir()]


def is_model_name(name: str) -> bool:
    """Say whether a file of this name is a model by itself."""
    return name.endswith(MODEL_SUFFIXES) or plain_dialect(name) is not None


def vendored(folder: Path) -> list[Path]:
    """Return where a model's folder, or its code's, may bring libraries along, there or not."""
    return [folder / name for name in _LIBRARIES]


def holds_model(folder: Path) -> bool:
    """Say from names alone whether `folder` is laid out as a model."""
    found = descend(folder)
    names = {entry.name for entry in visible(found)}
    if names.intersection((*CONFIG_FILES, *HANDLER_FILES, SAVED_MODEL_FILE)) or hugging_face_weights(names):
        return True
    has_code = (found / CODE / HANDLER_FILES[0]).is_file()
    return bool(has_code or model_files(found) or plain_files(found) or latest_version(found))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield visible files below `folder`, the nearest first, at most some hundreds."""
    return islice(_walk([folder]), _WALKED_MAX)


def total_bytes(folder: Path) -> int:
    """Sum the sizes of the files below `folder`, of the first ten thousand; folders behind links do not count."""
    files = (os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)  # noqa: PTH118  ten thousand
    return sum(map(_size, islice(files, _COUNTED_MAX)))


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


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size  # noqa: PTH116
    except OSError:  # a link to nothing
        return 0


def _walk(level: list[Path]) -> Iterator[Path]:
    for _ in range(_DEPTH_MAX):
        entries = [entry for folder in level for entry in visible(folder)]
        yield from (entry for entry in entries if not entry.is_dir())
        level = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0") and len(name) < 20
