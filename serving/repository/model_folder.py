"""A model's folder while it is found out who handles it: its files, what was configured, and what the server was told.

Every path that leaves this room lies, links followed, where the repository allows; nothing is opened here. The rooms
of the dialects (`sagemaker_layout`, `djl_layout`, `triton_layout`, `plain_layout`) look for their files in it and make
their `HandlerSpec` with it; `layouts` makes one of each folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from serving.errors import InvalidArtifactError
from serving.repository.folders import check_readable, listing, model_file, saved_model_file
from serving.repository.handler_spec import HandlerSpec
from serving.repository.limits import quoted
from serving.repository.memory_wish import NO_WISH, MemoryWish
from serving.repository.model_config import ModelConfig
from serving.repository.versions import served_version
from serving.repository.worker_config import WorkerConfig

_REQUIREMENTS = "requirements.txt"
RANKED = ("djl", "huggingface", "sagemaker")
"""The dialects whose models know what to do with a rank."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a room found: a handler, or, without one, how the folder is served in process.

    `config` is the model's configuration, completed; `sources` are the files that decided; `warnings` are sentences
    about what was set and does nothing; `wish` is the memory that it asks for.
    """

    config: ModelConfig
    handler: HandlerSpec | None = None
    sources: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    wish: MemoryWish = NO_WISH


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Folder `path` of model `name`; `environ` is the server's environment as far as it may steer models.

    `device` is where models run that do not say it.
    """

    name: str
    path: Path
    within: Path
    config: ModelConfig = field(default_factory=ModelConfig)
    workers: WorkerConfig = field(default_factory=WorkerConfig)
    environ: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"

    @property
    def version(self) -> Path | None:
        """The folder of the version to serve, None where there are none; raises for one that is not there."""
        return served_version(self.name, self.path, self.config.versions)

    def find(self, relative: str) -> Path | None:
        """Return the file `relative`, None where there is none or the name leads out of the folder.

        Raises `InvalidArtifactError` for one that may not be read or is a link out of the repository.
        """
        pure = PurePosixPath(relative)
        path = self.path / pure
        if "\0" in relative or pure.is_absolute() or ".." in pure.parts or not os.path.lexists(path) or path.is_dir():
            return None
        check_readable(path, self.within)
        return path

    def named(self, wanted: str) -> Path:
        """Return the file that a configuration names, in the folder or in the version that is served.

        Raises `InvalidArtifactError` for one that is missing or outside the folder.
        """
        for base in (self.path, self.version):
            if base is None:
                continue
            found = base / wanted
            if "\0" in wanted or not os.path.realpath(found).startswith(os.path.realpath(self.path) + "/"):
                raise InvalidArtifactError(
                    f"Model '{self.name}' names the file {quoted(wanted)}, outside its folder: name one inside."
                )
            # Triton's folder x.onnx/model.onnx, or a SavedModel.
            found = model_file(found) or saved_model_file(found) or found
            if os.path.isfile(found):  # noqa: PTH113  false, not an error, for a name that is too long
                check_readable(found, self.within)
                return found
        raise InvalidArtifactError(
            f"Model '{self.name}' names the file {quoted(wanted)}, which is not there; found {listing(self.path)}: "
            "correct the name."
        )

    def below(self, value: str) -> str:
        """Return `value` relative to this folder where it names SageMaker's place of a model (/opt/ml/model/...)."""
        place = os.path.join(self.environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml", "model")  # noqa: PTH118  text
        value = value.removeprefix("file://")
        return value.removeprefix(place).lstrip("/") if value == place or value.startswith(place + "/") else value

    def refusal(self, fault: str) -> InvalidArtifactError:
        """Return the error for this model; `fault` ends with the next step."""
        return InvalidArtifactError(f"Model '{self.name}' cannot be served: {fault}.")

    def shown(self, path: Path) -> str:
        """Return `path` relative to this folder."""
        return str(path.relative_to(self.path)) if path.is_relative_to(self.path) else str(path)

    def handler(
        self, dialect: str, file: Path | None, paths: Iterable[Path] = (), python: str | None = None, **said: Any
    ) -> HandlerSpec:
        """Make the handler: `said` are the fields that the dialect's own files set, over which wharf.toml's word goes.

        Of `paths` those stay that are folders; requirements.txt lies beside the file or in this folder. Raises
        `InvalidArtifactError` for figures that contradict each other and for a `python` that is not there.
        """
        mine = self.workers
        figures = {"min_workers", "max_workers", "batch_size", "memory_bytes", "tensor_parallel"}
        figures |= {"predict_timeout_s", "load_timeout_s"}
        known = {key: value for key, value in said.items() if value is not None}
        known |= {key: value for key in figures if (value := getattr(mine, key)) is not None}
        known["options"] = {**known.get("options", {}), **mine.options}
        known["environ"] = {**known.get("environ", {}), **mine.environ}
        spec = HandlerSpec(dialect, self.path, file, **known)
        if spec.min_workers is not None and spec.max_workers is not None and spec.min_workers > spec.max_workers:
            raise self.refusal(
                f"it wants at least {spec.min_workers} and at most {spec.max_workers} workers: correct one of them"
            )
        if spec.tensor_parallel is not None and dialect not in RANKED:
            raise self.refusal(
                f"it is {dialect}'s and wants tensor_parallel_degree={spec.tensor_parallel}, and groups of ranks are "
                f"for {', '.join(RANKED)}: take the degree away, or serve it by one of those"
            )
        wanted = mine.python or python
        return replace(
            spec,
            paths=self._folders(paths),
            requirements=self._requirements(file),
            python=self._interpreter(wanted) if wanted else None,
        )

    def _folders(self, paths: Iterable[Path]) -> tuple[Path, ...]:
        found = list(dict.fromkeys(path for path in paths if path.is_dir()))
        for path in found:
            check_readable(path, self.within)
        return tuple(found)

    def _requirements(self, file: Path | None) -> Path | None:
        bases = [self.path] if file is None or not file.is_relative_to(self.path) else [file.parent, self.path]
        return next((found for base in bases if (found := self.find(self.shown(base / _REQUIREMENTS)))), None)

    def _interpreter(self, wanted: str) -> Path:
        """Return an environment, or an interpreter: in an environment that is a link to the machine's own."""
        path = self.path / self.below(wanted)
        check_readable(path.parent if path.parent.name == "bin" else path, self.within)
        if not os.path.lexists(path):
            raise self.refusal(f"its Python '{path.name}' is not there: correct the path to it")
        return path
