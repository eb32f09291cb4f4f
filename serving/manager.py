"""What is loaded: the one owner of residency.

Callers say `with manager.ready(name) as resident:` and never see a state. Deciding is left to pure rooms (`lifecycle`,
`ledger`, `eviction`); acting happens here and in `room`. Slow work (unpacking, loading, draining, unloading, measuring)
never holds the lock: the state is marked under it, the work is done outside, the result is committed under it.

Two modes, one engine. Platform: models come by `load`, go by `unload`, nothing is evicted, what does not fit is 507 at
once. Standalone: a model is also loaded by its first request, and the least recently used idle models make room.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

from serving import memory
from serving.backends.base import Backend
from serving.books import Books
from serving.errors import (
    DeadlineExceededError,
    LoadFailedError,
    ModelConflictError,
    ModelNotFoundError,
    ServingError,
    UnavailableError,
)
from serving.journal import Journal
from serving.lease import Lease
from serving.ledger import Ledger
from serving.lifecycle import Event, State
from serving.loader import Loader
from serving.logs import quoted
from serving.metrics import Gauges, Metrics
from serving.recall import Recall
from serving.repository.source import ModelSource
from serving.residents import Limits, Resident, Residents
from serving.room import OnEvict, Room
from serving.scales import Scales
from serving.tenant import Tenant
from serving.unloader import Unloader

log = logging.getLogger("wharf.manager")

# A model that was withdrawn is not loaded again by a request for so long: it would only die again.
_WITHDRAWN_S = 30.0


class ModelManager:
    """Loads, shares, evicts and unloads models by accounting."""

    def __init__(  # noqa: PLR0913  the composition root is the one caller
        self,
        source: ModelSource,
        backends: Mapping[str, Backend],
        ledger: Ledger,
        metrics: Metrics,
        *,
        is_platform: bool,
        limits: Limits | None = None,
        journal: Journal | None = None,
        on_evict: OnEvict | None = None,
        scales: Scales | None = None,
    ) -> None:
        self._source = source
        self._scales = scales or Scales()
        self._books = Books(ledger, self._scales.ledgers)
        self._metrics = metrics
        self.is_platform = is_platform
        self._limits = limits or Limits()
        self._journal = journal or Journal(None)
        self._residents = Residents()
        self._lock = self._residents.lock
        self._by_name = self._residents.by_name
        accounts = (self._books, self._scales, metrics)
        unloader = self._unloader = Unloader(self._residents, *accounts, self._save, self._limits.drain_timeout_s)
        self._room = Room(
            *(self._residents, self._books, metrics, unloader.finish), may_evict=not is_platform, on_evict=on_evict
        )
        self._loader = Loader(
            source, backends, self._residents, self._room, *accounts, concurrency=self._limits.load_concurrency
        )
        self._journal_lock = threading.Lock()
        self.recall = Recall(self._residents)
        self._urls = self.recall.urls
        self._barred = self.recall.barred
        self._withdrawn: dict[str, tuple[str, float]] = {}  # why, and when (of the monotonic clock)
        source.overrides.is_wanted = self.recall.is_wanted

    # ---- what callers ask -------------------------------------------------------------------------------------------

    def ready(self, name: str) -> Lease:
        """Hold `name` ready for the length of a `with`.

        Raises `ModelNotFoundError`, what its load raises, or `UnavailableError` when it is not ready in time.
        """
        return Lease(self._take, self._acquire, self._release, name)

    def prepare(self, backend: Backend) -> None:
        """Start a runtime before any model needs it; its memory is accounted as if one did."""
        self._loader.prepare(backend)

    def load(self, name: str, url: str) -> None:
        """Load `name` from `url` and return when it is ready.

        A second load of a name that is loading joins it: `ModelConflictError` after success, the same error after
        failure. One of another url waits for its end.
        """
        self._source.check(url)
        deadline = time.monotonic() + self._limits.load_timeout_s
        with self._lock:
            while (resident := self._by_name.get(name)) is not None:
                if resident.state is State.LOADING and resident.url == url:
                    self._join(resident, DeadlineExceededError(f"Model '{name}' is still loading."), deadline)
                if resident.state is State.READY:
                    raise ModelConflictError(
                        f"Model '{name}' is loaded from '{resident.url}' already: unload it first."
                    )
                moves = "loading" if resident.state is State.LOADING else "being unloaded"
                self._residents.wait(deadline, DeadlineExceededError(f"Model '{name}' is still {moves}."))
            self._refuse_when_closing()
            resident = self._by_name[name] = Resident(name, url, is_first=True)
            resident.is_claimed = True
        self._load(resident, deadline)

    def unload(self, name: str, *, stays_away: bool = False) -> Resident:
        """Unload `name`: no new requests, drain, let go, give the memory back; return, what went, when it is free.

        Raises `ModelNotFoundError` for a name that is not loaded, `UnavailableError` when the drain takes too long;
        then the unload goes on by itself. One that `stays_away` is barred; it is waited for while a request loads it.
        """
        deadline = time.monotonic() + self._limits.load_timeout_s
        with self._lock:
            while (resident := self.recall.named(name)) is not None and resident.state is not State.READY:
                if not resident.is_visible and not stays_away:
                    raise self._unknown(name)
                self._residents.wait(deadline, UnavailableError(f"Model '{name}' is still being loaded: try again."))
            self.recall.leaves(name, resident, stays_away=stays_away)
            if resident is not None:
                self._residents.move(resident, Event.UNLOAD)
        if resident is None:
            self._source.overrides.sweep()
            self._save()
            raise self._unknown(name)
        self._unloader.finish(resident)
        return resident

    def loaded(self) -> list[tuple[str, str]]:
        """Return (name, url) of every loaded model, sorted by name. Never waits for a load, an unload or a run."""
        with self._lock:
            return sorted((each.name, each.url) for each in self._by_name.values() if each.is_visible)

    def peek(self, name: str) -> Resident | None:
        """Return `name` if it is READY at this moment; to describe it, never to use it."""
        with self._lock:
            return self.recall.ready(name)

    def state_of(self, name: str) -> State | None:
        """Return where `name` is in its life at this moment, None where it is not loaded; to describe it."""
        with self._lock:
            resident = self.recall.named(name)
            return None if resident is None else resident.state

    def url_of(self, name: str) -> str:
        """Return the url that `name` was loaded from; raise `ModelNotFoundError`."""
        with self._lock:
            resident = self.recall.named(name)
            if resident is None or not resident.is_visible:
                raise self._unknown(name)
            return resident.url

    def restore(self) -> None:
        """Take back what the journal lists: listed at once, loaded in the background, sooner when a request asks."""
        # Largest first: a load wants more than what stays, and the small ones fit beside a large one, not before it.
        journal = self._journal.read()
        with self._lock:
            self._urls |= self._journal.read_evicted() | journal
            known = list(self._urls.values())
        self._source.overrides.adopt(known)
        urls = sorted(journal.items(), key=lambda entry: -self._source.size_bytes(entry[1]))
        restored = [Resident(name, url, is_first=True, is_listed=True) for name, url in urls]
        with self._lock:
            self._by_name.update((each.name, each) for each in restored)
        if restored:
            log.info("event=restoring models=%d", len(restored))
            threading.Thread(target=self._restore, args=(restored,), name="restore", daemon=True).start()

    def close(self, timeout_s: float) -> bool:
        """Refuse new work, drain and unload everything within `timeout_s`; return whether all of it ended."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            self._room.is_closed = True
            self._scales.close()
            ready = [each for each in self._by_name.values() if each.state is State.READY]
            for resident in ready:
                self._residents.move(resident, Event.UNLOAD)
            self._residents.wake()
        is_clean = True
        for resident in ready:
            try:
                self._unloader.finish(resident, max(0.0, deadline - time.monotonic()))
            except UnavailableError:
                is_clean = False
        return is_clean

    def gauges(self) -> Gauges:
        """Return what `/metrics` shows of the present."""
        return self._residents.gauges(self._books, self._scales, self._room.queue)

    # ---- one request ------------------------------------------------------------------------------------------------

    def _take(self, name: str) -> Resident | None:
        with self._lock:
            resident = self.recall.ready(name)
            if resident is not None:
                resident.in_flight += 1
            return resident

    def _release(self, resident: Resident) -> None:
        with self._lock:
            resident.in_flight -= 1
            self._residents.touch(resident)
            self._residents.wake()
            is_over = self._books.is_over
        if is_over:  # a correction passed the budget while this model was busy
            self._room.settle()

    def _acquire(self, asked: str) -> Resident:
        """Join, start or wait for a model that is not READY, and take it."""
        started = time.monotonic()
        deadline = started + self._limits.request_timeout_s
        while (resident := self._claim(*self._find(asked), deadline)) is None:
            pass
        self._metrics.observe("ModelLoadingWaitTime", time.monotonic() - started)
        return resident

    def _find(self, asked: str) -> tuple[str, str]:
        """Return the name of the repository for a name as asked, and the url to load it from.

        Raises `ModelNotFoundError`; in platform mode for every name that is not resident.
        """
        with self._lock:
            if asked in self._by_name:
                return asked, self._by_name[asked].url
            if self.is_platform or asked in self._barred:
                raise self._unknown(asked)
            reason, since = self._withdrawn.get(asked, ("", 0.0))
            if reason and time.monotonic() < since + _WITHDRAWN_S:
                raise UnavailableError(reason)
            if asked in self._urls:
                return asked, self._urls[asked]
        name, url = self._source.find(asked)
        self.recall.aliases[asked] = name
        return name, url

    def _claim(self, name: str, url: str, deadline: float) -> Resident | None:
        """Take `name` when it is ready; None means: it changed meanwhile, ask again.

        1. Nobody there: standalone begins to load it, platform says 404. 2. READY: take it. 3. UNLOADING: 404 or wait.
        4. LOADING and claimed: join. 5. LOADING, unclaimed (new, or restored): this very thread loads it.
        """
        with self._lock:
            resident = self._by_name.get(name)
            if resident is None:  # (1)
                if self.is_platform or name in self._barred:
                    raise self._unknown(name)
                self._refuse_when_closing()
                resident = self._by_name[name] = Resident(name, self._urls.get(name, url))
            if resident.state is State.UNLOADING:  # (3)
                if self.is_platform:
                    raise self._unknown(name)
                self._residents.wait(deadline, UnavailableError(f"Model '{name}' is being unloaded: try again."))
                return None
            resident.in_flight += 1
            if resident.state is State.READY:  # (2)
                return resident
            if resident.is_claimed:  # (4)
                try:
                    self._refuse_crowd(resident)
                    self._join(resident, UnavailableError(f"Model '{name}' is still loading: try again."), deadline)
                except ServingError:
                    resident.in_flight -= 1
                    raise
                return resident
            resident.is_claimed = True
        self._load(resident, deadline)  # (5)
        return resident

    def _refuse_crowd(self, resident: Resident) -> None:
        """Keep requests for one slow load from taking every place of the models that are ready."""
        if resident.in_flight > self._limits.waiters_per_load:
            raise UnavailableError(
                f"Model '{resident.name}' is loading and {resident.in_flight - 1} requests wait for it: try again."
            )

    def _join(self, resident: Resident, too_late: ServingError, deadline: float) -> None:
        """Wait, under the lock, for the end of a load that another thread runs; raise what it raised."""
        while resident.state is State.LOADING:
            self._residents.wait(deadline, too_late)
        if resident.error is not None:
            raise resident.error

    # ---- loading ----------------------------------------------------------------------------------------------------

    def _load(self, resident: Resident, deadline: float) -> None:
        started = time.monotonic()
        try:
            brought = self._loader.bring_in(resident, deadline)
        except BaseException as error:
            failure = self._fail(resident, error)
            if failure is error:
                raise
            raise failure from None
        with self._lock:
            if resident.is_first:
                self._urls[resident.name] = resident.url
            resident.weights = self._scales.weigh(resident.name, resident.watch, brought.expected, brought.growths)
            self._books.host.correct(resident.name, brought.resident_bytes)
            resident.model = brought.model
            self._withdrawn.pop(resident.name, None)
            self.recall.arrives(resident.name)
            self._residents.touch(resident)
            self._residents.move(resident, Event.LOADED)
        brought.model.attach(Tenant(resident, self._residents, self._books.host, self._room.settle, self._withdraw))
        seconds = time.monotonic() - started
        self._metrics.observe("ModelLoadingTime", seconds)
        log.info(
            "event=loaded model=%s seconds=%.3f bytes=%d predicted_bytes=%d%s",
            *(quoted(resident.name), seconds, brought.resident_bytes, brought.predicted_bytes),
            "".join(f" cuda{index}_bytes={each.booked_bytes}" for index, each in resident.weights.items()),
        )
        self._room.settle(resident)
        self._save()
        self._source.overrides.sweep()  # what came with the load before

    def _fail(self, resident: Resident, cause: BaseException) -> ServingError:
        """Leave nothing behind: no name, no reservation, no memory, no hold on files; waiters get the same error."""
        error = cause
        if not isinstance(error, ServingError):
            log.error("event=load_crashed model=%s", quoted(resident.name), exc_info=error)
            error = LoadFailedError(f"Model '{resident.name}' failed to load: {type(error).__name__}; see the log.")
        log.warning("event=load_failed model=%s status=%d error=%r", quoted(resident.name), error.status, error.message)
        self._metrics.count("LoadFailures")
        if resident.artifact is not None:
            resident.artifact.release()
        memory.forget_locals(cause)
        memory.give_back()
        self._scales.settle_failure(resident.name, resident.watch, self._lock)
        with self._lock:
            self._books.release(resident.name)
            # An evicted model whose reload failed is still known, unless what its url led to is gone.
            if resident.is_listed or isinstance(error, ModelNotFoundError):
                self._urls.pop(resident.name, None)
            if not self.is_platform:  # there a model that is not loaded is not there
                self.recall.fails(resident.name, error)
            resident.error = error
            self._residents.move(resident, Event.LOAD_FAILED)
        self._source.overrides.sweep()
        self._save()
        return error

    def _restore(self, restored: list[Resident]) -> None:
        self._scales.settle_in(self._lock)
        for resident in restored:
            with self._lock:
                is_mine, resident.is_claimed = not resident.is_claimed, True
            if is_mine:
                try:
                    self._load(resident, time.monotonic() + self._limits.load_timeout_s)
                except ServingError:
                    log.error("event=not_restored model=%s url=%s", quoted(resident.name), quoted(resident.url))

    def _withdraw(self, resident: Resident, reason: str) -> None:
        """Take out a model that is beyond repair; requests for it hear why."""
        with self._lock:
            if resident.state is not State.READY:
                return
            self._withdrawn[resident.name] = (reason, time.monotonic())
            self._residents.move(resident, Event.UNLOAD)
        log.error("event=withdrawn model=%s reason=%r", quoted(resident.name), reason)
        self._metrics.count("Withdrawn")
        self._unloader.finish(resident)

    def _save(self) -> None:
        if self._room.is_closed:  # a server process that is asked to end leaves the journal to the next one
            return
        with self._journal_lock:
            self._journal.write(dict(self.loaded()), self.recall.evicted())

    def _refuse_when_closing(self) -> None:
        if self._room.is_closed:
            raise UnavailableError("The server is shutting down: send the request to another one.")

    def _unknown(self, name: str) -> ModelNotFoundError:
        hint = "load it with POST /models" if self.is_platform else "GET /repository lists what there is"
        hint = "it was unloaded, load it again" if name in self._barred else hint
        reason = f" (withdrawn: {self._withdrawn[name][0]})" if name in self._withdrawn else ""
        return ModelNotFoundError(f"Model '{name}' is not loaded{reason}: {hint}.")
