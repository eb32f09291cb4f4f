"""A file that refuses to be read in larger pieces than an honest archive asks for.

`zipfile` reads a central directory of any size in one piece and makes an object of every 46 bytes; this stands between.
`zipball` and `torch_files` wrap their files in it.
"""

from __future__ import annotations

from typing import IO


class BoundedReader:
    """`file`, with every single read of at most `limit_bytes`; a larger one raises `refusal`."""

    def __init__(self, file: IO[bytes], limit_bytes: int, refusal: Exception) -> None:
        self._file = file
        self._limit_bytes = limit_bytes
        self._refusal = refusal

    def read(self, count: int = -1) -> bytes:
        """Read `count` bytes, or all where that is within the limit."""
        if count > self._limit_bytes:
            raise self._refusal
        data = self._file.read(count if count >= 0 else self._limit_bytes + 1)
        if len(data) > self._limit_bytes:
            raise self._refusal
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to `offset`."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Say that it seeks."""
        return True
