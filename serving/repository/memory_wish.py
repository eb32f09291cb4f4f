"""Memory that a model's own configuration asks for before it is loaded: what it needs, and what is to stay free.

DJL's required_memory_mb and reserved_memory_mb, on the host and (`gpu.`) on a device. A value only: `djl_layout` reads
it, the loader raises the peak of a load by it, so that it is reserved, or the load is a 507.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryWish:
    """Bytes that a load needs at least, 0 for what is predicted, and bytes that must be free beside them."""

    needed_bytes: int = 0
    spare_bytes: int = 0
    device_needed_bytes: int = 0
    device_spare_bytes: int = 0

    def peak(self, predicted_bytes: int) -> int:
        """Return what the load of a model that is predicted so large must find free on the host."""
        return max(predicted_bytes, self.needed_bytes) + self.spare_bytes

    def device_peak(self, predicted_bytes: int) -> int:
        """Return the same of a device, nothing where the model uses none."""
        return max(predicted_bytes, self.device_needed_bytes) + self.device_spare_bytes if predicted_bytes else 0


NO_WISH = MemoryWish()
