"""What a folder is: which format it holds, which file, who handles it, and what its small configuration adds.

Folders that hold one folder are followed down. Then, the first that applies:

1. fake.json is a fake, for load tests.
2. wharf.toml and config.pbtxt, wharf.toml's word first: the format or the file that they name is believed.
3. to 6. A handler, which runs in workers: Triton's Python, DJL's, SageMaker's, plain files (`handlers`).
7. What is served in process: `model.*`, else the only model file; in the folder, else in its highest version. Python
   beside it that would change its answers, and that no dialect knows, is refused.

A config.pbtxt may want several versions at once, and a folder of models may hold an ensemble with its members: those
are `parts` of the one model.

What a file holds is told from its bytes, without unpickling, torch or a runtime; Python is read as text and never run.
Nothing is ever written. `source` calls `describe` once the artifact is on disk; `wharf validate` prints what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from serving.devices import NOWHERE, Placement
from serving.errors import InvalidArtifactError
from serving.repository.bundle import Bundle, find_bundle
from serving.repository.config_pbtxt import ENSEMBLE, PYTHON, TRITON, read_config_pbtxt, warnings_of
from serving.repository.ensemble_steps import read_steps
from serving.repository.folders import (
    check_readable,
    descend,
    files_below,
    listing,
    model_files,
    total_bytes,
    version_folders,
)
from serving.repository.formats import check_whole, format_of
from serving.repository.handler_spec import HandlerSpec
from serving.repository.handlers import find_handler
from serving.repository.memory_wish import NO_WISH, MemoryWish
from serving.repository.model_config import ModelConfig
from serving.repository.model_folder import Found, ModelFolder
from serving.repository.onnx_files import external_files
from serving.repository.plain_files import KERAS, plain_dialect
from serving.repository.sagemaker_layout import holds_tensorflow
from serving.repository.saved_model_layout import SAVED_MODEL
from serving.repository.scheduling import Scheduling
from serving.repository.surroundings import Surroundings
from serving.repository.unserved import advice_for, python_among
from serving.repository.versions import UNVERSIONED, VersionPolicy, other_versions
from serving.repository.warmup import WarmupSample
from serving.repository.wharf_toml import read_wharf_toml
from serving.repository.worker_config import WorkerConfig
from serving.tensors import TensorSpec

WORKER = "worker"
"""The format of every model that has a handler: the key of the backend that runs workers."""

TENSORFLOW = "tensorflow"
"""The same for workers that run TensorFlow, which are forked from a zygote that has it."""

NO_SURROUNDINGS = Surroundings()

_SUFFIXES = {"torchscript": ".pt", "torch_export": ".pt2", "onnx": ".onnx"}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a folder (or a single file) is served as.

    `format` names the backend's key: "torchscript", "torch_export", "onnx", "fake", or "worker" or "tensorflow" for a
    model with a `handler`. `inputs` and `outputs` are None where the configuration leaves them to the model. `bytes` is
    the size of the model's files (weights; all files of the folder where it has a handler), in bytes. `warnings` are
    sentences about what somebody set and nobody acts on. `version` is the name of the version's folder. A model with a
    config.pbtxt has that whole, as JSON, in `triton`, what it says of queues and batches in `scheduling`, and what
    is to be run before it is ready in `warmup`. `versions` are the others that are served beside it, ascending;
    `members` are an ensemble's own, `labels` names of versions. `folder` is that of a model of tritonserver's, whose
    `file` is its config.pbtxt.
    `placement` are the devices that it was given room on, which the loader writes in. `wish` is the memory that it asks
    for itself.
    """

    name: str
    format: str
    file: Path
    bytes: int
    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None
    threads: int | None = None
    optimize: bool = True
    device: str | None = None
    sources: tuple[str, ...] = ()
    handler: HandlerSpec | None = None
    warnings: tuple[str, ...] = ()
    version: str = "1"
    scheduling: Scheduling | None = None
    triton: Mapping[str, Any] | None = None
    warmup: tuple[WarmupSample, ...] = ()
    versions: tuple[ModelSpec, ...] = ()
    members: tuple[ModelSpec, ...] = ()
    folder: Path | None = None
    placement: Placement = NOWHERE
    labels: Mapping[str, str] | None = None
    wish: MemoryWish = NO_WISH

    @property
    def parts(self) -> tuple[ModelSpec, ...]:
        """What is loaded with it and goes with it."""
        return (*self.versions, *self.members)

    def placed(self, placement: Placement) -> ModelSpec:
        """Return this spec, its parts too, on the devices of `placement`."""
        return replace(
            self,
            placement=placement,
            versions=tuple(each.placed(placement) for each in self.versions),
            members=tuple(each.placed(placement) for each in self.members),
        )


