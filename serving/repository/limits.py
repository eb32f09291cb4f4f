"""How much one archive may unpack to, and the meter that holds it to that while it streams.

Headers are never trusted: every byte that comes out of a decompressor is counted when it comes. This room knows no
archive format and writes nothing. `tarball` and `zipball` count bytes, `unpack` members; `store` makes the meter.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.errors import InvalidArtifactError
from serving.ledger import format_bytes

CHUNK_BYTES = 1 << 20
"""One read: large enough that the call costs nothing, small enough to notice a limit soon."""

RATIO_FREE_BYTES = 16 << 20
"""Below this the ratio says nothing: an empty tar.gz is 10 KiB in 100 bytes, and 16 MiB harm nobody."""


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """Limits of one archive: sum of bytes, members (folders count), unpacked:packed ratio."""

    max_bytes: int = 20 << 30
    max_files: int = 10_000
    max_ratio: int = 200


class Meter:
    """Counts what comes out of one archive and refuses what passes a limit."""

    def __init__(self, archive: str, packed_bytes: int, limits: UnpackLimits, noun: str = "Archive") -> None:
        self.archive = archive
        self.noun = noun  # what it is called in messages
        self.limits = limits
        self._ratio_bytes = max(RATIO_FREE_BYTES, packed_bytes * limits.max_ratio)
        self._bytes = 0
        self._members = 0

    def count_bytes(self, count: int) -> None:
        """Count `count` bytes (for a tar its headers too). Raises `InvalidArtifactError` past bytes or ratio."""
        self.check_room(count)
        self._bytes += count

    def check_room(self, count: int) -> None:
        """Raise `InvalidArtifactError` if `count` more bytes, come or only claimed, would pass bytes or ratio."""
        total = self._bytes + count
        if total > self.limits.max_bytes:
            raise self.refusal(
                f"unpacks to more than {format_bytes(self.limits.max_bytes)}", "raise WHARF_UNPACK_MAX_BYTES"
            )
        if total > self._ratio_bytes:
            raise self.refusal(
                f"unpacks to more than {self.limits.max_ratio} times its size", "raise WHARF_UNPACK_MAX_RATIO"
            )

    def count_member(self, name: str) -> None:
        """Count one file, folder or link. Raises `InvalidArtifactError` past the limit."""
        self._members += 1
        if self._members > self.limits.max_files:
            raise self.refusal(
                f"has more than {self.limits.max_files} files and folders, the first too many is {quoted(name)}",
                "raise WHARF_UNPACK_MAX_FILES",
            )

    def refusal(self, fault: str, advice: str) -> InvalidArtifactError:
        """Return the error for this archive: `fault` follows its name, `advice` is the next step."""
        return InvalidArtifactError(f"{self.noun} '{self.archive}' {fault}: {advice}.")


def quoted(name: str) -> str:
    """Return a hostile name in quotes: printable, ASCII, at most some 80 characters."""
    return ascii(name if len(name) <= 80 else name[:77] + "...")
