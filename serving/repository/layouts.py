"""What a folder is: which format it holds, which file, and what its small configuration adds.

1. Folders that hold one folder are followed down.
2. wharf.toml and config.pbtxt are read where there are any.
3. The model is the file that they name; else `model.*`, else the only one; in the folder, else in its highest version.
4. Python beside a model, which would change its answers, is refused unless the configuration names the file.
5. What the file holds is told from its bytes, without unpickling, torch or a runtime.

Nothing is ever written. `source` calls `describe` once the artifact is on disk; `wharf validate` prints what it says.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from serving.errors import InvalidArtifactError
from serving.repository.config_pbtxt import read_config_pbtxt
from serving.repository.folders import (
    check_readable,
    descend,
    files_below,
    latest_version,
    listing,
    model_files,
)
from serving.repository.formats import format_of
from serving.repository.model_config import ModelConfig
from serving.repository.onnx_files import external_files
from serving.repository.unserved import advice_for, python_among
from serving.repository.wharf_toml import read_wharf_toml
from serving.tensors import TensorSpec

_SUFFIXES = {"torchscript": ".pt", "torch_export": ".pt2", "onnx": ".onnx"}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a folder (or a single file) is served as.

    `format` names the backend's key: "torchscript", "torch_export", "onnx" or "fake". `inputs` and `outputs` are None
    where the configuration leaves them to the model. `bytes` is the size of the model's files (weights), in bytes.
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


def describe(name: str, path: Path, *, allow_fake: bool = False, within: Path = Path("/")) -> ModelSpec:
    """Say what `path` is served as.

    Only files that lie, links followed, inside `within` are looked at.
    Raises `InvalidArtifactError` that lists what was found and what was wanted.
    """
    check_readable(path, within)
    if not path.is_dir():
        return _spec(name, path, within, ModelConfig(), ())
    folder = descend(path)
    check_readable(folder, within)
    if (folder / "fake.json").is_file():
        check_readable(folder / "fake.json", within)
        return _fake(name, folder / "fake.json", allow_fake)
    config, sources = _config(name, folder, within)
    return _spec(name, _model_file(name, folder, within, config), within, config, sources)


def _fake(name: str, file: Path, is_allowed: bool) -> ModelSpec:
    if not is_allowed:
        raise InvalidArtifactError(
            f"Model '{name}' is a fake (fake.json) for load tests: set WHARF_FAKE_BACKEND=true to serve it."
        )
    return ModelSpec(name, "fake", file, file.stat().st_size, sources=("fake.json",))


def _config(name: str, folder: Path, within: Path) -> tuple[ModelConfig, tuple[str, ...]]:
    config, sources = ModelConfig(), []
    if (file := folder / "wharf.toml").exists():
        check_readable(file, within)
        config = config.over(read_wharf_toml(file))
        sources.append(file.name)
    if (file := folder / "config.pbtxt").exists():
        check_readable(file, within)
        config = config.over(read_config_pbtxt(name, file))
        sources.append(file.name)
    return config, tuple(sources)


def _model_file(name: str, folder: Path, within: Path, config: ModelConfig) -> Path:
    version = latest_version(folder)
    if config.file is not None:
        return _named_file(name, folder, version, config.file)
    found = model_files(folder)
    if not found and version is not None:
        version = descend(version)
        check_readable(version, within)
        found = model_files(version)
    _refuse_python(name, folder)
    if not found:
        raise _nothing(name, folder)
    if config.format is not None:
        found = [each for each in found if each.suffix == _SUFFIXES[config.format]] or found
    found = [each for each in found if each.stem == "model"] or found
    if len(found) > 1:
        names = ", ".join(str(each.relative_to(folder)) for each in found[:10])
        raise InvalidArtifactError(
            f"Model '{name}' has {len(found)} model files ({names}): keep one, or name it in a wharf.toml (file = ...)."
        )
    return found[0]


def _named_file(name: str, folder: Path, version: Path | None, wanted: str) -> Path:
    for base in (folder, version):
        if base is None:
            continue
        found = base / wanted
        if "\0" in wanted or not os.path.realpath(found).startswith(os.path.realpath(folder) + "/"):
            raise InvalidArtifactError(
                f"Model '{name}' names the file '{wanted}', outside its folder: name one inside."
            )
        if os.path.isfile(found):  # noqa: PTH113  false, not an error, for a name that is too long
            return found
    raise InvalidArtifactError(
        f"Model '{name}' names the file '{wanted}', which is not there; found {listing(folder)}: correct the name."
    )


def _refuse_python(name: str, folder: Path) -> None:
    nearest = [each for each in _relative_names(folder) if each.count("/") < 2]  # not what a library below holds
    if advice := python_among(nearest):
        raise InvalidArtifactError(f"Model '{name}' cannot be served: {advice}.")


def _nothing(name: str, folder: Path) -> InvalidArtifactError:
    wanted = "model.onnx, model.pt (TorchScript) or model.pt2 (torch.export)"
    if advice := advice_for(_relative_names(folder)):
        return InvalidArtifactError(f"Model '{name}' cannot be served: {advice}. Served are {wanted}.")
    return InvalidArtifactError(f"Model '{name}' holds no model: found {listing(folder)}, wanted {wanted}.")


def _relative_names(folder: Path) -> list[str]:
    return [str(each.relative_to(folder)) for each in files_below(folder)]


def _spec(name: str, file: Path, within: Path, config: ModelConfig, sources: tuple[str, ...]) -> ModelSpec:
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
    )
