"""Where a model would like an answer's tensors to lie: a wish that is kept, and moves nothing.

Tensors of a worker lie in the memory of the CPU. Requests carry it; nobody else asks.
"""

from __future__ import annotations

import enum


class MemoryType(enum.IntEnum):
    """The two kinds of memory."""

    TRITONSERVER_MEMORY_CPU = 0
    TRITONSERVER_MEMORY_GPU = 2  # 1 is pinned memory of the CPU, which Triton does not offer here


TRITONSERVER_MEMORY_CPU = MemoryType.TRITONSERVER_MEMORY_CPU
TRITONSERVER_MEMORY_GPU = MemoryType.TRITONSERVER_MEMORY_GPU


class PreferredMemory:
    """A kind of memory and a device."""

    def __init__(self, preferred_memory_type: MemoryType, preferred_device_id: int = 0) -> None:
        self.preferred_memory_type = MemoryType(preferred_memory_type)
        self.preferred_device_id = int(preferred_device_id)
