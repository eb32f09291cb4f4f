"""What came with a load: a configuration, and files, that a model is served from instead of its own.

Each is a folder below the cache folder, charged to its disk budget: `config/config.pbtxt`, and `model/<name>/` where
files came. Nothing is ever written below the model root. The folder's path is the url that the model is loaded from, so
that an eviction, a restart of the server process and a list of what is loaded all know it by that. It goes when nobody
holds it and nobody would load from it any more. Called by `source`.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serving.errors import BadRequestError, InsufficientDiskError, LoadFailedError, ModelNotFoundError, ServingError
from serving.repository.limits import Meter
from serving.repository.members import Kind, Member
from serving.repository.store import Charge, Store, tree_bytes
from serving.repository.triton_schema import json_to_text
from serving.repository.unpack import write

log = logging.getLogger("wharf.repository")

_FOLDER = "loads"
_CONFIG = "config/config.pbtxt"
_MODEL = "model"


@dataclass(frozen=True, slots=True)
class Override:
    """What a client sent: the text of a `ModelConfig` as JSON, and files by their paths in the model's folder."""

    config: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Kept:
    charge: Charge
    pins: int = 0


class Hold:
    """Keeps an override on disk until `release`; a second release does nothing."""

    def __init__(self, url: str, release: Callable[[str], None]) -> None:
        self.url = url
        self._release: Callable[[str], None] | None = release

    @property
    def config(self) -> Path:
        """The configuration that came."""
        return Path(self.url) / _CONFIG

    @property
    def model(self) -> Path | None:
        """The folder of the files that came, None where only a configuration did."""
        folder = Path(self.url) / _MODEL
        return next(folder.iterdir()) if folder.is_dir() else None

    def release(self) -> None:
        """Let it go, if nobody else wants it."""
        release, self._release = self._release, None
        if release is not None:
            release(self.url)


class Overrides:
    """All overrides of a server; methods may be called from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self.is_wanted: Callable[[str], bool] = lambda _url: False
        """Whether a model may yet be loaded from a url; the manager knows. It is asked under this room's lock."""

    def add(self, name: str, override: Override) -> Hold:
        """Write an override of model `name` to disk and hold it.

        Raises `BadRequestError` for files without a configuration, `InvalidArtifactError` for a configuration that
        cannot be parsed and for a path that leads out, `InsufficientDiskError`, `LoadFailedError` when the disk fails.
        """
        if override.config is None:
            raise BadRequestError("files came with the load and no config: send the model's configuration with them.")
        text = json_to_text(override.config, "the config of the load")
        members = list(_members(name, text, override.files))
        self._store.own()
        url, charge = str(self._store.folder / _FOLDER / secrets.token_hex(16)), self._store.charge(name)
        meter = Meter(name, sum(map(len, override.files.values())), self._store.limits, noun="The load of")
        try:
            Path(url).mkdir(mode=0o700, parents=True)
            write(members, Path(url), meter, charge.add)
        except BaseException as error:
            shutil.rmtree(url, ignore_errors=True)
            charge.give_back()
            if isinstance(error, OSError):
                raise LoadFailedError(
                    f"what came with the load of '{name}' cannot be written to '{self._store.folder}' "
                    f"({error.strerror}): set WHARF_CACHE_DIR to a writable folder."
                ) from error
            raise
        with self._lock:
            self._kept[url] = _Kept(charge, pins=1)
        return Hold(url, self._release)

    def hold(self, url: str) -> Hold | None:
        """Hold the override that `url` is, None where it is none. Raises `ModelNotFoundError` for one that is gone."""
        if not self.is_one(url):
            return None
        with self._lock:
            self.check(url)
            self._kept[url].pins += 1
        return Hold(url, self._release)

    def check(self, url: str) -> Path:
        """Return the folder of an override; raise `ModelNotFoundError` for one that is gone."""
        if url not in self._kept or not (Path(url) / _CONFIG).is_file():
            raise ModelNotFoundError("What came with the load of this model is gone: load it again.")
        return Path(url)

    def is_one(self, url: str) -> bool:
        """Say whether a url is that of an override, there or gone."""
        return Path(url).parent == self._store.folder / _FOLDER

    def adopt(self, urls: Iterable[str]) -> None:
        """Take over those of an earlier server process that are to be loaded again, and remove all others."""
        wanted = set(urls)
        with contextlib.suppress(ServingError, OSError):  # a cache folder of somebody else's, or none
            if not (self._store.folder / _FOLDER).is_dir():
                return
            self._store.own()
            for folder in list((self._store.folder / _FOLDER).iterdir()):
                if str(folder) in self._kept:
                    continue
                if str(folder) not in wanted:
                    shutil.rmtree(folder, ignore_errors=True)
                    continue
                self._adopt(folder)

    def _adopt(self, folder: Path) -> None:
        charge = self._store.charge(folder.name)
        try:
            charge.add(tree_bytes(folder))
        except InsufficientDiskError as error:  # the budget is smaller than it was; the others may fit
            log.warning("event=override_removed folder=%s reason=%r", folder, error.message)
            charge.give_back()
            shutil.rmtree(folder, ignore_errors=True)
        else:
            self._kept[str(folder)] = _Kept(charge)

    def _release(self, url: str) -> None:
        with self._lock:
            self._kept[url].pins -= 1
        self.sweep()

    def sweep(self) -> None:
        """Remove what neither a hold nor a model keeps."""
        with self._lock:
            gone = {url: kept for url, kept in self._kept.items() if not kept.pins and not self.is_wanted(url)}
            for each in gone:
                del self._kept[each]
        for each, kept in gone.items():
            shutil.rmtree(each, ignore_errors=True)
            kept.charge.give_back()


def _members(name: str, text: str, files: Mapping[str, bytes]) -> Iterator[Member]:
    yield Member(_CONFIG, Kind.FILE, chunks=[text.encode()])
    if not files:
        return
    folder = f"{_MODEL}/{name.rpartition('/')[2]}"
    for path, content in files.items():
        if path.startswith("/") or ".." in path.split("/"):  # told of the path that came, not of ours
            raise BadRequestError(f"the file {path!a:.80} leads out of the model's folder: send paths below it.")
        if path != "config.pbtxt":  # the config that came is the one
            yield Member(f"{folder}/{path}", Kind.FILE, chunks=[content])
    yield Member(f"{folder}/config.pbtxt", Kind.FILE, chunks=[text.encode()])
