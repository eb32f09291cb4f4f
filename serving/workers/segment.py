"""Memory that one side of a channel writes and the other reads: a memfd that is written through a mapping and reused.

A fresh memfd of 600 KB costs 230 us (the kernel zeroes each page), a reused one 6; so the sender keeps one as long as
it is not too large to keep. The reader maps it for as long as somebody looks (60 us), or reads it once (25).
Knows no message; `channel` says when a segment is free again. Standard library alone, CPython 3.9 on.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence

from serving.workers.handler import Body

# The largest body that InvokeEndpoint takes is 6 MiB; what is larger comes seldom and would stay as memory of nobody.
KEPT_MAX_BYTES = 8 << 20
_LEAST_BYTES = 1 << 20

_memfd_create, _ftruncate, _close = os.memfd_create, os.ftruncate, os.close
_fstat, _pread, _fcntl = os.fstat, os.pread, fcntl.fcntl
_mmap, _PRIVATE, _READ_WRITE = mmap.mmap, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE


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
    """The reader's side: the first `size` bytes, in place; takes over `fd`.

    The mapping is private: people's code may write to what it got, and then has a copy of those pages.
    """

    def __init__(self, fd: int, size: int) -> None:
        try:
            self._map = _mmap(fd, size, flags=_PRIVATE, prot=_READ_WRITE)
        finally:
            _close(fd)
        self.view = memoryview(self._map)

    def close(self) -> bool:
        """Unmap; return False, and leave it to the collector, while somebody still looks at it."""
        try:
            self.view.release()
            self._map.close()
        except BufferError:
            return False
        return True


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
