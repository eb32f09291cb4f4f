"""CUDA as torch has it: the thin part of a GPU that cannot run where there is none.

One context for the process, torch's primary one, made when the first model comes to a GPU; on each GPU one stream that
computes and one that copies. No decision is made here: what is done with it `torch_device` and `staging` say, which
the tests drive over a stand-in. Written from the source of torch 2.13 (torch/cuda, c10/cuda); it was never run.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

from serving.backends.staging import Mark
from serving.backends.torch_errors import is_out_of_memory, summary
from serving.errors import InsufficientMemoryError, LoadFailedError

log = logging.getLogger("wharf.backends.torch")


def open_cuda(index: int) -> CudaDriver:
    """Return the driver of a device.

    Raises `LoadFailedError` where this torch has no such device or cannot use it, `InsufficientMemoryError` where its
    memory has no room for a context.
    """
    import torch

    if not torch.cuda.is_available():
        raise LoadFailedError(
            f"torch {torch.__version__} finds no such device: set WHARF_DEVICE=cpu, or give the container a GPU and a "
            "CUDA build of torch."
        )
    if index >= torch.cuda.device_count():
        raise LoadFailedError(
            f"there is no cuda:{index}, there are {torch.cuda.device_count()} GPUs, numbered from 0: correct its "
            "configuration."
        )
    try:
        return CudaDriver(index)
    except Exception as error:
        kind = InsufficientMemoryError if is_out_of_memory(error) else LoadFailedError
        raise kind(f"cuda:{index} could not be opened: {summary(error)}") from error


class CudaDriver:
    """The GPU that torch numbers `index`."""

    def __init__(self, index: int) -> None:
        import torch

        torch.cuda.init()
        # Its fuser compiles kernels anew for new shapes, and a batch of another size is one: seconds in a request.
        torch._C._jit_set_texpr_fuser_enabled(False)
        self.name = f"cuda:{index}"
        self._device = torch.device("cuda", index)
        self._compute = torch.cuda.Stream(self._device)
        self._copies = torch.cuda.Stream(self._device)
        properties = torch.cuda.get_device_properties(self._device)
        log.info("event=device_opened device=%s name=%r bytes=%d", self.name, properties.name, properties.total_memory)

    def pinned(self, count: int) -> Any:
        """Return `count` bytes of page-locked memory, a flat uint8 tensor on the CPU."""
        import torch

        return torch.empty(count, dtype=torch.uint8, pin_memory=True)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return a tensor on the device, to copy into.

        It is the copy stream's: the compute stream may use it after the copy's mark, and whoever holds it lets go only
        after the compute stream is done with it, so that torch need not be told (`record_stream`).
        """
        import torch

        with torch.cuda.stream(self._copies):
            return torch.empty(shape, dtype=dtype, device=self._device)

    def copy(self, target: Any, source: Any) -> Mark:
        """Begin a copy on the copy stream; return the mark of its end."""
        import torch

        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)
        return self._mark(self._copies)

    def computing(self) -> AbstractContextManager[None]:
        """Have this thread's operations go to the compute stream for the length of a `with`."""
        import torch

        stream: AbstractContextManager[None] = torch.cuda.stream(self._compute)
        return stream

    def compute_after(self, mark: Mark) -> None:
        """Have the compute stream wait for a mark; this thread goes on."""
        self._compute.wait_event(mark)

    def computed(self) -> Mark:
        """Return the mark of all that the compute stream was given so far."""
        return self._mark(self._compute)

    def synchronize(self) -> None:
        """Wait for all streams; raises what went wrong on them since."""
        import torch

        torch.cuda.synchronize(self._device)

    def trim(self) -> None:
        """Give what torch's allocator caches back to the driver."""
        import torch

        torch.cuda.empty_cache()

    def allocated_bytes(self) -> int:
        """Return what tensors hold on the device, by torch's allocator."""
        import torch

        return int(torch.cuda.memory_allocated(self._device))

    def reserved_bytes(self) -> int:
        """Return what torch's allocator holds on the device, its cache included."""
        import torch

        return int(torch.cuda.memory_reserved(self._device))

    def _mark(self, stream: Any) -> Mark:
        import torch

        # A thread that waits for a blocking one sleeps; by default it would spin on a core.
        mark: Mark = torch.cuda.Event(blocking=True)
        stream.record_event(mark)
        return mark
