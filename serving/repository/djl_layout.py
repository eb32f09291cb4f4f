"""Finds a DJL Serving model: serving.properties, or a model.py in DJL's manner; and which of its engines serves it.

1. An engine of tensor-parallel groups (Rubikon, DeepSpeed, MPI) makes each worker a group of ranks; with stages of a
   pipeline it is refused by name. With engine Python the degree is a property, and the built-in handler's ranks.
2. A Java engine serves a plain file or a SavedModel: that is served, in process or by its built-in handler.
3. The entry point: option.entryPoint, DJL_ENTRY_POINT, `<model's name>.py`, model.py. A model.py without the handler's
   function gives way to the built-in Hugging Face handler where there is something for it.
4. Without one: what an engine of Java's would serve, in DJL's order (no engine named), then files with a built-in
   handler, then Hugging Face's.

DJL itself prefers a .pt to a model.py where no engine is named; here the handler that somebody wrote goes first. Python
is looked at as text and never run. `handlers` calls this room.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from serving.errors import InvalidArtifactError
from serving.repository.archives import SUFFIXES as ARCHIVE_SUFFIXES
from serving.repository.folders import HANDLER_FILES, model_files, saved_model_file
from serving.repository.memory_wish import MemoryWish
from serving.repository.model_folder import Found, ModelFolder
from serving.repository.plain_files import TREES
from serving.repository.plain_layout import find_plain
from serving.repository.properties_keys import PYTHON_ENGINES, built_in_warnings, in_process_warnings
from serving.repository.python_files import look
from serving.repository.sagemaker_layout import TOOLKIT, search_paths
from serving.repository.saved_model_layout import SAVED_MODEL, find_saved_model
from serving.repository.serving_properties import FILE_NAME, Properties, read_properties

DIALECT = "djl"
BUILT_IN = "djl_python.huggingface"
# The other one is the same with its model split by DeepSpeed.
_BUILT_INS = (BUILT_IN, "djl_python.deepspeed")

_MODEL_FILE = HANDLER_FILES[1]

_JAVA = {"PyTorch": ".pt", "OnnxRuntime": ".onnx", "TensorFlow": SAVED_MODEL, "XGBoost": TREES}
"""Engines of DJL and the files, or the built-in handler, that serve what they served."""

_TEXT_MAX_BYTES = 1 << 20
"""The largest serving.properties in the wild have some 2 KB."""

_FIGURES = (
    *("min_workers", "max_workers", "batch_size", "max_batch_delay_s", "queue_size", "idle_s", "max_deaths"),
    *("predict_timeout_s", "load_timeout_s", "max_reply_bytes", "environ"),
)

# What LMI's newer handlers mark their functions with, instead of calling one `handle`.
_DECORATORS = frozenset(("prediction_handler", "input_formatter", "output_formatter", "init_handler"))


def find_djl(folder: ModelFolder, file: Path | None = None, *, is_named: bool = False) -> Found | None:
    """Return what serves a DJL model, None where the folder is none.

    `file` is the entry point that the configuration names, `is_named` says that the dialect is configured. Raises
    `InvalidArtifactError` for engines and entry points that are not served.
    """
    config = folder.find(FILE_NAME)
    if config is None and not is_named and not is_djl_script(folder.find(_MODEL_FILE)):
        return None
    properties = _read(folder, config)
    found = _by_engine(_placed(folder, properties), properties, file)
    if config is None and found.handler is None:
        raise _nothing(folder)
    sources = (*((FILE_NAME,) if config else ()), *found.sources)
    warnings = (*properties.warnings, *_idle(properties, found), *found.warnings)
    return replace(found, sources=sources, warnings=warnings, wish=_wish(properties, found))


def is_djl_script(file: Path | None, handler: str = "handle") -> bool:
    """Say whether `file` is a handler in DJL's manner, by its text."""
    if file is None:
        return False
    seen = look(file)
    return seen.defines(handler) or "djl_python" in seen.modules


