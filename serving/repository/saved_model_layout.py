"""Finds TensorFlow's SavedModel in a model's folder, however it was packed.

1. What a configuration names: a folder, or its saved_model.pb.
2. In the highest version, as TensorFlow Serving and Triton have it; else in the folder itself. There it lies openly, or
   in `model.savedmodel` (Triton's).
3. Deeper down, when there is one alone: SageMaker's archives have `export/Servo/<number>/` or `<name>/<number>/`, with
   other folders beside. Of one name the highest version is meant.

The worker that loads it is told the folder's saved_model.pb. `handlers` calls this room, after every room of scripts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serving.repository.folders import (
    SAVED_MODEL_FILE,
    descend,
    files_below,
    model_files,
    plain_files,
    saved_model_file,
    vendored,
    visible,
)
from serving.repository.model_folder import Found, ModelFolder
from serving.repository.plain_files import hugging_face_weights
from serving.repository.saved_model_files import check_saved_model

SAVED_MODEL = "savedmodel"
"""The dialect of workers that runs SavedModels, and their word in a wharf.toml."""

TRITONS_FOLDER = "model.savedmodel"

# Parameters of Triton's TensorFlow backend, and the worker's options that they are.
_OPTIONS = {"TF_SIGNATURE_DEF": "signature", "TF_GRAPH_TAG": "tags"}


def find_saved_model(folder: ModelFolder, *, is_named: bool = False, **said: Any) -> Found | None:
    """Return the handler of a SavedModel, None where there is none; `is_named` says that one is configured.

    `said` are figures of the handler that another room knows.

    Raises `InvalidArtifactError` for several, and for one that is not whole.
    """
    place = _place(folder)
    if place is None:
        if is_named:
            raise folder.refusal(
                f"it is configured as a TensorFlow SavedModel and has no {SAVED_MODEL_FILE}: lay it into "
                f"1/{TRITONS_FOLDER}/, or name its folder (file = ...)"
            )
        return None
    check_saved_model(folder.name, place, folder.within)
    config = dict(folder.config.triton or {})
    count = said.get("min_workers") or _instances(config.get("instance_group", ())) or 1
    more = (said.get("max_workers"), folder.workers.min_workers, folder.workers.max_workers)
    handler = folder.handler(
        SAVED_MODEL,
        place / SAVED_MODEL_FILE,
        vendored(folder.path),
        options=_options(config),
        config=config,
        **said | {"min_workers": count, "max_workers": max(count, *(each or 0 for each in more))},
    )
    return Found(folder.config, handler, (folder.shown(place / SAVED_MODEL_FILE),))


def _place(folder: ModelFolder) -> Path | None:
    if folder.config.file is not None:  # 1
        return folder.named(folder.config.file).parent
    for base in (folder.version, folder.path):  # 2
        if base is not None and (found := _at(base)) is not None:
            return found
    return _deeper(folder)  # 3


def _at(base: Path) -> Path | None:
    return next((each for each in (base, base / TRITONS_FOLDER, descend(base)) if saved_model_file(each)), None)


def _deeper(folder: ModelFolder) -> Path | None:
    if _holds_other(folder.path):
        return None
    found = [file.parent for file in files_below(folder.path) if file.name == SAVED_MODEL_FILE]
    families: dict[Path, list[Path]] = {}
    for each in found:
        families.setdefault(each.parent if each.name.isdecimal() else each, []).append(each)
    if len(families) > 1:
        names = ", ".join(sorted(folder.shown(each) for each in families)[:10])
        raise folder.refusal(
            f"it has {len(families)} SavedModels ({names}): keep one, or name it in a wharf.toml (file = ...)"
        )
    return max((each for family in families.values() for each in family), key=_number, default=None)


def _holds_other(folder: Path) -> bool:
    """Say whether a folder is another kind of model, whose export to TensorFlow lies deeper down."""
    names = (each.name for each in visible(folder))
    return bool(model_files(folder) or plain_files(folder) or hugging_face_weights(names))


def _number(folder: Path) -> int:
    return int(folder.name) if folder.name.isdecimal() else -1


def _options(config: Mapping[str, Any]) -> dict[str, str]:
    given = config.get("parameters", {})
    return {option: str(given[name].get("string_value", "")) for name, option in _OPTIONS.items() if name in given}


def _instances(groups: Iterable[Mapping[str, Any]]) -> int | None:
    return sum(max(1, int(group.get("count", 1))) for group in groups) or None
