"""Bringing a model in: unpack, say what it is, reserve, load, measure, in memory and on devices.

All of it is slow work and none of it holds the lock. What fits is `room`'s business, what the bytes mean a backend's;
who may use the model then, and what a failure leaves, is the manager's. Called by `manager` alone.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from serving import memory
from serving.backends.base import Backend, Footprint, LoadedModel
from serving.backends.compound import all_of, backend_of
from serving.books import Books, Demand
from serving.errors import InsufficientMemoryError, UnavailableError
from serving.logs import quoted
from serving.metrics import Metrics
from serving.repository.layouts import ModelSpec
from serving.repository.source import ModelSource
from serving.residents import Resident, Residents
from serving.room import Room
from serving.scales import Expected, Scales
from serving.watch import Growth, Watch

log = logging.getLogger("wharf.manager")

# A smaller model's growth drowns in what the heap takes at a time, so the prediction stands.
_MEASURABLE_BYTES = 4 << 20
# What torch's import holds (the larger runtime: 150 MiB measured); growth past it, beside a load, is the load's.
_RUNTIME_BYTES = 160 << 20


@dataclass(frozen=True, slots=True)
class Brought:
    """A model that is ready, the bytes it holds, and the bytes that were predicted.

    Of its devices: what it is expected to hold on each, and how their use grew.
    """

    model: LoadedModel
    resident_bytes: int
    predicted_bytes: int
    expected: Expected = Expected(0, 0)
    growths: Mapping[int, Growth] = field(default_factory=dict)


class Loader:
    """The way from a url to a model in memory; at most `concurrency` at once."""

    def __init__(  # noqa: PLR0913  the manager is the one caller
        self,
        source: ModelSource,
        backends: Mapping[str, Backend],
        residents: Residents,
        room: Room,
        books: Books,
        scales: Scales,
        metrics: Metrics,
        *,
        concurrency: int,
    ) -> None:
        self._source = source
        self._backends = backends
        self._residents = residents
        self._room = room
        self._books = books
        self._scales = scales
        self._metrics = metrics
        self._slots = threading.BoundedSemaphore(concurrency)
        self._prepare_lock = threading.Lock()
        self._prepared: set[str] = set()

    def bring_in(self, resident: Resident, deadline: float) -> Brought:
        """Make `resident` ready and leave its reservation at the peak of the load.

        Raises `UnavailableError` when other loads leave it no turn until `deadline` (of the monotonic clock), and
        whatever source, room or backend raise; what was taken until then is the caller's to give back.
        """
        with self._turn(resident.name, deadline):
            started = time.monotonic()
            artifact = resident.artifact = self._source.open(resident.name, resident.url)
            self._metrics.observe("ModelDownloadingTime", time.monotonic() - started)
            for warning in dict.fromkeys(warning for each in all_of(artifact.spec) for warning in each.warnings):
                _warn(resident.name, warning)
            backend = backend_of(self._backends, artifact.spec)
            footprint, wish = backend.footprint(artifact.spec), artifact.spec.wish
            peak_bytes = wish.peak(footprint.peak_bytes)
            demand = Demand(peak_bytes, wish.device_peak(footprint.device_peak_bytes), footprint.devices)
            if demand.device_bytes:
                self._scales.look_again(self._residents.lock)
            self._books.check_possible(resident.name, demand)
            for each in all_of(artifact.spec):
                self.prepare(self._backends[each.format])
            placement = self._room.reserve(resident, demand, deadline)
            spec = artifact.spec.placed(placement) if placement.devices else artifact.spec
            resident.watch = self._scales.load(backend.name, placement, deadline)
            if not backend.is_outside:
                with self._on_devices(resident) as watch:
                    return self._weighed(self._load_here(backend, spec, footprint), footprint, watch)
        # People's code may take its time, or hang: the turn is for those who work in this process.
        with self._on_devices(resident) as watch:
            model = backend.load(spec)
            held_bytes = model.held_bytes() or footprint.resident_bytes
            try:
                self._room.keep(resident.name, held_bytes)
            except InsufficientMemoryError:
                model.close()
                raise
            return self._weighed(Brought(model, held_bytes, footprint.resident_bytes), footprint, watch)

    def _load_here(self, backend: Backend, spec: ModelSpec, footprint: Footprint) -> Brought:
        # A walk through the process' pages for a model too small to be found in them would be in vain.
        is_worth_it = footprint.resident_bytes >= _MEASURABLE_BYTES
        with self._residents.moves.move() as move:
            before_bytes = _settled_bytes() if is_worth_it else 0
            model = backend.load(spec)
            grown_bytes = _settled_bytes() - before_bytes if is_worth_it else 0
            is_alone = self._residents.moves.stood_still(move)
        return Brought(model, _believed(grown_bytes, footprint, is_alone=is_alone), footprint.resident_bytes)

    @contextmanager
    def _on_devices(self, resident: Resident) -> Iterator[Watch]:
        with resident.watch as watch:
            if not watch.has_turn:
                raise UnavailableError(f"Model '{resident.name}' waits for an unload on its device: try again.")
            yield watch

    def _weighed(self, brought: Brought, footprint: Footprint, watch: Watch) -> Brought:
        """Add what the load did to its devices; what a model's own allocator counted goes before the prediction."""
        exact = brought.model.device_bytes()
        resident_bytes = footprint.device_resident_bytes if exact is None else exact
        expected = Expected(
            *(footprint.device_peak_bytes, resident_bytes), is_exact=exact is not None, is_apart=footprint.is_apart
        )
        return replace(brought, expected=expected, growths=watch.growths())

    @contextmanager
    def _turn(self, name: str, deadline: float) -> Iterator[None]:
        if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise UnavailableError(f"Model '{name}' waits for other loads (WHARF_LOAD_CONCURRENCY at once): try again.")
        try:
            yield
        finally:
            self._slots.release()

    def prepare(self, backend: Backend) -> None:
        """Import the runtime once, before anything is measured: it is the server's memory, not the first model's."""
        if backend.name in self._prepared:  # nobody waits for the runtime of another
            return
        with self._prepare_lock:
            if backend.name in self._prepared:
                return
            with self._residents.moves.move() as move, self._scales.prepare(backend.name) as watch:
                before_bytes = _settled_bytes() + backend.outside_bytes()
                is_new = backend.prepare()
                grown_bytes = _settled_bytes() + backend.outside_bytes() - before_bytes
                is_alone = self._residents.moves.stood_still(move)
                grown_on_devices = watch.grown_at_least()
            self._prepared.add(backend.name)
            if is_new:
                with self._residents.lock:
                    self._books.host.runtime_grew(grown_bytes if is_alone else min(grown_bytes, _RUNTIME_BYTES))
                    self._scales.note_runtime(backend.name, grown_on_devices)


@functools.lru_cache(maxsize=4096)  # a model may be loaded a hundred times a day; it says this once
def _warn(model: str, warning: str) -> None:
    log.warning("event=configuration model=%s warning=%s", quoted(model), quoted(warning))


def _settled_bytes() -> int:
    """Return what the process holds without the free pages of its heap, which a load could take unseen."""
    memory.trim()
    return memory.walked_bytes()


def _believed(grown_bytes: int, footprint: Footprint, *, is_alone: bool) -> int:
    """Return what was measured where that can be told, else what was predicted.

    Growth beside another load or unload would be theirs as well. Requests that ran meanwhile can hide growth or look
    like it: between three quarters of the prediction and the predicted peak it is believed.
    """
    if not is_alone or footprint.resident_bytes < _MEASURABLE_BYTES:
        return footprint.resident_bytes
    return min(max(grown_bytes, footprint.resident_bytes * 3 // 4), footprint.peak_bytes)
