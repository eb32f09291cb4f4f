"""A stand-in for a GPU's driver, in host memory: one thread is its copy stream, a meter its allocator.

Copies really happen later, when the thread comes to them, and can be held; freed bytes stay cached until a trim, as
with torch's allocator, and what no longer fits raises torch's own error; one that is `lost` fails in every call, as a
CUDA context does after an illegal access. torch computes on the CPU meanwhile.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

ILLEGAL_ACCESS = "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA` to enable."
FULL = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 14.58 GiB of which 1.19 MiB is "
    "free. Of the allocated memory 14.00 GiB is allocated by PyTorch."
)


class StandInMark:
    """A mark of the copy stream, or one that is reached already."""

    def __init__(self, driver: StandInDriver, copied: Future[None] | None = None) -> None:
        self._driver = driver
        self._copied = copied

    def synchronize(self) -> None:
        """Wait for it."""
        if self._copied is not None:
            self._copied.result(10)
        self._driver.check()


class StandInDriver:
    """See the module; `capacity_bytes` is what tensors and cache may hold."""

    name = "cpu"

    def __init__(self, capacity_bytes: int = 1 << 40) -> None:
        self.capacity_bytes = capacity_bytes
        self.pinned_bytes = 0
        self.copies = 0
        self.trims = 0
        self.is_lost = False
        self.can_pin = True
        self.computed_on: set[str] = set()
        self.held_at_marks: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self._allocated = 0
        self._cached = 0
        self._lock = threading.Lock()
        self._stream = ThreadPoolExecutor(1, "copies")

    def check(self) -> None:
        """Raise what every call of a lost device raises."""
        import torch

        if self.is_lost:
            raise torch.AcceleratorError(ILLEGAL_ACCESS)

    def pinned(self, count: int) -> Any:
        """Return host memory, counted."""
        import torch

        if not self.can_pin:
            raise RuntimeError("CUDA error: out of memory")
        self.pinned_bytes += count
        return torch.empty(count, dtype=torch.uint8)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return a tensor whose bytes the meter counts until it is gone."""
        import torch

        self.check()
        count = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
        with self._lock:
            if self._allocated + self._cached + count > self.capacity_bytes:
                raise torch.OutOfMemoryError(FULL)
            self._allocated += count
        tensor = torch.empty(shape, dtype=dtype)
        weakref.finalize(tensor, self._freed, count)
        return tensor

    def copy(self, target: Any, source: Any) -> StandInMark:
        """Have the copy stream copy, when its gate is open."""
        self.check()
        self.copies += 1
        return StandInMark(self, self._stream.submit(self._copy, target, source))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Note who computes."""
        self.computed_on.add(threading.current_thread().name)
        yield

    def compute_after(self, mark: Any) -> None:
        """Wait: a thread that computes here does so at once."""
        mark.synchronize()

    def computed(self) -> StandInMark:
        """Return a mark that is reached: the CPU computed already. Notes what is held then."""
        self.held_at_marks.append(self._allocated)
        self.check()
        return StandInMark(self)

    def synchronize(self) -> None:
        """Wait for the copy stream."""
        self._stream.submit(lambda: None).result(10)
        self.check()

    def trim(self) -> None:
        """Empty the cache."""
        self.check()
        with self._lock:
            self._cached = 0
            self.trims += 1

    def allocated_bytes(self) -> int:
        """Return what tensors hold."""
        return self._allocated

    def reserved_bytes(self) -> int:
        """Return what tensors and the cache hold."""
        return self._allocated + self._cached

    def _copy(self, target: Any, source: Any) -> None:
        import torch

        assert self.gate.wait(10), "a test forgot to open the gate"
        with torch.inference_mode():
            target.copy_(source)

    def _freed(self, count: int) -> None:
        with self._lock:
            self._allocated -= count
            self._cached += count
