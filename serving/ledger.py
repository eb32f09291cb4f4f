"""Reservations against a memory budget: the host's, or that of one device.

Memory is reserved before it is used, corrected to what was measured, and released after it was given back. What is no
model's (a runtime, a CUDA context, bytes that did not come back) is taken out of the budget by name. The ledger decides
whether a model fits; it evicts nobody, measures nothing and has no lock: `manager` calls it under its own. Several
together are `books`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from serving.errors import InsufficientMemoryError

_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def format_bytes(count: int) -> str:
    """Write a number of bytes for people: `1.2 GiB`."""
    for unit, size in _UNITS:
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


RUNTIMES = "runtimes"


@dataclass(frozen=True, slots=True)
class Wording:
    """How a ledger's errors speak of it: `place` is what its bytes are of, the others what to do when they end."""

    place: str = ""
    raise_it: str = "raise WHARF_MEMORY_BUDGET"
    enlarge: str = "use a larger instance"


class Ledger:
    """A budget in bytes and the reservations against it, by model name."""

    def __init__(self, budget_bytes: int, *, pays_for_runtimes: bool = False, wording: Wording | None = None) -> None:
        self._given_bytes = budget_bytes
        self._budget_bytes = budget_bytes  # less what was taken out; asked at the end of each request
        self._pays_for_runtimes = pays_for_runtimes
        self._wording = wording or Wording()
        self._taken_out: dict[str, int] = {}
        self._reserved: dict[str, int] = {}
        self._used_bytes = 0

    @property
    def budget_bytes(self) -> int:
        """What all models together may hold."""
        return self._budget_bytes

    @property
    def taken_out_bytes(self) -> int:
        """What is no model's and was taken out of the budget."""
        return sum(self._taken_out.values())

    @property
    def used_bytes(self) -> int:
        """The sum of all reservations."""
        return self._used_bytes

    @property
    def free_bytes(self) -> int:
        """Budget less reservations; negative while a correction has passed the budget."""
        return self._budget_bytes - self._used_bytes

    @property
    def reservations(self) -> Mapping[str, int]:
        """A read-only view of bytes by model."""
        return MappingProxyType(self._reserved)

    def missing_bytes(self, wanted_bytes: int) -> int:
        """Return how many bytes must be freed before `wanted_bytes` fit; 0 when they fit now."""
        return max(0, wanted_bytes - self.free_bytes)

    def check_possible(self, name: str, wanted_bytes: int) -> None:
        """Raise `InsufficientMemoryError` for a model that is larger than the whole budget."""
        if wanted_bytes > self.budget_bytes:
            words = self._wording
            raise InsufficientMemoryError(
                f"Model '{name}' needs {format_bytes(wanted_bytes)}{words.place} while it loads and the whole budget "
                f"is {format_bytes(self.budget_bytes)}: {words.raise_it} or {words.enlarge}."
            )

    def reserve(self, name: str, wanted_bytes: int) -> None:
        """Reserve `wanted_bytes` for `name`; raises what `check` raises, and then nothing has changed."""
        self.check(name, wanted_bytes)
        self._set(name, wanted_bytes)

    def check(self, name: str, wanted_bytes: int) -> None:
        """Raise `InsufficientMemoryError` with both figures when `wanted_bytes` do not fit now."""
        self.check_possible(name, wanted_bytes)
        if self.missing_bytes(wanted_bytes):
            words = self._wording
            raise InsufficientMemoryError(
                f"Model '{name}' needs {format_bytes(wanted_bytes)}{words.place} while it loads and the budget of "
                f"{format_bytes(self.budget_bytes)} has {format_bytes(max(0, self.free_bytes))} free: "
                f"unload a model or {words.raise_it}."
            )

    def correct(self, name: str, measured_bytes: int) -> None:
        """Replace the reservation of `name` by what was measured, even past the budget.

        The memory is in use already.
        """
        if name not in self._reserved:
            raise KeyError(name)
        self._set(name, measured_bytes)

    def release(self, name: str) -> int:
        """End the reservation of `name` and return its bytes; 0 when there was none."""
        released_bytes = self._reserved.pop(name, 0)
        self._used_bytes -= released_bytes
        return released_bytes

    def runtime_grew(self, count: int) -> None:
        """Take a runtime's own memory (torch's code and pools) out of a budget that is a share of the container."""
        if self._pays_for_runtimes:
            self.take_out(RUNTIMES, self.taken_out(RUNTIMES) + max(0, count))

    def take_out(self, what: str, count: int) -> None:
        """Set what something that is no model takes out of the budget, in bytes; 0 gives it back."""
        self._taken_out[what] = count
        self._budget_bytes = max(0, self._given_bytes - self.taken_out_bytes)

    def taken_out(self, what: str) -> int:
        """Return what something that is no model takes out of the budget, in bytes."""
        return self._taken_out.get(what, 0)

    def _set(self, name: str, count: int) -> None:
        self._used_bytes += count - self._reserved.get(name, 0)
        self._reserved[name] = count
