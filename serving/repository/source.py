"""Where models come from: names and urls in, an artifact on disk with its spec out.

Puts the pieces of this floor together: `artifact` resolves and locates, `store` unpacks, `layouts` describes.
Everything stays inside the model root (and the folder of a single-model endpoint). Called by `manager` and, for `wharf
validate`, by the command.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ModelNotFoundError, ServingError
from serving.repository import artifact
from serving.repository.layouts import NO_ENVIRON, ModelSpec, describe
from serving.repository.store import Opened, Store

# `wharf validate` unpacks one archive of the user's own; the server's budget does not apply.
_VALIDATE_DISK_BYTES = 100 << 30


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact on disk: what it is served as, and a hold on its files until `release`."""

    spec: ModelSpec
    opened: Opened

    def release(self) -> None:
        """Let the store delete the files when it needs the room."""
        self.opened.release()


class ModelSource:
    """The model repository below one root, plus the one folder of a single-model endpoint."""

    def __init__(  # noqa: PLR0913  the last three by name alone
        self,
        root: Path,
        store: Store,
        single_dir: Path | None = None,
        *,
        allow_fake: bool = False,
        may_hint: bool = True,
        environ: Mapping[str, str] = NO_ENVIRON,
    ) -> None:
        self._root = root
        self._store = store
        self._allow_fake = allow_fake
        self._may_hint = may_hint  # near names in a 404: not where the list itself wants a token
        self._environ = environ  # SageMaker's and DJL's variables that steer every model
        self.single_dir = single_dir

    def find(self, name: str) -> tuple[str, str]:
        """Return the canonical name and the url of a model of the repository; raise `ModelNotFoundError`."""
        canonical, path = artifact.locate(self._root, name, may_hint=self._may_hint)
        return canonical, str(path)

    def available(self) -> list[str]:
        """Return the names of the repository, sorted."""
        return artifact.available(self._root)

    def check(self, url: str) -> Path:
        """Return the path of a url.

        Raise `BadRequestError` outside the root, `ModelNotFoundError` for a missing one.
        """
        if self.single_dir is not None and url == str(self.single_dir):
            return self.single_dir
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
        path = self.check(url)
        opened = self._store.open(path)
        # Links of a folder may lead anywhere in its root; those of an archive only within what it unpacked to.
        within = opened.path if opened.digest else (self.single_dir if path == self.single_dir else self._root)
        try:
            spec = describe(
                name, opened.path, allow_fake=self._allow_fake, within=within or self._root, environ=self._environ
            )
            return Artifact(spec, opened)
        except BaseException:
            opened.release()
            raise


def validate(path: Path, environ: Mapping[str, str] = NO_ENVIRON) -> ModelSpec:
    """Say what `path` (a folder, a model file or an archive) would be served as; raise what a load would raise.

    `environ` is the server's environment. Files of an archive are gone when this returns; their paths still tell.
    """
    if not path.exists():
        raise ModelNotFoundError(f"There is nothing at '{path}': give a model's folder, file or archive.")
    with tempfile.TemporaryDirectory(prefix="wharf-validate-") as folder:
        source = ModelSource(path.parent, Store(Path(folder), _VALIDATE_DISK_BYTES), allow_fake=True, environ=environ)
        opened = source.open(path.name, str(path.resolve()))
        opened.release()
        return opened.spec
