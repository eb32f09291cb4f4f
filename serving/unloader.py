"""Taking a model out: drain, let go, give the memory back, end its reservations.

An unload is answered when a device's bytes are back too, or past a limit, with what is missing in the log. The other
way of `loader`, and slow work too: none of it holds the lock but the waiting for requests in flight, which gives it up.
Who must go is decided before. Called by `manager`, and through it by `room`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from serving import memory
from serving.books import Books
from serving.errors import UnavailableError
from serving.lifecycle import Event
from serving.logs import quoted
from serving.metrics import Metrics
from serving.residents import Resident, Residents
from serving.scales import Scales

log = logging.getLogger("wharf.manager")

# A drain that outlived its limit goes on in the background; a day is longer than any request.
_FOREVER_S = 86_400.0


class Unloader:
    """The way out of memory; `save` notes in the journal what is loaded."""

    def __init__(  # noqa: PLR0913  the manager is the one caller
        self,
        residents: Residents,
        books: Books,
        scales: Scales,
        metrics: Metrics,
        save: Callable[[], None],
        drain_timeout_s: float,
    ) -> None:
        self._residents = residents
        self._books = books
        self._scales = scales
        self._metrics = metrics
        self._save = save
        self._drain_timeout_s = drain_timeout_s

    def finish(self, resident: Resident, timeout_s: float | None = None) -> None:
        """Take out a model that is UNLOADING. A drain past its limit goes on in a thread of its own and raises."""
        started = time.monotonic()
        timeout_s = self._drain_timeout_s if timeout_s is None else timeout_s
        self._save()
        with self._residents.lock:
            try:
                while resident.in_flight:
                    self._residents.wait(started + timeout_s, resident.still_busy(timeout_s))
            except UnavailableError:
                threading.Thread(target=self.finish, args=(resident, _FOREVER_S), daemon=True).start()
                raise
        self._let_go(resident)
        seconds = time.monotonic() - started
        self._metrics.observe("ModelUnloadingTime", seconds)
        log.info("event=unloaded model=%s seconds=%.3f", quoted(resident.name), seconds)

    def _let_go(self, resident: Resident) -> None:
        lost: dict[int, int] = {}
        try:
            with self._scales.unload(resident.name, resident.weights) as missing:
                with self._residents.moves.move():
                    self._close(resident)
                lost = missing()
        finally:
            with self._residents.lock:
                self._scales.forget(resident.name, lost)
                self._books.release(resident.name)
                self._residents.move(resident, Event.UNLOADED)
        for index, count in lost.items():
            self._report(resident.name, index, count)

    def _report(self, name: str, index: int, count: int) -> None:
        self._metrics.count("DeviceGiveBackTimeouts")
        log.error(
            "event=device_bytes_not_back model=%s device=cuda:%d bytes=%d hint=%r",
            *(quoted(name), index, count),
            "they are out of the budget until they are back: see WHARF_DEVICE_GIVE_BACK",
        )

    def _close(self, resident: Resident) -> None:
        try:
            resident.model.close()
        except Exception:
            # Its memory may be lost; the name, the reservation and whoever waits for the room must not be.
            log.exception("event=close_failed model=%s", quoted(resident.name))
        finally:
            del resident.model
            if resident.artifact is not None:
                resident.artifact.release()
            memory.give_back()
