"""Finds a model of Triton's Python backend: config.pbtxt names the backend, or a version has its model.py.

The highest version is served, as elsewhere. From config.pbtxt come the instances, the batcher's figures, the parameters
and EXECUTION_ENV_PATH; the whole of it goes to the worker, whose model reads it. model.py is looked at as text and
never run. `handlers` calls this room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serving.repository.folders import HANDLER_FILES, vendored
from serving.repository.model_folder import Found, ModelFolder
from serving.repository.python_files import look

DIALECT = "triton_python"

_CLASS = "TritonPythonModel"
_MODEL_FILE = HANDLER_FILES[1]

_ENVIRONMENT = "EXECUTION_ENV_PATH"
_HERE = "$$TRITON_MODEL_DIRECTORY"


def find_triton(folder: ModelFolder, file: Path | None = None, *, is_named: bool = False) -> Found | None:
    """Return the handler of a TritonPythonModel, None where there is none; `is_named` says that one is configured."""
    script = file or _script(folder)
    if script is None or not (is_named or look(script).defines(_CLASS)):
        if is_named:
            raise folder.refusal(f"it is Triton's Python backend's and has no <version>/{_MODEL_FILE}: add it")
        return None
    config = dict(folder.config.triton or {})
    parameters = _parameters(config)
    handler = folder.handler(
        DIALECT,
        script,
        vendored(folder.path),  # its own folder and the model's are the last on sys.path, as Triton has them
        python=_environment(folder, parameters),
        options=parameters,
        config=config,
        **_figures(config),
    )
    return Found(folder.config, handler, (folder.shown(script),))


def _script(folder: ModelFolder) -> Path | None:
    version = folder.version
    places = [version.name] if version else []
    return next((found for each in (*places, ".") if (found := folder.find(f"{each}/{_MODEL_FILE}"))), None)


def _parameters(config: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(each.get("string_value", "")) for name, each in config.get("parameters", {}).items()}


def _environment(folder: ModelFolder, parameters: Mapping[str, str]) -> str | None:
    return parameters[_ENVIRONMENT].replace(_HERE, str(folder.path)) if parameters.get(_ENVIRONMENT) else None


def _figures(config: Mapping[str, Any]) -> dict[str, Any]:
    count = _instances(config.get("instance_group", ()))
    said: dict[str, Any] = {"min_workers": count, "max_workers": count}
    if (batching := config.get("dynamic_batching")) is not None:  # for who sets a batch_size in wharf.toml
        said["max_batch_delay_s"] = int(batching.get("max_queue_delay_microseconds", 0)) / 1e6
    return said


def _instances(groups: Iterable[Mapping[str, Any]]) -> int | None:
    """Return how many instances the groups ask for; a group without a count has one, as Triton says."""
    return sum(max(1, int(group.get("count", 1))) for group in groups) or None