def describe(  # noqa: PLR0913  the last four by name alone
    name: str,
    path: Path,
    *,
    allow_fake: bool = False,
    within: Path = Path("/"),
    surroundings: Surroundings = NO_SURROUNDINGS,
    config_file: Path | None = None,
) -> ModelSpec:
    """Say what `path` is served as.

    Only files that lie, links followed, inside `within` are looked at. `config_file` is one that is used instead of the
    folder's config.pbtxt, wherever it lies.
    Raises `InvalidArtifactError` that lists what was found and what was wanted.
    """
    check_readable(path, within)
    if not path.is_dir():
        _refuse_config(name, "a single file", config_file)
        return _describe_file(name, path, within)
    folder = descend(path)
    check_readable(folder, within)
    if (folder / "fake.json").is_file():  # 1
        _refuse_config(name, "a fake", config_file)
        check_readable(folder / "fake.json", within)
        return _fake(name, folder / "fake.json", allow_fake)
    if bundle := find_bundle(name, folder, within):
        _refuse_config(name, "an ensemble with its members", config_file)
        return _bundle(name, bundle, within, surroundings)
    config, workers, sources = _config(name, folder, within, surroundings, config_file)
    place = ModelFolder(name, folder, within, config, workers, surroundings.environ, surroundings.device)
    if config.format == ENSEMBLE:
        return _ensemble(place, config, config_file or folder / "config.pbtxt")
    if config.format == TRITON:
        return _tritons(place, config, config_file or folder / "config.pbtxt")
    spec = _describe_folder(place, sources)
    if place.version is None or not spec.file.is_relative_to(place.version):
        return _labelled(spec, config)
    others = (replace(config, versions=VersionPolicy(0, (each,))) for each in other_versions(folder, config.versions))
    spec = replace(spec, versions=tuple(_describe_folder(replace(place, config=each), sources) for each in others))
    return _labelled(spec, config)


def _labelled(spec: ModelSpec, config: ModelConfig) -> ModelSpec:
    """Add the names of versions; raises `InvalidArtifactError` for one of a version that is not served."""
    labels = {name: str(version) for name, version in (config.labels or {}).items()}
    served = [each.version for each in (*spec.versions, spec)]
    for name, version in labels.items():
        if version not in served:
            raise InvalidArtifactError(
                f"wharf.toml of '{spec.name}' has the label {name} = {version}, and the versions that are served are "
                f"{', '.join(served)}: name one of those, or serve it (version_policy in config.pbtxt)."
            )
    return replace(spec, labels=labels)


def _tritons(place: ModelFolder, config: ModelConfig, file: Path) -> ModelSpec:
    """Return a model of tritonserver's, which loads the versions that its policy wants; the highest is asked for."""
    others = other_versions(place.path, config.versions)
    size_bytes = _served_bytes(place, *others)
    spec = ModelSpec(
        *(place.name, TRITON, file, size_bytes, config.inputs, config.outputs), sources=(file.name,), folder=place.path
    )
    left_out = (
        f"config.pbtxt of '{place.name}' sets version_policy for more than one version: tritonserver loads them, and "
        f"{', '.join(map(str, others))} cannot be asked for here.",
    )
    spec = _as_triton_says(place, replace(spec, warnings=left_out if others else ()))
    return replace(spec, version=place.version.name if place.version is not None else UNVERSIONED)


def _served_bytes(place: ModelFolder, *others: int) -> int:
    """Sum the sizes of a folder's files without the versions that are not served."""
    served = {place.version.name if place.version is not None else "", *map(str, others)}
    idle = (total_bytes(each) for each in version_folders(place.path) if each.name not in served)
    return total_bytes(place.path) - sum(idle)


