"""What a model that is ready may ask of the house: more memory for more workers, or to be taken out as beyond repair.

One for each such model, made by `manager`; the pool of its workers calls it, from threads of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from serving.errors import UnavailableError
from serving.ledger import Ledger
from serving.lifecycle import State
from serving.residents import Resident, Residents


class Tenant:
    """A resident's word with the ledger and the manager."""

    def __init__(
        self,
        resident: Resident,
        residents: Residents,
        ledger: Ledger,
        settle: Callable[[], None],
        withdraw: Callable[[Resident, str], None],
    ) -> None:
        self._resident = resident
        self._residents = residents
        self._ledger = ledger
        self._settle = settle
        self._withdraw = withdraw

    def grow(self, count: int) -> bool:
        """Take `count` more bytes of the budget (fewer when negative); nobody is evicted for it."""
        with self._residents.lock:
            if self._resident.state is not State.READY or (count > 0 and self._ledger.missing_bytes(count)):
                return False
            name = self._resident.name
            self._ledger.correct(name, self._ledger.reservations[name] + count)
            self._residents.wake()
            return True

    def correct(self, count: int) -> None:
        """Replace the model's reservation by `count` bytes; where that passes the budget, idle models go."""
        with self._residents.lock:
            if self._resident.state is not State.READY:
                return
            self._ledger.correct(self._resident.name, count)
            self._residents.wake()
        self._settle()

    def withdraw(self, reason: str) -> None:
        """Have the model taken out, with the reason."""
        with contextlib.suppress(UnavailableError):  # a drain past its limit goes on by itself
            self._withdraw(self._resident, reason)
