"""A CUDA context's own cost, told apart from the models': counted where that can be, else the `a` of a + b*n.

A runtime's first model on a device brings the context along (libraries, kernels, pools), which stays when the model
goes; each further one adds its own bytes alone. Where the model's allocator counts its bytes, the rest of what grew is
the context. Else the use of a device over the bytes that its models were expected to take is a line, and where the line
begins is the context: a guess. Pure: `scales` measures, says what was expected, and caps guesses by what is in use.
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
        self.is_new = True
        """Whether no load has been weighed yet."""
        self.counted_bytes = 0
        """Taken while the runtime was started, before any model, or beside a model that counted its own."""
        self.noted_bytes = 0
        """Found in use and in no book: whose it is nobody could tell."""

    @property
    def brought_bytes(self) -> int:
        """What the first model brought along by the line, in bytes.

        It holds three quarters of what it was expected to, at least. Later ones tell of the line when they are together
        as large as it is: what is far from them they cannot tell.
        """
        if not self._points:
            return 0
        (first_x, first_y), (last_x, _) = self._points[0], self._points[-1]
        known = self._points if last_x >= 2 * first_x else self._points[:1]
        return int(max(0, min(fit(known)[0], first_y - first_x * 3 // 4)))

    @property
    def guessed_bytes(self) -> int:
        """That part of it that may be too much, in bytes."""
        return self.noted_bytes + self.brought_bytes

    @property
    def bytes(self) -> int:
        """All of it, in bytes."""
        return self.counted_bytes + self.guessed_bytes

    def count(self, counted_bytes: int, grown_bytes: int) -> None:
        """Note that a model, whose allocator counted so much, had the device's use grow by so much."""
        if self.is_new and not self.noted_bytes:  # else it was there before
            self.counted_bytes += max(0, grown_bytes - counted_bytes)
        self.is_new = False

    def add(self, expected_bytes: int, grown_bytes: int) -> None:
        """Note that a model, expected to take so much, had the device's use grow by so much.

        No growth says nothing of it: something came back meanwhile.
        """
        is_first = self.is_new and not self.noted_bytes
        if is_first or (self._points and grown_bytes > 0 and len(self._points) < _POINTS_MAX):
            x, y = self._points[-1] if self._points else (0, 0)
            self._points.append((x + expected_bytes, y + max(0, grown_bytes)))
        self.is_new = False

    def settle(self, left_bytes: int) -> None:
        """Note all that is in use of it, by a reading without any model; without anything, the next may bring it."""
        self._points.clear()
        self.noted_bytes, self.counted_bytes = 0, left_bytes
        self.is_new = not left_bytes