def _bundle(name: str, bundle: Bundle, within: Path, surroundings: Surroundings) -> ModelSpec:
    """Return the ensemble of an archive, its members named below it: they are nobody else's."""
    entry, *members = (
        describe(each.name, each, within=within, surroundings=surroundings) for each in (bundle.entry, *bundle.members)
    )
    idle = tuple(
        f"The folder '{each}' of '{name}' is no step of its ensemble: it is not loaded." for each in bundle.idle
    )
    named = tuple(_renamed(each, f"{name}/{each.name}") for each in members)
    return replace(entry, name=name, members=named, warnings=(*entry.warnings, *idle))


def _renamed(spec: ModelSpec, name: str) -> ModelSpec:
    return replace(spec, name=name, versions=tuple(_renamed(each, name) for each in spec.versions))


def _describe_folder(place: ModelFolder, sources: tuple[str, ...]) -> ModelSpec:
    """Say what one version of a folder is served as."""
    found = find_handler(place) or Found(place.config)  # 2 to 6
    sources += found.sources
    if found.handler is not None:
        file = found.handler.file or place.path / sources[-1]
        return _as_triton_says(place, _worker_spec(place.name, file, _served_bytes(place), found, sources))
    file = _model_file(place, found.config)  # 7
    found = replace(found, warnings=(*found.warnings, *_idle(place.workers)))
    return _as_triton_says(place, _spec(place.name, file, place.within, found, sources))


def _refuse_config(name: str, what: str, config_file: Path | None) -> None:
    if config_file is not None:
        raise InvalidArtifactError(f"Model '{name}' is {what} and takes no configuration: load it without one.")


def _ensemble(place: ModelFolder, config: ModelConfig, file: Path) -> ModelSpec:
    """Return an ensemble, whose members are other models; its steps are looked at here, who they name at the load."""
    inputs, outputs = config.inputs or (), config.outputs or ()
    scheduling = (config.triton or {}).get("ensemble_scheduling") or {}
    read_steps(place.name, scheduling, [each.name for each in inputs], [each.name for each in outputs])
    spec = ModelSpec(place.name, ENSEMBLE, file, file.stat().st_size, inputs, outputs, sources=(file.name,))
    return _as_triton_says(place, spec)


def _as_triton_says(place: ModelFolder, spec: ModelSpec) -> ModelSpec:
    """Add the version, and what a config.pbtxt says besides."""
    config, version = place.config, place.version
    is_python = spec.handler is not None and spec.handler.dialect == PYTHON
    warnings = warnings_of(place.name, config, is_python=is_python)
    return replace(
        spec,
        version=version.name if version is not None and spec.file.is_relative_to(version) else UNVERSIONED,
        triton=config.triton,
        scheduling=config.scheduling,
        warmup=config.warmup or (),
        warnings=(*spec.warnings, *warnings),
    )


def _describe_file(name: str, file: Path, within: Path) -> ModelSpec:
    dialect = plain_dialect(file.name)
    if dialect is None:
        return _spec(name, file, within, Found(ModelConfig()), ())
    check_whole(name, file)
    found = Found(ModelConfig(), HandlerSpec(dialect, file.parent, file))  # nothing beside it belongs to it
    return _worker_spec(name, file, file.stat().st_size, found, (file.name,))


def _fake(name: str, file: Path, is_allowed: bool) -> ModelSpec:
    if not is_allowed:
        raise InvalidArtifactError(
            f"Model '{name}' is a fake (fake.json) for load tests: set WHARF_FAKE_BACKEND=true to serve it."
        )
    return ModelSpec(name, "fake", file, file.stat().st_size, sources=("fake.json",))


def _config(
    name: str, folder: Path, within: Path, surroundings: Surroundings, config_file: Path | None
) -> tuple[ModelConfig, WorkerConfig, tuple[str, ...]]:
    config, workers, sources = ModelConfig(), WorkerConfig(), []
    if (file := folder / "wharf.toml").exists():
        check_readable(file, within)
        config, workers = read_wharf_toml(file)
        sources.append(file.name)
    if (file := config_file or folder / "config.pbtxt").exists():
        if config_file is None:
            check_readable(file, within)
        device, given_away = config.device or surroundings.device, surroundings.triton_backends
        config = config.over(read_config_pbtxt(name, file, device, given_away, folder))
        sources.append(file.name)
    return config, workers, tuple(sources)


