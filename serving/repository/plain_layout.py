"""Finds the model file that a built-in handler loads: Hugging Face's, scikit-learn's, XGBoost's or Keras'.

1. config.json beside weights is a Hugging Face folder.
2. Else the only plain file, or the one with a model's name among several; in the folder, else in its highest version.
   Beside a model that is served in process, a pickle is its labels or its scaler and is left alone.

Files are checked to be whole, never unpickled. `handlers` calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.repository.folders import check_readable, model_files, plain_files, vendored, visible
from serving.repository.formats import check_whole
from serving.repository.model_folder import Found, ModelFolder
from serving.repository.plain_files import HUGGING_FACE, hugging_face_weights, is_preferred, plain_dialect


def find_plain(folder: ModelFolder, dialect: str | None = None, **said: Any) -> Found | None:
    """Return the built-in handler of what the folder holds, None where there is nothing for one.

    `dialect` is what the configuration names; `said` are figures of the handler that another room knows. Raises
    `InvalidArtifactError` for several candidates and for a file that is not whole.
    """
    if dialect in (None, HUGGING_FACE) and (found := _hugging_face(folder, said)):
        return found
    if dialect is None and (model_files(folder.path) or _in_version(folder, model_files)):
        return None
    candidates = plain_files(folder.path) or _in_version(folder, plain_files)
    candidates = [each for each in candidates if dialect in (None, plain_dialect(each.name))]
    candidates = [each for each in candidates if is_preferred(each.name)] or candidates
    if len(candidates) > 1:
        names = ", ".join(folder.shown(each) for each in candidates[:10])
        raise folder.refusal(
            f"it has {len(candidates)} model files ({names}): keep one, or name it in a wharf.toml (file = ...)"
        )
    if candidates:
        return plain(folder, candidates[0], dialect, **said)
    if dialect:
        raise folder.refusal(f"it is configured as {dialect} and holds no such file: name the file (file = ...)")
    return None


def plain(folder: ModelFolder, file: Path, dialect: str | None = None, **said: Any) -> Found:
    """Return the built-in handler of `file`, by `dialect` or else by its name."""
    check_readable(file, folder.within)
    check_whole(folder.name, file)
    handler = folder.handler(dialect or plain_dialect(file.name) or "", file, vendored(folder.path), **said)
    return Found(folder.config, handler, (folder.shown(file),))


def _hugging_face(folder: ModelFolder, said: dict[str, Any]) -> Found | None:
    weights = hugging_face_weights(each.name for each in visible(folder.path))
    for name in weights:
        if file := folder.find(name):
            check_whole(folder.name, file)
    config = folder.find("config.json") if weights else None
    if config is None:
        return None
    handler = folder.handler(HUGGING_FACE, None, vendored(folder.path), **said)
    return Found(folder.config, handler, ("config.json", *weights))


def _in_version(folder: ModelFolder, list_files: Callable[[Path], list[Path]]) -> list[Path]:
    version = folder.version
    return list_files(version) if version else []