def _read(folder: ModelFolder, file: Path | None) -> Properties:
    """Read the file for the device that the model runs on: wharf.toml's word, its own, or the server's."""
    text = _text(file)
    properties = read_properties(text, folder.environ)
    device = folder.config.device or next(iter(properties.devices), folder.device)
    return properties if device == "cpu" else read_properties(text, folder.environ, "gpu")


def _text(file: Path | None) -> str:
    if file is None:
        return ""
    with file.open("rb") as source:
        return source.read(_TEXT_MAX_BYTES).decode("utf-8", "replace")


def _placed(folder: ModelFolder, properties: Properties) -> ModelFolder:
    """Return the folder with its device, and with the format open: an engine of Java's has another than DJL's."""
    device = folder.config.device or next(iter(properties.devices), None)
    if device and (properties.is_group or properties.tensor_parallel):
        device = device.partition(":")[0]  # the ranks of a group have devices of their own
    return replace(folder, config=replace(folder.config, device=device, format=None))


def _by_engine(folder: ModelFolder, properties: Properties, file: Path | None) -> Found:
    if properties.is_group and properties.pipeline_parallel != 1:  # 1
        raise folder.refusal(
            f"its engine {properties.engine or 'MPI'} with pipeline_parallel_degree={properties.pipeline_parallel} "
            "wants stages, and a group of processes here splits tensors: set option.tensor_parallel_degree instead"
        )
    if properties.engine in _JAVA:  # 2
        return _java(folder, properties, _JAVA[properties.engine])
    if not properties.is_python:
        known = ", ".join((*PYTHON_ENGINES, *_JAVA))
        raise folder.refusal(f"{FILE_NAME} asks for the engine {properties.engine}, and served are {known}: choose one")
    entry = file or _entry_point(folder, properties)
    return _handled(folder, properties, entry) if entry else _by_content(folder, properties)  # 3, 4


def _ranks(properties: Properties, *, is_built_in: bool) -> int | Literal["max"] | None:
    """Return the size of a group, None where each worker is one process."""
    if properties.is_group:
        return properties.tensor_parallel or "max"
    return properties.tensor_parallel if is_built_in and properties.tensor_parallel not in (None, 1) else None


def _java(folder: ModelFolder, properties: Properties, kind: str) -> Found:
    stem = properties.options.get("modelName") or "model"
    if kind == TREES:
        found = find_plain(folder, TREES, **_figures(properties))
        return found or Found(folder.config)
    if kind == SAVED_MODEL:
        if saved_model_file(folder.path / stem):
            folder = replace(folder, config=replace(folder.config, file=stem))
        found = find_saved_model(folder, is_named=True, **_figures(properties))
        return found or Found(folder.config)
    files = _files(folder, kind)
    files = [each for each in files if each.stem == stem] or files
    if len(files) != 1:
        names = ", ".join(folder.shown(each) for each in files[:10]) or "none"
        raise folder.refusal(f"{FILE_NAME} means one {kind} file, and found are {names}: name it (option.modelName)")
    return Found(replace(folder.config, file=folder.shown(files[0])))


def _files(folder: ModelFolder, kind: str) -> list[Path]:
    version = folder.version
    files = model_files(folder.path) or (model_files(version) if version else [])
    return [each for each in files if each.suffix == kind]


def _inferred(folder: ModelFolder, properties: Properties) -> Found | None:
    """Return what a file without an engine means, in DJL's order; torch.export's files, which it has not, come last."""
    if _files(folder, ".pt"):
        return _java(folder, properties, ".pt")
    if found := find_saved_model(folder, **_figures(properties)):
        return found
    if _files(folder, ".onnx"):
        return _java(folder, properties, ".onnx")
    return Found(folder.config) if _files(folder, ".pt2") else None


def _by_content(folder: ModelFolder, properties: Properties) -> Found:
    if not properties.engine and (found := _inferred(folder, properties)):
        return found
    if not _has_built_in(folder, properties) and (found := find_plain(folder, **_figures(properties))):
        return found
    if _has_built_in(folder, properties):
        return _handled(folder, properties, BUILT_IN)
    raise _nothing(folder)


def _nothing(folder: ModelFolder) -> InvalidArtifactError:
    return folder.refusal(f"it is DJL's and has no {_MODEL_FILE}: add it, or name the file (option.entryPoint)")


