"""Writes the members of an archive into an empty folder, safely.

1. Files are created, never opened: a name that exists is refused, so nothing is written over or through anything.
2. Folders are made by us, one by one, and counted; a name below a file or a link is refused.
3. Hard links may point only at a file of this archive that was written before.
4. Symbolic links are made last, when nothing is written any more, and must then lead, links followed, somewhere inside.
5. Modes are 0644 or 0755: setuid, setgid, sticky and foreign write bits are dropped, owners and times are not kept.

The folder is the caller's, private and empty; after an error the caller removes it. `store` calls it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from io import BufferedReader
from pathlib import Path

from serving.errors import InsufficientDiskError, LoadFailedError, ServingError
from serving.repository.archives import ArchiveKind
from serving.repository.limits import Meter, quoted
from serving.repository.members import Kind, Member, safe_parts
from serving.repository.tarball import gzip_members, tar_members
from serving.repository.zipball import zip_members

DISK_BLOCK_BYTES = 4096
"""What a file or folder takes at least; ext4's, xfs' and overlayfs' default."""

_READERS = {ArchiveKind.GZIP: gzip_members, ArchiveKind.TAR: tar_members, ArchiveKind.ZIP: zip_members}

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(InsufficientDiskError):
    """The disk itself is full, whatever the budget says."""


def unpack(file: BufferedReader, kind: ArchiveKind, folder: Path, meter: Meter, charge: Callable[[int], None]) -> None:
    """Write what `file` holds into the empty `folder`, calling `charge` with bytes of disk before they are used.

    Raises `InvalidArtifactError` for anything wrong with the archive, `DiskFullError` for a full disk,
    `LoadFailedError` for other failures of the disk, and what `charge` raises.
    """
    write(_READERS[kind](file, meter), folder, meter, charge)


def write(members: Iterable[Member], folder: Path, meter: Meter, charge: Callable[[int], None]) -> None:
    """Write `members` into the empty `folder`; as `unpack` else."""
    tree = _Tree(folder, meter, charge)
    try:
        for member in members:
            tree.add(member)
        tree.link()
    except ServingError:
        raise
    except OSError as error:
        raise _disk_error(error, meter) from error
    except Exception as error:  # gzip, zlib, zipfile and struct raise a dozen types for damaged bytes
        raise _damaged(error, meter) from error


def _damaged(error: Exception, meter: Meter) -> ServingError:
    return meter.refusal(f"is damaged or cut short ({type(error).__name__}: {error})", "copy or pack it again")


def _disk_error(error: OSError, meter: Meter) -> ServingError:
    if error.errno in _DISK_FULL:
        return DiskFullError(
            f"{meter.noun} '{meter.archive}' does not fit the disk ({error.strerror}): unload a model, free space "
            "below WHARF_CACHE_DIR or lower WHARF_DISK_BUDGET under what the disk has."
        )
    if error.errno in (None, errno.EINVAL):  # BadGzipFile, and seeks that damaged offsets ask for
        return _damaged(error, meter)
    return LoadFailedError(
        f"{meter.noun} '{meter.archive}' could not be unpacked ({error.strerror}): check the disk of WHARF_CACHE_DIR."
    )


class _Tree:
    def __init__(self, root: Path, meter: Meter, charge: Callable[[int], None]) -> None:
        self._root = root
        self._meter = meter
        self._charge = charge
        self._kinds: dict[tuple[str, ...], Kind] = {(): Kind.FOLDER}
        self._links: list[tuple[tuple[str, ...], str]] = []

    def add(self, member: Member) -> None:
        parts = safe_parts(member.name, self._meter)
        if member.kind is Kind.FOLDER:
            self._make_folders(parts)
            return
        self._make_folders(parts[:-1])
        self._claim(parts, member.kind)
        if member.kind is Kind.FILE:
            self._write(parts, member)
        elif member.kind is Kind.HARDLINK:
            self._hard_link(parts, member.target)
        else:
            self._links.append((parts, member.target))

    def link(self) -> None:
        """Make the symbolic links, then follow each."""
        for parts, target in self._links:
            if not target or target.startswith("/") or "\0" in target or len(os.fsencode(target)) > 1024:
                raise self._bad_link(parts, target)
            self._root.joinpath(*parts).symlink_to(target)
        root = Path(os.path.realpath(self._root))
        for parts, target in self._links:
            try:
                found = Path(os.path.realpath(root.joinpath(*parts), strict=True))
            except OSError:  # dangling, or a circle
                raise self._bad_link(parts, target) from None
            if not found.is_relative_to(root):
                raise self._bad_link(parts, target)

    def _claim(self, parts: tuple[str, ...], kind: Kind) -> None:
        name = "/".join(parts)
        if parts in self._kinds:
            raise self._meter.refusal(f"has the name {quoted(name)} twice", "pack it again without the double")
        self._meter.count_member(name)
        self._charge(DISK_BLOCK_BYTES)
        self._kinds[parts] = kind

    def _make_folders(self, parts: tuple[str, ...]) -> None:
        for depth in range(1, len(parts) + 1):
            folder = parts[:depth]
            if self._kinds.get(folder) is Kind.FOLDER:
                continue
            if folder in self._kinds:
                what = f"{self._kinds[folder].value} {quoted('/'.join(folder))}"
                raise self._meter.refusal(f"has a member {quoted('/'.join(parts))} below the {what}", "pack it again")
            self._claim(folder, Kind.FOLDER)
            self._root.joinpath(*folder).mkdir(mode=0o755)

    def _write(self, parts: tuple[str, ...], member: Member) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._root.joinpath(*parts), flags, 0o755 if member.is_executable else 0o644)
        paid_bytes = DISK_BLOCK_BYTES
        written_bytes = 0
        with os.fdopen(descriptor, "wb") as sink:
            for chunk in member.chunks:
                written_bytes += len(chunk)
                if (due_bytes := on_disk(written_bytes) - paid_bytes) > 0:
                    self._charge(due_bytes)
                    paid_bytes += due_bytes
                sink.write(chunk)

    def _hard_link(self, parts: tuple[str, ...], target: str) -> None:
        source = safe_parts(target, self._meter)
        if self._kinds.get(source) not in (Kind.FILE, Kind.HARDLINK):
            raise self._bad_link(parts, target)
        os.link(self._root.joinpath(*source), self._root.joinpath(*parts), follow_symlinks=False)

    def _bad_link(self, parts: tuple[str, ...], target: str) -> ServingError:
        return self._meter.refusal(
            f"has a link {quoted('/'.join(parts))} to {quoted(target)}, which is not a file of this archive",
            "pack the files themselves (tar --dereference)",
        )


def on_disk(size_bytes: int) -> int:
    """Return what a file of `size_bytes` takes on disk: whole blocks, at least one."""
    return max(1, -(-size_bytes // DISK_BLOCK_BYTES)) * DISK_BLOCK_BYTES
