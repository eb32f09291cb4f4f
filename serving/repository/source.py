"""Where models come from: names and urls in, an artifact on disk with its spec out.

Puts the pieces of this floor together: `artifact` resolves and locates, `store` unpacks, `layouts` describes;
`overrides` has what came with a load. Everything stays inside the model root (and the folder of a single-model
endpoint, and of what came). Called by `manager`, by `catalog` and, for `wharf validate`, by the command.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from serving.errors import InvalidArtifactError, ModelNotFoundError, ServingError, UnsupportedError
from serving.repository import artifact
from serving.repository.layouts import NO_SURROUNDINGS, ModelSpec, describe
from serving.repository.overrides import Hold, Override, Overrides
from serving.repository.store import Opened, Store
from serving.repository.surroundings import Surroundings

# `wharf validate` unpacks one archive of the user's own; the server's budget does not apply.
_VALIDATE_DISK_BYTES = 100 << 30


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact on disk: what it is served as, and a hold on its files until `release`."""

    spec: ModelSpec
    opened: Opened
    override: Hold | None = None

    def release(self) -> None:
        """Let the store delete the files when it needs the room, and what came with a load when nobody wants it."""
        self.opened.release()
        if self.override is not None:
            self.override.release()


class ModelSource:
    """The model repository below one root, plus the one folder of a single-model endpoint."""

    def __init__(  # noqa: PLR0913  the last four by name alone
        self,
        root: Path,
        store: Store,
        single_dir: Path | None = None,
        *,
        allow_fake: bool = False,
        may_hint: bool = True,
        may_take_files: bool = False,
        surroundings: Surroundings = NO_SURROUNDINGS,
    ) -> None:
        self._root = root
        self._store = store
        self._allow_fake = allow_fake
        self._may_hint = may_hint  # near names in a 404: not where the list itself wants a token
        self._may_take_files = may_take_files  # code of whoever may load
        self._surroundings = surroundings
        self.single_dir = single_dir
        self.overrides = Overrides(store)

    def find(self, name: str) -> tuple[str, str]:
        """Return the canonical name and the url of a model of the repository; raise `ModelNotFoundError`."""
        canonical, path = artifact.locate(self._root, name, may_hint=self._may_hint)
        return canonical, str(path)

    def take(self, name: str, override: Override) -> tuple[str, Hold]:
        """Take in what came with a load of `name`; return the canonical name, and a hold whose url is to be loaded.

        A configuration alone is for a model of the repository, else `ModelNotFoundError`; files are the whole model.
        Raises `UnsupportedError` for files where they are not allowed, and what `Overrides.add` raises.
        """
        if override.files and not self._may_take_files:
            raise UnsupportedError(
                f"Files came with the load of '{name}', and this server runs no code that comes so: set "
                "WHARF_LOAD_FILES to true, or put the model into the repository."
            )
        try:
            canonical, _ = self.find(name)
        except ModelNotFoundError:
            if not override.files:
                raise
            canonical = name
        return canonical, self.overrides.add(canonical, override)

    def available(self) -> list[str]:
        """Return the names of the repository, sorted."""
        return artifact.available(self._root)

    def check(self, url: str) -> Path:
        """Return the path of a url.

        Raise `BadRequestError` outside the root, `ModelNotFoundError` for a missing one.
        """
        if self.single_dir is not None and url == str(self.single_dir):
            return self.single_dir
        if self.overrides.is_one(url):
            return self.overrides.check(url)
        return artifact.resolve(self._root, url)

    def close(self) -> None:
        """Give the store's folder free for another process."""
        self._store.close()

    def size_bytes(self, url: str) -> int:
        """Return the bytes of an artifact as it lies there, archives packed; 0 for one that is not to be had."""
        try:
            path = self.check(url)
            return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())
        except (ServingError, OSError):
            return 0

    def open(self, name: str, url: str) -> Artifact:
        """Unpack if need be and say what it is served as."""
        override = self.overrides.hold(url)
        try:
            if override is None:
                return self._open(name, self.check(url))
            return replace(self._open_override(name, override), override=override)
        except BaseException:
            if override is not None:
                override.release()
            raise

    def _open_override(self, name: str, override: Hold) -> Artifact:
        if override.model is None:
            return self._open(name, Path(self.find(name)[1]), override.config)
        found = self._described(name, Opened(override.model), override.model)
        _check_own_name(found.spec)
        return found

    def _open(self, name: str, path: Path, config_file: Path | None = None) -> Artifact:
        opened = self._store.open(path)
        # Links of a folder may lead anywhere in its root; those of an archive only within what it unpacked to.
        within = opened.path if opened.digest else (self.single_dir if path == self.single_dir else self._root)
        return self._described(name, opened, within or self._root, config_file)

    def _described(self, name: str, opened: Opened, within: Path, config_file: Path | None = None) -> Artifact:
        try:
            spec = describe(
                name,
                opened.path,
                allow_fake=self._allow_fake,
                within=within,
                surroundings=self._surroundings,
                config_file=config_file,
            )
            is_named_here = opened.path == Path(os.path.realpath(self._root / name)) and opened.path.is_dir()
            if config_file is not None or (is_named_here and (opened.path / "config.pbtxt").is_file()):
                _check_own_name(spec)
            return Artifact(spec, opened)
        except BaseException:
            opened.release()
            raise


def _check_own_name(spec: ModelSpec) -> None:
    """Refuse a configuration that has another model's name, as Triton does.

    That is for a folder of the repository and for what comes with a load. Archives, and what is loaded by another name
    than its folder's, as SageMaker does it, may say what they like.
    """
    said = str((spec.triton or {}).get("name", ""))
    if said not in ("", spec.name, spec.name.rpartition("/")[2]):
        raise InvalidArtifactError(
            f"The configuration of '{spec.name}' is for a model '{said}': give it the name of its folder, or none."
        )


def validate(path: Path, surroundings: Surroundings = NO_SURROUNDINGS) -> ModelSpec:
    """Say what `path` (a folder, a model file or an archive) would be served as; raise what a load would raise.

    `surroundings` are the server's. Files of an archive are gone when this returns; their paths still tell.
    """
    if not path.exists():
        raise ModelNotFoundError(f"There is nothing at '{path}': give a model's folder, file or archive.")
    with tempfile.TemporaryDirectory(prefix="wharf-validate-") as folder:
        store = Store(Path(folder), _VALIDATE_DISK_BYTES)
        source = ModelSource(path.parent, store, allow_fake=True, surroundings=surroundings)
        opened = source.open(path.name, str(path.resolve()))
        opened.release()
        return opened.spec
