"""Unpacked archives on disk: content-addressed, unpacked once, pinned while in use, evicted by least recent use.

An archive is unpacked into a private folder beside its place and renamed when it is whole, so that what has a digest's
name is complete. A folder or a model file is handed out as it lies. The store knows no formats of models; `source`
opens an artifact before a load, and it is released when the model is gone. One process owns a cache folder, by a lock
that ends with the process; opening an archive, not the start, fails where the folder cannot be had.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import TracebackType

from serving.errors import (
    InsufficientDiskError,
    InvalidArtifactError,
    LoadFailedError,
    ModelNotFoundError,
    ServingError,
)
from serving.ledger import format_bytes
from serving.repository.archives import ArchiveKind, archive_kind
from serving.repository.keyed_locks import KeyedLocks
from serving.repository.limits import Meter, UnpackLimits
from serving.repository.owned_folder import lock_folder
from serving.repository.unpack import DISK_BLOCK_BYTES, DiskFullError, on_disk, unpack

__all__ = ["Opened", "Store", "UnpackLimits"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_LEFTOVER = ".wharf-"
_LOCK = ".wharf-lock"

_DIGESTS_MAX = 4096
"""Remembered digests: some 300 bytes each, more than any repository has archives."""

_SETTLED_NS = 2_000_000_000
"""A file that changed less than this ago may change again within one tick of its time stamp: it is hashed again."""


@dataclass(frozen=True, slots=True)
class _Identity:
    """What tells that a file is still the one that was hashed."""

    path: Path
    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path, file: BufferedReader) -> _Identity:
        stat = os.fstat(file.fileno())
        return cls(path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    @property
    def is_settled(self) -> bool:
        return time.time_ns() - max(self.modified_ns, self.changed_ns) > _SETTLED_NS


@dataclass(slots=True)
class _Entry:
    bytes: int
    pins: int = 0


class Opened:
    """An artifact on disk that stays there until `release`; also a context manager."""

    def __init__(self, path: Path, digest: str | None = None, store: Store | None = None) -> None:
        self.path = path
        self.digest = digest
        self._store = store

    def release(self) -> None:
        """Let the store evict it; a second call does nothing."""
        store, self._store = self._store, None
        if store is not None and self.digest is not None:
            store._unpin(self.digest)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


class Store:
    """A cache folder with a budget in bytes; all methods may be called from any thread."""

    def __init__(self, cache_dir: Path, disk_budget_bytes: int, limits: UnpackLimits | None = None) -> None:
        self.folder = cache_dir
        self._budget_bytes = disk_budget_bytes
        self.limits = limits or UnpackLimits()
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first
        self._used_bytes = 0
        self._digests: OrderedDict[_Identity, str] = OrderedDict()
        self._one_at_a_time = KeyedLocks()
        self._owner: weakref.finalize[[int], Store] | None = None
        if cache_dir.exists():
            with contextlib.suppress(ServingError):
                self.own()

    @property
    def budget_bytes(self) -> int:
        """What all unpacked archives together may take on disk."""
        return self._budget_bytes

    @property
    def used_bytes(self) -> int:
        """What they take now, half unpacked ones included."""
        with self._lock:
            return self._used_bytes

    def open(self, path: Path) -> Opened:
        """Return a handle on the folder or model file that `path` is or, for an archive, holds.

        Raises `InvalidArtifactError` for what is damaged, refused or unreadable, `ModelNotFoundError` for what is gone,
        `InsufficientDiskError` with both figures when it does not fit, `LoadFailedError` when the disk fails.
        """
        if path.is_dir():
            return Opened(path)
        if path.exists() and not path.is_file():
            raise InvalidArtifactError(f"Artifact '{path.name}' is neither a file nor a folder: give one of them.")
        try:
            with path.open("rb") as file:
                kind = archive_kind(file, path.name)
                return self._open_archive(path, file, kind) if kind else Opened(path)
        except OSError as error:
            raise _unreadable(path, error) from error

    def charge(self, name: str) -> Charge:
        """Return an account of the disk that `name` takes, nothing as yet; for files that others keep in the folder."""
        return Charge(self, name)

    def close(self) -> None:
        """Give the cache folder to the next owner; what is unpacked stays."""
        with self._lock:
            if self._owner is not None:
                self._owner()

    def _open_archive(self, path: Path, file: BufferedReader, kind: ArchiveKind) -> Opened:
        self.own()
        identity = _Identity.of(path, file)
        with self._one_at_a_time.hold(identity):
            digest = self._digest(identity, file)
        with self._one_at_a_time.hold(digest):
            if not self._pin(digest):
                try:
                    self._unpack(digest, identity, file, kind)
                except DiskFullError:
                    if not self._clear():
                        raise
                    self._unpack(digest, identity, file, kind)
        return Opened(self.folder / digest, digest, self)

    def _digest(self, identity: _Identity, file: BufferedReader) -> str:
        with self._lock:
            if identity in self._digests:
                return self._digests[identity]
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if identity.is_settled and _Identity.of(identity.path, file) == identity:
            with self._lock:
                self._digests[identity] = digest
                if len(self._digests) > _DIGESTS_MAX:
                    self._digests.popitem(last=False)
        return digest

    def _unpack(self, digest: str, identity: _Identity, file: BufferedReader, kind: ArchiveKind) -> None:
        """Unpack into a private folder, rename it to its digest and pin it; leave nothing after an error."""
        name = identity.path.name
        self._check_possible(name, identity.size_bytes)
        meter = Meter(name, identity.size_bytes, self.limits)
        charged = self.charge(name)
        folder = self._private_folder()
        try:
            file.seek(0)
            unpack(file, kind, folder, meter, charged.add)
            if _Identity.of(identity.path, file) != identity:
                raise LoadFailedError(f"Archive '{name}' changed while it was read: load it again.")
            with self._lock:
                folder.rename(self.folder / digest)
                self._entries[digest] = _Entry(charged.bytes, pins=1)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            charged.give_back()
            raise

    def _private_folder(self) -> Path:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # cleaners of /tmp take whole folders
            return Path(tempfile.mkdtemp(prefix=f"{_LEFTOVER}unpacking-", dir=self.folder))
        except OSError as error:
            raise self._unusable(error) from error

    def _pin(self, digest: str) -> bool:
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None:
                return False
            if entry.pins == 0 and not (self.folder / digest).is_dir():  # somebody cleaned the folder
                self._used_bytes -= self._entries.pop(digest).bytes
                return False
            entry.pins += 1
            self._entries.move_to_end(digest)
            with contextlib.suppress(OSError):
                os.utime(self.folder / digest)  # the order of use survives a restart
            return True

    def _unpin(self, digest: str) -> None:
        with self._lock:
            self._entries[digest].pins -= 1
            self._entries.move_to_end(digest)

    def _check_possible(self, name: str, packed_bytes: int) -> None:
        """Refuse before any work, and before anybody is evicted in vain, what is too large even packed."""
        with self._lock:
            free_bytes = self._budget_bytes - self._busy_bytes()
        if packed_bytes > free_bytes:
            raise _too_large(name, packed_bytes, self._budget_bytes, free_bytes)

    def _take(self, name: str, so_far_bytes: int, more_bytes: int) -> None:
        """Take `more_bytes` of the budget for an archive that has `so_far_bytes`, evicting who is not in use."""
        with self._lock:
            free_bytes = self._budget_bytes - self._busy_bytes()
            if more_bytes > free_bytes:  # known before anybody is evicted
                raise _too_large(name, so_far_bytes + more_bytes, self._budget_bytes, free_bytes + so_far_bytes)
            self._used_bytes += more_bytes
            victims = self._evict(self._used_bytes - self._budget_bytes)
        for folder in victims:
            shutil.rmtree(folder, ignore_errors=True)

    def _clear(self) -> bool:
        """Remove all that is not in use; say whether there was any."""
        with self._lock:
            victims = self._evict(self._used_bytes)
        for folder in victims:
            shutil.rmtree(folder, ignore_errors=True)
        return bool(victims)

    def _give_back(self, count: int) -> None:
        with self._lock:
            self._used_bytes -= count

    def _busy_bytes(self) -> int:
        """Return what cannot be evicted: in use, or being unpacked."""
        return self._used_bytes - sum(entry.bytes for entry in self._entries.values() if not entry.pins)

    def _evict(self, wanted_bytes: int) -> list[Path]:
        """Take the least recently used entries out of the index and out of their places; the caller removes them."""
        victims = []
        for digest, entry in list(self._entries.items()):
            if wanted_bytes <= 0:
                break
            if not entry.pins:
                victims.append(self._move_away(digest))
                del self._entries[digest]
                wanted_bytes -= entry.bytes
                self._used_bytes -= entry.bytes
        return victims

    def _move_away(self, digest: str) -> Path:
        # The name must be free at once: another thread may unpack the same bytes while these are being removed.
        trash = Path(tempfile.mkdtemp(prefix=f"{_LEFTOVER}trash-", dir=self.folder))
        with contextlib.suppress(FileNotFoundError):
            (self.folder / digest).rename(trash / digest)
        return trash

    def own(self) -> None:
        """Lock the cache folder for this process, sweep what a killed one left and index what it completed."""
        with self._lock:
            if self._owner is not None and self._owner.alive:
                return
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._owner = weakref.finalize(self, os.close, lock_folder(self.folder, _LOCK, "unpacked"))
                self._index()
            except OSError as error:
                raise self._unusable(error) from error

    def _index(self) -> None:
        for left in self.folder.glob(f"{_LEFTOVER}*-*"):
            shutil.rmtree(left, ignore_errors=True)
        folders = [each for each in self.folder.iterdir() if _DIGEST.fullmatch(each.name) and each.is_dir()]
        for folder in sorted(folders, key=lambda each: each.stat().st_mtime_ns):
            self._entries[folder.name] = _Entry(tree_bytes(folder))
        self._used_bytes = sum(entry.bytes for entry in self._entries.values())

    def _unusable(self, error: OSError) -> LoadFailedError:
        return LoadFailedError(
            f"Cache folder '{self.folder}' cannot hold unpacked archives ({error.strerror}): "
            "set WHARF_CACHE_DIR to a writable folder of this server alone."
        )


class Charge:
    """What one unpacking has taken of the budget."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self.bytes = 0

    def add(self, count: int) -> None:
        """Take `count` bytes more, evicting who is not in use; raise `InsufficientDiskError` past the budget."""
        self._store._take(self._name, self.bytes, count)
        self.bytes += count

    def give_back(self) -> None:
        """Give back all of it."""
        self._store._give_back(self.bytes)
        self.bytes = 0


def _too_large(name: str, wanted_bytes: int, budget_bytes: int, free_bytes: int) -> InsufficientDiskError:
    return InsufficientDiskError(
        f"Archive '{name}' needs at least {format_bytes(wanted_bytes)} of disk, and of the budget of "
        f"{format_bytes(budget_bytes)} only {format_bytes(max(0, free_bytes))} are not in use: "
        "unload a model or raise WHARF_DISK_BUDGET."
    )


def _unreadable(path: Path, error: OSError) -> ServingError:
    if isinstance(error, FileNotFoundError):
        return ModelNotFoundError(f"Artifact '{path.name}' is not there: check the model repository.")
    if isinstance(error, PermissionError):
        return InvalidArtifactError(f"Artifact '{path.name}' may not be read by this user: change its mode or owner.")
    return LoadFailedError(f"Artifact '{path.name}' could not be opened ({error.strerror}): check its disk.")


def tree_bytes(folder: Path) -> int:
    """Return what a folder was charged for when it was unpacked, near enough: hard links count again as their file."""
    total = 0
    for at, folders, files in os.walk(folder):
        total += DISK_BLOCK_BYTES * len(folders)
        total += sum(on_disk((Path(at) / name).lstat().st_size) for name in files)
    return total
