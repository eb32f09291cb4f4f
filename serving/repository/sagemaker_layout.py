"""Finds SageMaker's inference script in a model's folder, and tells its two dialects apart.

1. SAGEMAKER_PROGRAM, then inference.py: each in SAGEMAKER_SUBMIT_DIRECTORY, in code/, at the top.
2. `handler` or `input_handler` is the TensorFlow Serving container's script, unless `model_fn` and its like are there
   too and no TensorFlow model is; all else is the inference toolkit's.

Both variables hold for every model of the server: where one of them does not fit a model, the next place is tried. The
script is looked at as text and never run; `handlers` calls it.
"""

from __future__ import annotations

from pathlib import Path

from serving.repository.folders import CODE, HANDLER_FILES, files_below, vendored
from serving.repository.model_folder import Found, ModelFolder
from serving.repository.python_files import Script, look

TOOLKIT = ("model_fn", "input_fn", "predict_fn", "output_fn", "transform_fn")
TENSORFLOW = ("handler", "input_handler", "output_handler")


def find_sagemaker(folder: ModelFolder, file: Path | None = None, dialect: str | None = None) -> Found | None:
    """Return the handler of a SageMaker script, None where there is none.

    `file` and `dialect` are what the configuration names, and are believed.
    """
    script = file or _script(folder)
    if script is None and dialect == "sagemaker":  # the toolkit's own functions, by somebody's word
        return Found(folder.config, folder.handler(dialect, None, search_paths(folder, folder.path / CODE)))
    if script is None and dialect is not None:
        raise folder.refusal(
            f"it is configured as {dialect} and has no {CODE}/{HANDLER_FILES[0]}: add it, or name the "
            "script (file = ...)"
        )
    if script is None:
        return None
    seen = look(script)
    handler = folder.handler(dialect or _dialect(folder, seen), script, search_paths(folder, script.parent))
    return Found(folder.config, handler, (folder.shown(script),), tuple(_warnings(folder, script, seen)))


def search_paths(folder: ModelFolder, code: Path) -> list[Path]:
    """Return where the imports of a script in `code` are looked for: beside it, vendored, in the model's folder."""
    return [code, *vendored(code), *vendored(folder.path), folder.path]


def _script(folder: ModelFolder) -> Path | None:
    programs = [folder.below(folder.environ.get("SAGEMAKER_PROGRAM", "").strip()), HANDLER_FILES[0]]
    places = [_submit_directory(folder), CODE, ""]
    candidates = [f"{place}/{program}".lstrip("/") for program in programs if program for place in places]
    return next((found for each in candidates if (found := folder.find(each))), None)


def _submit_directory(folder: ModelFolder) -> str:
    return folder.below(folder.environ.get("SAGEMAKER_SUBMIT_DIRECTORY", "").strip())


def _dialect(folder: ModelFolder, script: Script) -> str:
    is_served = script.defines(*TENSORFLOW) and (not script.defines(*TOOLKIT) or holds_tensorflow(folder.path))
    return "tensorflow" if is_served else "sagemaker"


def holds_tensorflow(folder: Path) -> bool:
    """Say from names alone whether a SavedModel or a Keras file lies below `folder`."""
    return any(each.name == "saved_model.pb" or each.suffix in (".h5", ".keras") for each in files_below(folder))


def _warnings(folder: ModelFolder, script: Path, seen: Script) -> list[str]:
    said = []
    wanted = _submit_directory(folder)
    place = folder.path / wanted
    if wanted and not (place.is_dir() and place.resolve().is_relative_to(folder.path.resolve())):
        said.append(
            f"SAGEMAKER_SUBMIT_DIRECTORY is '{wanted}', no folder of the model: {folder.shown(script)} is taken."
        )
    if not seen.defines(*TOOLKIT, *TENSORFLOW) and not seen.may_hide:
        said.append(f"{folder.shown(script)} defines none of {', '.join(TOOLKIT)}: the toolkit's own are used.")
    return said
