"""Reads a tar as a stream of members: ustar, pax and GNU names, plain or under gzip.

The standard library parses single headers (checksum, numbers); the walk is ours, because `tarfile` ends silently at a
damaged header, reads an extended header of any claimed size into memory and follows chains of them by recursion. Sparse
members are refused: their size on disk has nothing to do with the bytes that come. `unpack` calls it and writes.
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from typing import IO, Protocol

from serving.repository.limits import CHUNK_BYTES, Meter, quoted
from serving.repository.members import Kind, Member

_BLOCK = tarfile.BLOCKSIZE

_EXTENDED_MAX_BYTES = 64 << 10
"""A pax header holds a path and small attributes; Linux limits one attribute to 64 KiB."""

_EXTENDED_MAX_CHAIN = 8
"""Long name, long link, pax and global header make four; more is a bomb of headers."""

_PAX_KEYS = ("path", "linkpath", "size")

_KINDS = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.AREGTYPE: Kind.FILE,
    tarfile.CONTTYPE: Kind.FILE,
    tarfile.DIRTYPE: Kind.FOLDER,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.LNKTYPE: Kind.HARDLINK,
}

_REFUSED = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class Readable(Protocol):
    """All that a tar is read through."""

    def read(self, count: int, /) -> bytes:
        """Return at most `count` bytes, none at the end."""


def tar_members(file: Readable, meter: Meter) -> Iterator[Member]:
    """Yield the members of a plain tar. Raises `InvalidArtifactError` for what is damaged, cut short or refused."""
    stream = _Stream(file, meter)
    extended = _Extended(meter)
    while (block := stream.exactly(_BLOCK)).strip(b"\0"):
        head = _header(block, meter)
        if extended.takes(head.type):
            extended.add(head.type, stream.padded(head.size))
            continue
        extended.apply_to(head)
        kind = _kind(head, meter)
        stream.left = head.size if kind is Kind.FILE else 0
        padding = -stream.left % _BLOCK
        yield Member(head.name, kind, bool(head.mode & 0o100), head.linkname, stream.chunks())
        stream.skip(stream.left + padding)
    stream.drain()


def gzip_members(file: IO[bytes], meter: Meter) -> Iterator[Member]:
    """Yield the members of a tar under gzip; the checksum of the whole is checked at its end."""
    with gzip.GzipFile(fileobj=file) as unzipped:
        yield from tar_members(unzipped, meter)


def is_header(block: bytes) -> bool:
    """Say whether a block of 512 bytes is a tar header: its checksum agrees."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _header(block: bytes, meter: Meter) -> tarfile.TarInfo:
    try:
        head = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise meter.refusal(f"has a damaged tar header ({error})", "pack or copy it again") from None
    if head.size < 0:
        raise meter.refusal(f"has a member {quoted(head.name)} of a negative size", "pack it again")
    return head


def _kind(head: tarfile.TarInfo, meter: Meter) -> Kind:
    if head.type not in _KINDS:
        what = _REFUSED.get(head.type, f"of the unknown type {head.type!r}")
        raise meter.refusal(f"has a member {quoted(head.name)} that is {what}", "pack only files, folders and links")
    if head.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
        meter.check_room(head.size)
    return _KINDS[head.type]


class _Extended:
    """Extended headers that wait for the member that they describe."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._global: dict[str, str] = {}
        self._next: dict[str, str] = {}
        self._chain = 0

    def takes(self, kind: bytes) -> bool:
        return kind in (
            tarfile.XHDTYPE,
            tarfile.SOLARIS_XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        )

    def add(self, kind: bytes, data: bytes) -> None:
        self._chain += 1
        if self._chain > _EXTENDED_MAX_CHAIN:
            raise self._meter.refusal(f"has {self._chain} extended headers in a row", "pack it again with GNU tar")
        if kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            key = "path" if kind == tarfile.GNUTYPE_LONGNAME else "linkpath"
            self._next[key] = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        else:
            (self._global if kind == tarfile.XGLTYPE else self._next).update(self._records(data))

    def apply_to(self, head: tarfile.TarInfo) -> None:
        found = self._global | self._next
        self._next, self._chain = {}, 0
        head.name = found.get("path", head.name)
        head.linkname = found.get("linkpath", head.linkname)
        if "size" in found:
            if not found["size"].isdecimal() or len(found["size"]) > 20:
                raise self._meter.refusal(f"has a member {quoted(head.name)} without a readable size", "pack it again")
            head.size = int(found["size"])

    def _records(self, data: bytes) -> dict[str, str]:
        """Parse lines of `<length> <key>=<value>` (POSIX.1-2001 pax) and keep the keys that matter here."""
        found: dict[str, str] = {}
        at = 0
        while at < len(data) and data[at] != 0:
            digits = data[at : at + 20].partition(b" ")[0]
            end = at + (int(digits) if digits.isdigit() else 0)
            key, equals, value = data[at + len(digits) + 1 : end - 1].partition(b"=")
            if end > len(data) or not equals or data[end - 1 : end] != b"\n":
                raise self._meter.refusal("has a damaged pax header", "pack or copy it again")
            if key.startswith(b"GNU.sparse"):
                raise self._meter.refusal("has a sparse file", "pack it again without --sparse")
            found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
            at = end
        return {key: found[key] for key in _PAX_KEYS if key in found}


class _Stream:
    """Forward-only, metered reads; `left` is what the current member still has to give."""

    def __init__(self, file: Readable, meter: Meter) -> None:
        self._file = file
        self._meter = meter
        self.left = 0

    def exactly(self, count: int) -> bytes:
        parts = []
        while count:
            parts.append(part := self._some(count))
            count -= len(part)
        return b"".join(parts)

    def padded(self, count: int) -> bytes:
        if count > _EXTENDED_MAX_BYTES:
            raise self._meter.refusal(f"has an extended header of {count} bytes", "pack it again without attributes")
        return self.exactly(count + -count % _BLOCK)[:count]

    def chunks(self) -> Iterator[bytes]:
        while self.left:
            part = self._some(self.left)
            self.left -= len(part)
            yield part

    def skip(self, count: int) -> None:
        while count:
            count -= len(self._some(count))

    def drain(self) -> None:
        while part := self._file.read(CHUNK_BYTES):
            self._meter.count_bytes(len(part))

    def _some(self, count: int) -> bytes:
        part = self._file.read(min(count, CHUNK_BYTES))
        if not part:
            raise self._meter.refusal("is cut short", "copy or pack it again")
        self._meter.count_bytes(len(part))
        return part
