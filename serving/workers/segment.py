"""Memory that one side of a channel writes and the other reads: a memfd that is written through a mapping and reused.

A fresh memfd of 600 KB costs 230 us (the kernel zeroes each page), a reused one 6; so the sender keeps one as long as
it is not too large to keep, and the reader its mapping of it (mapped anew each time: 56 us); or it reads it once (25).
Knows no message; `channel` says when a segment is free again. Standard library alone, CPython 3.9 on.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from collections.abc import Sequence

from serving.workers.handler import Body

# The largest body that InvokeEndpoint takes is 6 MiB; what is larger comes seldom and would stay as memory of nobody.
KEPT_MAX_BYTES = 8 << 20
_LEAST_BYTES = 1 << 20

_memfd_create, _ftruncate, _close = os.memfd_create, os.ftruncate, os.close
_fstat, _pread, _fcntl = os.fstat, os.pread, fcntl.fcntl
_mmap, _getrefcount = mmap.mmap, sys.getrefcount


class Segment:
    """The writer's side: `size` bytes of shared memory."""

    def __init__(self, size: int) -> None:
        # A power of two, so that bodies that differ a little share one.
        self.size = size if size > KEPT_MAX_BYTES else max(_LEAST_BYTES, 1 << (size - 1).bit_length())
        self.fd = _memfd_create("wharf", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            _ftruncate(self.fd, self.size)
            # The other side could make it shorter: our next write into the mapping would be a SIGBUS.
            _fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            self._map = _mmap(self.fd, self.size)
        except BaseException:
            _close(self.fd)
            raise

    @property
    def is_worth_keeping(self) -> bool:
        """Whether it is small enough to stay for the next body."""
        return self.size <= KEPT_MAX_BYTES

    def write(self, buffers: Sequence[Body]) -> None:
        """Write buffers one after the other, from the start."""
        offset = 0
        for each in buffers:
            end = offset + len(each)
            self._map[offset:end] = each
            offset = end

    def close(self) -> None:
        """Let go; a reader that maps it keeps its pages."""
        self._map.close()
        _close(self.fd)


class Mapping:
    """The reader's side: a segment in place, for as long as the writer uses the same one; takes over `fd`.

    People's code may write to what it got: nobody reads that memory but itself, and the next body covers it.
    """

    def __init__(self, fd: int) -> None:
        try:
            about = _fstat(fd)
            self._file = about.st_ino  # of two at once never the same
            self._map = _mmap(fd, about.st_size)
        finally:
            _close(fd)
        self._owners = _getrefcount(self._map)

    def is_of(self, fd: int) -> bool:
        """Say whether `fd` is of the segment that is mapped here."""
        return _fstat(fd).st_ino == self._file

    def view(self, size: int) -> memoryview:
        """Return the first `size` bytes; raises `ValueError` where there are fewer."""
        if size > len(self._map):
            raise ValueError(f"shared memory has {len(self._map)} bytes and its message says {size}")
        return memoryview(self._map)[:size]

    def is_seen(self) -> bool:
        """Say whether somebody still holds a view, or an array of one: each of them holds the map."""
        return _getrefcount(self._map) > self._owners

    @property
    def is_worth_keeping(self) -> bool:
        """Whether its writer keeps it, too."""
        return len(self._map) <= KEPT_MAX_BYTES


def read_once(fd: int, size: int) -> bytes:
    """Return the first `size` bytes as they are now, and close `fd`.

    Nothing is mapped: the writer is not trusted to leave the memory as long as it is. Raises `ValueError` where there
    are fewer bytes.
    """
    try:
        if _fstat(fd).st_size < size:
            raise ValueError(f"shared memory has {_fstat(fd).st_size} bytes and its message says {size}")
        data = _pread(fd, size, 0)
        while len(data) < size:  # one call reads 2 GiB at most
            part = _pread(fd, size - len(data), len(data))
            if not part:
                raise ValueError(f"shared memory ended after {len(data)} of {size} bytes")
            data += part
        return data
    finally:
        _close(fd)
