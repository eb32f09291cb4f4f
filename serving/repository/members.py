"""What one member of an archive is, and which names a member may have.

A name is refused if it could leave the folder (absolute, `..`), could not be written everywhere (too long, not UTF-8)
or could not be shown (control characters). Backslashes are refused as well: they are separators to the tool that wrote
them and letters to us. `tarball` and `zipball` make members, `unpack` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from serving.repository.limits import Meter, quoted

NAME_MAX_BYTES = 1024
"""A quarter of Linux' PATH_MAX, so that the cache folder's own path always fits before it."""

PART_MAX_BYTES = 255
"""NAME_MAX of Linux file systems."""


class Kind(Enum):
    """What a member becomes on disk."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symbolic link"
    HARDLINK = "hard link"


@dataclass(frozen=True, slots=True)
class Member:
    """One member: `target` belongs to links, `chunks` to files and is read at most once."""

    name: str
    kind: Kind
    is_executable: bool = False
    target: str = ""
    chunks: Iterable[bytes] = ()


def safe_parts(name: str, meter: Meter) -> tuple[str, ...]:
    """Split a member's name into safe parts; `()` is the archive's own root. Raises `InvalidArtifactError`."""
    fault = _fault(name)
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if fault is None and ".." in parts:
        fault = "leads out of the folder"
    if fault is None and any(len(part.encode()) > PART_MAX_BYTES for part in parts):
        fault = f"has a part of more than {PART_MAX_BYTES} bytes"
    if fault:
        raise meter.refusal(f"has a member whose name {quoted(name)} {fault}", "pack the folder again without it")
    return parts


def _fault(name: str) -> str | None:
    if name.startswith("/"):
        return "is absolute"
    if "\\" in name:
        return "has a backslash"
    if not name.isprintable():  # control characters, NUL, and the surrogates that stand for bytes that are not UTF-8
        return "has characters that cannot be shown"
    if len(name.encode()) > NAME_MAX_BYTES:
        return f"has more than {NAME_MAX_BYTES} bytes"
    return None
