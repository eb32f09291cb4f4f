"""How often the workers of a model have died without an answer between, and what follows from that.

The first is replaced at once, the next ones after 0.5, 1, 2 ... 30 s; at a number of them the model is given up. It
only decides: `pool` notes what happens and does what this says.
"""

from __future__ import annotations

_BACK_OFF_S = 0.5
_BACK_OFF_MAX_S = 30.0


class Deaths:
    """Those since the last answer; `most` of them are too many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.count = 0
        self.last = ""

    def note(self, reason: str) -> None:
        """Count one, and keep how it came."""
        self.count += 1
        self.last = reason

    def forget(self) -> None:
        """Begin anew: a worker has answered."""
        self.count = 0

    @property
    def are_too_many(self) -> bool:
        """Whether the model is to be given up."""
        return self.count >= self._most

    @property
    def pause_s(self) -> float:
        """How long to wait before the next worker is started, in seconds."""
        return 0.0 if self.count <= 1 else min(_BACK_OFF_MAX_S, _BACK_OFF_S * 2 ** (self.count - 2))

    def told(self) -> str:
        """Return what is said of a model that is given up."""
        return f"its workers died {self.count} times without one answer, the last time: {self.last}"