def _model_file(folder: ModelFolder, config: ModelConfig) -> Path:
    if config.file is not None:
        return folder.named(config.file)
    found = model_files(folder.path)
    version = folder.version
    if not found and version is not None:
        version = descend(version)
        check_readable(version, folder.within)
        found = model_files(version)
    if config.format is None:
        _refuse_python(folder)
    if not found:
        raise _nothing(folder.name, folder.path)
    if config.format is not None:
        found = [each for each in found if each.suffix == _SUFFIXES[config.format]] or found
    found = [each for each in found if each.stem == "model"] or found
    if len(found) > 1:
        names = ", ".join(folder.shown(each) for each in found[:10])
        raise InvalidArtifactError(
            f"Model '{folder.name}' has {len(found)} model files ({names}): keep one, or name it in a wharf.toml "
            "(file = ...)."
        )
    return found[0]


def _refuse_python(folder: ModelFolder) -> None:
    nearest = [each for each in _relative_names(folder.path) if each.count("/") < 2]  # not what a library below holds
    if advice := python_among(nearest):
        raise folder.refusal(advice)


def _nothing(name: str, folder: Path) -> InvalidArtifactError:
    wanted = (
        "model.onnx, model.pt (TorchScript), model.pt2 (torch.export), saved_model.pb (TensorFlow), code/inference.py "
        "(SageMaker), a model.py (DJL, Triton), .joblib (scikit-learn), XGBoost's, LightGBM's or Keras' file, or "
        "config.json and .safetensors (Hugging Face)"
    )
    if advice := advice_for(_relative_names(folder)):
        return InvalidArtifactError(f"Model '{name}' cannot be served: {advice}. Served are {wanted}.")
    return InvalidArtifactError(f"Model '{name}' holds no model: found {listing(folder)}, wanted {wanted}.")


def _relative_names(folder: Path) -> list[str]:
    return [str(each.relative_to(folder)) for each in files_below(folder)]


def _worker_spec(name: str, file: Path, size_bytes: int, found: Found, sources: tuple[str, ...]) -> ModelSpec:
    return ModelSpec(
        name,
        TENSORFLOW if _runs_tensorflow(found.handler) else WORKER,
        file,
        size_bytes,
        found.config.inputs,
        found.config.outputs,
        found.config.threads,
        found.config.optimize is not False,
        found.config.device,
        tuple(dict.fromkeys(sources)),
        found.handler,
        found.warnings,
        wish=found.wish,
    )


def _runs_tensorflow(handler: HandlerSpec | None) -> bool:
    """Say whether a handler wants TensorFlow imported, by its dialect or for the model beside a script."""
    if handler is None or handler.python is not None:  # an interpreter of its own imports for itself
        return False
    is_script = handler.dialect == "tensorflow" and holds_tensorflow(handler.folder)
    return is_script or handler.dialect in (SAVED_MODEL, KERAS)


def _idle(workers: WorkerConfig) -> tuple[str, ...]:
    idle = [each.name for each in fields(workers) if getattr(workers, each.name)]
    return (f"wharf.toml sets {', '.join(idle)}, which a model that is served in process has not.",) if idle else ()


def _spec(name: str, file: Path, within: Path, found: Found, sources: tuple[str, ...]) -> ModelSpec:
    config = found.config
    check_readable(file, within)
    format_ = format_of(name, file, config.format)
    files = (file, *external_files(file)) if format_ == "onnx" else (file,)
    for each in files:
        check_readable(each, within)
    return ModelSpec(
        name,
        format_,
        file,
        sum(each.stat().st_size for each in files),
        config.inputs,
        config.outputs,
        config.threads,
        config.optimize is not False,
        config.device,
        (*sources, *(each.name for each in files)),
        warnings=found.warnings,
        wish=found.wish,
    )