def _handled(folder: ModelFolder, properties: Properties, entry: Path | str) -> Found:
    options = {**properties.options, "handler": properties.handler}
    options.pop("entryPoint", None)
    file = entry if isinstance(entry, Path) else None
    if file is None:
        options["entryPoint"] = str(entry)
    handler = folder.handler(
        DIALECT,
        file,
        search_paths(folder, file.parent if file else folder.path),
        # A bare name is DJL's way to say its own interpreter.
        python=properties.python if "/" in properties.python else None,
        options=options,
        tensor_parallel=_ranks(properties, is_built_in=entry in _BUILT_INS),
        devices=tuple(int(each.partition(":")[2]) for each in properties.devices if each != "cpu"),
        **_figures(properties),
    )
    seen = file or folder.find(_MODEL_FILE)
    return Found(folder.config, handler, (folder.shown(seen),) if seen else ())


def _entry_point(folder: ModelFolder, properties: Properties) -> Path | str | None:
    if properties.entry_point:
        return _named(folder, folder.below(properties.entry_point))
    names = {properties.options.get("modelName", ""), folder.path.name, _stem(folder.name)} - {"", "model"}
    if found := next((found for name in sorted(names) if (found := folder.find(f"{name}.py"))), None):
        return found
    file = folder.find(_MODEL_FILE)
    if file is not None and not _answers(file, properties) and _has_built_in(folder, properties):
        return BUILT_IN
    return file


def _named(folder: ModelFolder, wanted: str) -> Path | str:
    if wanted in _BUILT_INS:
        return wanted
    if "://" in wanted:
        raise folder.refusal(f"option.entryPoint is '{wanted}', which is not downloaded: put the file into the folder")
    if wanted.endswith(".py"):
        return folder.named(wanted)
    module = wanted.replace(".", "/")
    if found := folder.find(f"{module}.py") or folder.find(f"{module}/__init__.py"):
        return found
    raise folder.refusal(
        f"option.entryPoint is '{wanted}', neither a file of the folder nor built in: bring the file, or use "
        + " or ".join(_BUILT_INS)
    )


def _answers(file: Path, properties: Properties) -> bool:
    seen = look(file)
    is_there = seen.defines(properties.handler, *TOOLKIT) or not seen.decorators.isdisjoint(_DECORATORS)
    return is_there or seen.may_hide


def _has_built_in(folder: ModelFolder, properties: Properties) -> bool:
    return bool(properties.options.get("model_id")) or folder.find("config.json") is not None


def _stem(name: str) -> str:
    last = PurePosixPath(name).name
    return next((last.removesuffix(suffix) for suffix in ARCHIVE_SUFFIXES if last.endswith(suffix)), last)


def _figures(properties: Properties) -> dict[str, Any]:
    """Return what HandlerSpec has of the properties; None stays open."""
    figures = {name: getattr(properties, name) for name in _FIGURES}
    return figures | {"memory_bytes": properties.wish.needed_bytes or None}


def _idle(properties: Properties, found: Found) -> list[str]:
    """Say what is set and does nothing: in this version, or for a model that is served in process."""
    said: list[str] = []
    if found.handler is not None and found.handler.options.get("entryPoint") in _BUILT_INS:
        said += built_in_warnings(found.handler.options)
    if len(properties.devices) > 1 and (found.handler is None or found.handler.tensor_parallel is None):
        said.append(f"{FILE_NAME}: of load_on_devices only {properties.devices[0]} is used in this version.")
    if found.handler is None and (properties.is_group or (properties.tensor_parallel or 1) != 1):
        said.append(f"{FILE_NAME} asks for a group of ranks, and a model that is served in process has none.")
    return [*said, *(in_process_warnings(properties.keys) if found.handler is None else ())]


def _wish(properties: Properties, found: Found) -> MemoryWish:
    """Return what is wanted of memory; of the host a handler has its own figure, which wharf.toml may correct."""
    return properties.wish if found.handler is None else replace(properties.wish, needed_bytes=0)
