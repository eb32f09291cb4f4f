"""Page-locked memory through which arrays go to a GPU and come back.

A GPU copies by itself, beside its computing, only to and from page-locked ("pinned") memory; pinning is slow and takes
the memory from everyone else, so a few buffers are pinned once and used in turn. A buffer that is given back carries
the mark of the copy that still reads it, and whoever takes it next waits for that mark: arrays larger than a buffer go
in pieces, one copied while the next is filled. Knows bytes alone, no model; `torch_device` calls it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from serving.errors import UnavailableError
from serving.tensors import Array

log = logging.getLogger("wharf.backends.torch")

# At the 12 to 26 GB/s of PCIe 3 and 4 a piece takes 0.16 to 0.35 ms, far more than to begin a copy (some 10 us); and a
# 6 MiB body is two of them.
BUFFER_BYTES = 4 << 20
# Two: one is filled while the other is copied.
_LEAST = 2


class Mark(Protocol):
    """A point in the work of a device."""

    def synchronize(self) -> None:
        """Wait until the device has come to it."""


class Copier(Protocol):
    """The part of a device's driver that copies."""

    def pinned(self, count: int) -> Any:
        """Return `count` bytes of page-locked memory, a flat uint8 tensor on the CPU."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return a tensor on the device, to copy into."""

    def copy(self, target: Any, source: Any) -> Mark:
        """Begin a copy between flat uint8 tensors, one on the device, one pinned; return the mark of its end."""


class _Buffer:
    def __init__(self, memory: Any) -> None:
        self.memory = memory
        self.bytes: Array = memory.numpy()
        self.mark: Mark | None = None


class Staging:
    """At most `budget_bytes` of pinned memory, pinned as they are first needed; safe to use from many threads."""

    def __init__(self, copier: Copier, budget_bytes: int, timeout_s: float) -> None:
        self._copier = copier
        self._most = max(_LEAST, budget_bytes // BUFFER_BYTES)
        self._timeout_s = timeout_s
        self._made = 0
        self._lock = threading.Lock()
        self._idle: queue.SimpleQueue[_Buffer] = queue.SimpleQueue()

    @property
    def pinned_bytes(self) -> int:
        """What is pinned now."""
        return self._made * BUFFER_BYTES

    def upload(self, array: Array) -> tuple[Any, Mark | None]:
        """Begin to copy `array`; return its tensor on the device and the mark after which it is whole.

        The array may be changed at once. None: there is nothing to wait for. Raises `TypeError` for a dtype that torch
        has not, `UnavailableError` (503) where no buffer comes free, and what the driver raises.
        """
        import torch

        tensor = self._copier.empty(array.shape, torch.from_numpy(np.empty(0, array.dtype)).dtype)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        flat, mark = tensor.reshape(-1).view(torch.uint8), None
        for first in range(0, data.nbytes, BUFFER_BYTES):
            piece = data[first : first + BUFFER_BYTES]
            with self._buffer() as buffer:
                # numpy copies on this thread; torch would open a team of threads for each caller.
                np.copyto(buffer.bytes[: piece.nbytes], piece)
                target = flat[first : first + piece.nbytes]
                buffer.mark = mark = self._copier.copy(target, buffer.memory[: piece.nbytes])
        return tensor, mark

    def download(self, tensor: Any) -> Array:
        """Return a contiguous tensor of the device, whose work is done, as an array of its own."""
        import torch

        array: Array = np.empty(tuple(tensor.shape), torch.empty(0, dtype=tensor.dtype).numpy().dtype)
        data, flat = array.reshape(-1).view(np.uint8), tensor.reshape(-1).view(torch.uint8)
        for first in range(0, data.nbytes, BUFFER_BYTES):
            piece = data[first : first + BUFFER_BYTES]
            with self._buffer() as buffer:
                source = flat[first : first + piece.nbytes]
                self._copier.copy(buffer.memory[: piece.nbytes], source).synchronize()
                np.copyto(piece, buffer.bytes[: piece.nbytes])
        return array

    @contextmanager
    def _buffer(self) -> Iterator[_Buffer]:
        buffer = self._take()
        try:
            if buffer.mark is not None:
                mark, buffer.mark = buffer.mark, None
                mark.synchronize()
            yield buffer
        finally:
            self._idle.put(buffer)

    def _take(self) -> _Buffer:
        with self._lock:
            is_new = self._made < self._most
            self._made += is_new
        if is_new:
            return self._make()
        try:
            return self._idle.get(timeout=self._timeout_s)
        except queue.Empty:
            raise UnavailableError(
                f"No buffer for a copy to or from the device was free within {self._timeout_s:g} s: try again or raise "
                "WHARF_PINNED_MEMORY."
            ) from None

    def _make(self) -> _Buffer:
        import torch

        try:
            return _Buffer(self._copier.pinned(BUFFER_BYTES))
        # Copies work without, only slower and in step with this thread.
        except Exception as error:
            log.warning("event=not_pinned bytes=%d error=%r", BUFFER_BYTES, str(error)[:200])
            return _Buffer(torch.empty(BUFFER_BYTES, dtype=torch.uint8))
