"""A CUDA context's own cost, told apart from the models': the `a` of a + b*n.

A runtime's first model on a device brings the context along (libraries, kernels, pools), which stays when the model
goes; each further one adds its own bytes alone. So the use of a device over the bytes that its models were expected to
take is a line, and where the line begins is the context. Pure: `scales` measures and says what was expected.
"""

from __future__ import annotations

from collections.abc import Sequence

# After so many loads the line is known; the first, which have the context in them, are those that say most.
_POINTS_MAX = 16


def fit(points: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Return `a` and `b` of the line y = a + b*x through points of bytes by least squares.

    One point alone, or several at one place, are taken for b = 1.
    """
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 1.0
    return mean_y - slope * mean_x, slope


class Context:
    """What one runtime holds on one device besides its models."""

    def __init__(self) -> None:
        self._points: list[tuple[int, int]] = []
        self.prepared_bytes = 0  # taken while the runtime was started: before any model

    @property
    def is_new(self) -> bool:
        """Whether no load has been weighed yet."""
        return not self._points

    @property
    def is_known(self) -> bool:
        """Whether there are enough loads to tell it from a model that is larger than expected."""
        return len(self._points) > 1

    @property
    def brought_bytes(self) -> int:
        """What the first model brought along, in bytes: 0 up to all that the device's use grew by then."""
        if self.is_new:
            return 0
        return int(min(max(0.0, fit(self._points)[0]), self._points[0][1]))

    @property
    def bytes(self) -> int:
        """All of it, in bytes."""
        return self.prepared_bytes + self.brought_bytes

    def add(self, expected_bytes: int, grown_bytes: int) -> None:
        """Note that a model, expected to take so much, had the device's use grow by so much."""
        if len(self._points) < _POINTS_MAX:
            x, y = self._points[-1] if self._points else (0, 0)
            self._points.append((x + expected_bytes, y + max(0, grown_bytes)))
