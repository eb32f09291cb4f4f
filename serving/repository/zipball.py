"""Reads a zip as a stream of members.

Only stored and deflated members are read: LZMA's header may ask for gigabytes of memory, and nobody packs models so.
Encrypted members are refused by name. The central directory is read in one piece by `zipfile`, so its size is bounded
first. `unpack` calls it and writes.
"""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from typing import IO

from serving.repository.bounded import BoundedReader
from serving.repository.limits import CHUNK_BYTES, Meter, quoted
from serving.repository.members import NAME_MAX_BYTES, Kind, Member

_DIRECTORY_BYTES_PER_FILE = 512
"""An entry is 46 bytes, a name of mostly under 200 and some 60 of time stamps."""

_END_RECORD_BYTES = 128 << 10
"""`zipfile` looks for the end record in the last 64 KiB."""

_ENCRYPTED = 0x1

_KINDS = {0: Kind.FILE, stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.FOLDER, stat.S_IFLNK: Kind.SYMLINK}


def zip_members(file: IO[bytes], meter: Meter) -> Iterator[Member]:
    """Yield the members of a zip. Raises `InvalidArtifactError` for what is refused; `zipfile` raises its own."""
    limit_bytes = _END_RECORD_BYTES + _DIRECTORY_BYTES_PER_FILE * meter.limits.max_files
    refusal = meter.refusal(f"has a directory of over {limit_bytes} bytes", "raise WHARF_UNPACK_MAX_FILES")
    with zipfile.ZipFile(BoundedReader(file, limit_bytes, refusal)) as archive:
        for info in archive.infolist():
            yield _member(archive, info, meter)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, meter: Meter) -> Member:
    name = info.orig_filename  # `filename` is cut at a NUL byte
    if info.flag_bits & _ENCRYPTED:
        raise meter.refusal(f"has an encrypted member {quoted(name)}", "pack it again without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise meter.refusal(
            f"has a member {quoted(name)} of compression type {info.compress_type}", "pack it again with deflate"
        )
    mode = info.external_attr >> 16
    kind = Kind.FOLDER if info.is_dir() else _KINDS.get(stat.S_IFMT(mode))
    if kind is None:
        raise meter.refusal(
            f"has a member {quoted(name)} that is a device or a pipe", "pack only files, folders and links"
        )
    meter.check_room(info.file_size)
    chunks = _chunks(archive, info, meter)
    if kind is Kind.SYMLINK:
        return Member(name, kind, target=_target(info, chunks, meter))
    return Member(name, kind, bool(mode & 0o100), chunks=chunks)


def _chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo, meter: Meter) -> Iterator[bytes]:
    with archive.open(info) as source:
        while chunk := source.read(CHUNK_BYTES):
            meter.count_bytes(len(chunk))
            yield chunk


def _target(info: zipfile.ZipInfo, chunks: Iterator[bytes], meter: Meter) -> str:
    if info.file_size > NAME_MAX_BYTES:
        raise meter.refusal(f"has a link {quoted(info.filename)} with a target that is too long", "pack it again")
    return b"".join(chunks).decode("utf-8", "surrogateescape")
