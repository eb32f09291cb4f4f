"""A folder of models that is one: an ensemble beside its members, as SageMaker's users pack them for Triton.

Told from the config.pbtxt of each folder: the entry is the ensemble that is no other one's step. Says who belongs to it
and looks at nothing else of them. `layouts` describes each and calls this room.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import InvalidArtifactError
from serving.repository.folders import CONFIG_FILES, check_readable, visible
from serving.repository.triton_schema import read

_CONFIG = "config.pbtxt"
# An ensemble of so many folders is none that anybody wrote.
_FOLDERS_MAX = 100


@dataclass(frozen=True, slots=True)
class Bundle:
    """The folders of an ensemble and of its members; the `idle` are nobody's step."""

    entry: Path
    members: tuple[Path, ...]
    idle: tuple[str, ...]


def find_bundle(name: str, folder: Path, within: Path) -> Bundle | None:
    """Return the bundle that `folder` is, None where it is something else.

    Raises `InvalidArtifactError` for two ensembles of which neither is a step of the other.
    """
    entries = visible(folder)[: _FOLDERS_MAX + 1]
    if len(entries) > _FOLDERS_MAX or {each.name for each in entries}.intersection(CONFIG_FILES):
        return None
    folders = {each.name: each for each in entries if (each / _CONFIG).is_file()}
    ensembles = {each: found for each, path in folders.items() if (found := _steps(path, within)) is not None}
    if not ensembles:
        return None
    called = {member for steps in ensembles.values() for member in steps}
    tops = [each for each in ensembles if each not in called]
    if len(tops) != 1:
        raise InvalidArtifactError(
            f"Model '{name}' holds the ensembles {tops or list(ensembles)}, and one of them must be the one to call: "
            "pack each with its members by itself, or make one a step of the other."
        )
    members = _reached(tops[0], ensembles, folders)
    idle = tuple(each for each in folders if each != tops[0] and each not in members)
    return Bundle(folders[tops[0]], tuple(folders[each] for each in members), idle)


def _steps(folder: Path, within: Path) -> list[str] | None:
    """Return the models that an ensemble calls, None for what is none."""
    file = folder / _CONFIG
    check_readable(file, within)
    if b"ensemble" not in file.read_bytes():  # saves the parse, and tritonclient's import, for all others
        return None
    config: Any = read(file)
    return [each.model_name for each in config.ensemble_scheduling.step] or None


def _reached(top: str, ensembles: dict[str, list[str]], folders: dict[str, Path]) -> list[str]:
    found: list[str] = []
    waiting = [top]
    while waiting:
        for member in ensembles.get(waiting.pop(), ()):
            if member in folders and member not in (top, *found):
                found.append(member)
                waiting.append(member)
    return found
