"""Which kind of archive a file is, by its bytes: a platform may give a file any name.

TorchScript and torch.export files are zips as well; those are models, not archives. `store` asks before it unpacks.
"""

from __future__ import annotations

from enum import Enum
from typing import IO

from serving.errors import InvalidArtifactError
from serving.repository.tarball import is_header
from serving.repository.torch_files import torch_kind

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
"""Names that archives usually have; used to find a model by its name, never to decide what a file is."""

_REFUSED = {
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!": "RAR",
}


class ArchiveKind(Enum):
    """Archives that are unpacked."""

    GZIP = "tar.gz"
    TAR = "tar"
    ZIP = "zip"


def archive_kind(file: IO[bytes], name: str) -> ArchiveKind | None:
    """Return the kind of archive that `file` is, None when it is none; leaves the file at its start.

    Raises `InvalidArtifactError` for compressions that are known and not unpacked.
    """
    file.seek(0)
    start = file.read(512)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return ArchiveKind.GZIP
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return None if torch_kind(file) else ArchiveKind.ZIP
    for magic, what in _REFUSED.items():
        if start.startswith(magic):
            raise InvalidArtifactError(f"Archive '{name}' is {what}: pack it as .tar.gz, .tar or .zip.")
    return ArchiveKind.TAR if len(start) == 512 and is_header(start) else None
