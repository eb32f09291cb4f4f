"""The repository as V2's clients see and steer it: which models there are, which are ready, load, unload, counts.

Remembers what the manager does not: which models were unloaded here, so that no mere request brings them back, and why
a load failed. A load is first polled (found, unpacked, described), so that what cannot be served leaves a model that is
loaded as it was. What is loaded is the manager's to know, where a model lies `repository/source`'s. Texts are Triton's.
Knows neither HTTP nor gRPC; `http/v2` and `grpc/service` call it, and `inference` asks before it holds a model.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import (
    TEXT_MAX_CHARS,
    BadRequestError,
    InsufficientMemoryError,
    InvalidArtifactError,
    LoadFailedError,
    ModelConflictError,
    ModelNotFoundError,
    ServingError,
    UnavailableError,
)
from serving.logs import quoted
from serving.manager import ModelManager
from serving.repository.ensemble_steps import Step
from serving.repository.keyed_locks import KeyedLocks
from serving.repository.layouts import ModelSpec
from serving.repository.overrides import Override
from serving.repository.source import ModelSource
from serving.residents import Resident
from serving.statistics import Statistics

log = logging.getLogger("wharf.catalog")

_LATEST = ("", "-1")
_FIRST = "1"

# Of a client that repeats a load before it is over, each call waits in a place that others need: a minute, as requests.
_TURN_S = 60.0


@dataclass(frozen=True, slots=True)
class _Gone:
    """A model that was unloaded here, or whose load failed; without a `reason` it had never been loaded."""

    versions: tuple[str, ...] = ("1",)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Polled:
    """A model that can be loaded, as far as its files say."""

    name: str
    url: str
    version: str
    members: frozenset[str]


class Catalog:
    """What the repository extension and the statistics extension ask."""

    def __init__(
        self, manager: ModelManager, source: ModelSource, statistics: Statistics, turn_s: float = _TURN_S
    ) -> None:
        self._manager = manager
        self._source = source
        self._statistics = statistics
        self._lock = threading.Lock()
        self._gone: dict[str, _Gone] = {}
        self._one_at_a_time = KeyedLocks()
        self._turn_s = turn_s

    # ---- what is there ----------------------------------------------------------------------------------------------

    def is_ready(self, name: str, version: str = "") -> bool:
        """Say whether a request for `name` would be served: it is loaded, or (standalone) loads when asked for."""
        if self._gone_for(name) is not None:
            return False
        resident = self._manager.peek(self.whole(name))
        if resident is not None:
            return version in (*_LATEST, *_versions(resident))
        may_load = not self._manager.is_platform and self._is_known(name)
        return may_load and version in (*_LATEST, _FIRST)

    def states(self, name: str) -> list[tuple[str, str, str]]:
        """Return version, state and reason of what a model has or would have, states as TensorFlow Serving names them.

        None for a model that is not there. What a first request would load is as good as loaded, as in `is_ready`,
        unless its last load failed.
        """
        gone = self._gone_for(name)
        if gone is not None:
            reason = "" if gone.reason == "unloaded" else gone.reason
            return [(version, "END", reason) for version in gone.versions] if gone.reason else []
        whole = self.whole(name)
        resident = self._manager.peek(whole)
        if resident is not None:
            return [(version, "AVAILABLE", "") for version in _versions(resident)]
        state = self._manager.state_of(whole)
        if state is None and (self._manager.is_platform or not self._is_known(whole)):
            return []
        try:
            versions = self._versions_unloaded(whole)
        except ServingError as error:
            return [(_FIRST, "END", error.message)]
        reason = self._manager.recall.failed.get(whole, "") if state is None else ""
        here = state.name if state is not None else "END" if reason else "AVAILABLE"
        return [(version, here, reason) for version in versions]

    def _is_known(self, name: str) -> bool:
        return self._manager.recall.knows(name) or self._is_available(name)

    def _versions_unloaded(self, name: str) -> tuple[str, ...]:
        """Return the versions that a load would bring, as far as that is known without unpacking anything."""
        if counted := self._statistics.known(name):
            return tuple(each.version for each in counted)
        if not self._is_available(name) or not Path(self._source.find(name)[1]).is_dir():
            return (_FIRST,)
        artifact = self._source.open(*self._source.find(name))
        artifact.release()
        return tuple(each.version for each in (*artifact.spec.versions, artifact.spec))

    def refuse_unloaded(self, name: str) -> None:
        """Raise `ModelNotFoundError` for a model that was unloaded here, or whose load failed, and not loaded since."""
        gone = self._gone_for(name)
        if gone is not None:
            fault = "has no available versions" if gone.reason else "is not found"
            raise ModelNotFoundError(f"Request for unknown model: '{name}' {fault}")

    def stats(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """Return the statistics of a model's versions, without a name of all models that are there.

        Raises `BadRequestError` for a model or a version that is not.
        """
        if not name:
            everybody = {each.name for each in self._statistics.known()} | {each for each, _ in self._manager.loaded()}
            return [row for each in sorted(everybody) if self._has_counts(each) for row in self._counts(each)]
        whole = self.whole(name)
        if not self._has_counts(whole):
            raise BadRequestError(f"requested model '{name}' is not available")
        found = [each for each in self._counts(whole) if version in (*_LATEST, each["version"])]
        if not found:
            raise BadRequestError(f"requested model version is not available for model '{name}'")
        return found

    def _has_counts(self, name: str) -> bool:
        """Say whether a model is loaded, itself or in its ensemble, or was (standalone) and would be when asked for."""
        if self._manager.peek(name) is not None:
            return True
        if not self._statistics.known(name):
            return False
        owner = name.rpartition("/")[0]
        if owner and self._manager.peek(owner) is not None:
            return True
        is_gone = any(self._gone_for(each) is not None for each in (name, owner))
        return not self._manager.is_platform and not is_gone

    def _counts(self, name: str) -> list[dict[str, Any]]:
        resident = self._manager.peek(name)
        if resident is None:
            return [each.document() for each in self._statistics.known(name)]
        return [self._statistics.of(resident.name, version).document() for version in _versions(resident)]

    def index(self, *, only_ready: bool = False) -> list[dict[str, str]]:
        """Return the repository's index: every model with its version and state, as far as they are known."""
        rows: dict[str, list[dict[str, str]]] = {name: [{"name": name}] for name in self._source.available()}
        with self._lock:
            gone = [(name, each) for name, each in self._gone.items() if each.reason and name in rows]
        for name, each in ((name, each) for name, each in gone if self._manager.recall.is_barred(name)):
            said = {"state": "UNAVAILABLE", "reason": each.reason}
            rows[name] = [{"name": name, "version": version} | said for version in each.versions]
        for name, _ in self._manager.loaded():
            resident = self._manager.peek(name)
            if resident is not None:
                rows[name] = [{"name": name, "version": each, "state": "READY"} for each in _versions(resident)]
        found = [row for name in sorted(rows) for row in rows[name]]
        return [row for row in found if row.get("state") == "READY"] if only_ready else found

    def whole(self, name: str) -> str:
        """Return the name that a model is known by: the repository's, with the suffix of an archive."""
        resident = self._manager.peek(name)
        if resident is not None:
            return resident.name
        with suppress(ServingError):
            return self._source.find(name)[0]
        return name

    def _is_available(self, name: str) -> bool:
        try:
            self._source.find(name)
        except ServingError:
            return False
        return True

    def _gone_for(self, name: str) -> _Gone | None:
        """Return what became of a model that is gone; None for all others, loaded meanwhile by whichever route."""
        if not self._gone:
            return None
        for each in (name, self.whole(name)):
            gone = self._gone.get(each)
            if gone is not None and self._manager.recall.is_barred(each):
                return gone
            with self._lock:
                if gone is not None and self._gone.get(each) is gone:
                    del self._gone[each]
        return None

    def _is_back(self, *names: str) -> None:
        self._manager.recall.unbar(*names)
        with self._lock:
            for each in names:
                self._gone.pop(each, None)

    # ---- load and unload --------------------------------------------------------------------------------------------

    def load(self, name: str, override: Override | None = None) -> None:
        """Load, or load anew, a model of the repository, or what comes with the load: see `overrides`.

        Raises `LoadFailedError` for what cannot be polled, `BadRequestError` when the model's own start failed,
        `UnsupportedError` for files where they are not allowed, `UnavailableError` when another call has the model for
        too long; else what the load raises.
        """
        with self._polled(name, override) as polled, self._turn(polled.name):
            self._is_back(*polled.members)  # whoever asks for an ensemble asks for them
            try:
                self._bring(polled)
            except (LoadFailedError, InvalidArtifactError) as error:
                said = error.said if isinstance(error, LoadFailedError) else ""
                reason = f"Internal: {said[:TEXT_MAX_CHARS] or error.message}"
                with self._lock:
                    self._gone[polled.name] = _Gone((polled.version,), reason)
                self._manager.recall.bar(polled.name)
                raise BadRequestError(
                    f"load failed for model '{name}': version {polled.version} is at UNAVAILABLE state: {reason};\n"
                ) from None
            except ModelNotFoundError as error:
                raise _not_polled(name, error) from None
            self._is_back(name, polled.name)

    def _turn(self, name: str) -> AbstractContextManager[None]:
        too_late = UnavailableError(f"Model '{name}' is being loaded, or unloaded, by another call: try again.")
        return self._one_at_a_time.hold(name, self._turn_s, too_late)

    @contextmanager
    def _polled(self, name: str, override: Override | None) -> Iterator[_Polled]:
        """Find and describe what is to be loaded, and hold its files meanwhile."""
        with ExitStack() as holds:
            try:
                if override is None:
                    canonical, url = self._source.find(name)
                else:
                    canonical, hold = self._source.take(name, override)
                    holds.callback(hold.release)
                    url = hold.url
                artifact = self._source.open(canonical, url)
            except (ModelNotFoundError, BadRequestError, LoadFailedError) as error:
                log.warning("event=not_polled model=%s error=%r", quoted(name), error.message)
                raise _not_polled(name, error) from None
            holds.callback(artifact.release)
            yield _Polled(canonical, url, artifact.spec.version, frozenset(self._members(artifact.spec, {canonical})))

    def _members(self, spec: ModelSpec, seen: set[str]) -> set[str]:
        """Return the names of all models that an ensemble loads, those of ensembles in it too."""
        steps = (spec.triton or {}).get("ensemble_scheduling", {}).get("step", ())
        found = {step.get("model_name", "") for step in steps}
        found -= {each.name.rpartition("/")[2] for each in spec.members}  # its own, which it loads itself
        for name in found - seen:
            seen.add(name)
            with suppress(ServingError):  # the load says what is wrong with it
                canonical, url = self._source.find(name)
                artifact = self._source.open(canonical, url)
                artifact.release()
                found |= {canonical} | self._members(artifact.spec, seen)
        return found

    def _bring(self, polled: _Polled) -> None:
        """Load it; where it is loaded already, that goes first, and comes back if what came with a load does not start.

        It goes first because nobody promised memory for two.
        """
        try:
            self._manager.load(polled.name, polled.url)
            return
        except ModelConflictError:
            pass
        with ExitStack() as holds:
            before = None
            with suppress(ServingError):  # it is gone meanwhile, or its files are: there is nothing to bring back
                url = self._manager.url_of(polled.name)
                holds.callback(self._source.open(polled.name, url).release)
                before = url
            self._manager.recall.expect(polled.name, polled.url)  # by requests that wait for the end of the old one
            try:
                with suppress(ModelNotFoundError):
                    self._manager.unload(polled.name)
            except ServingError:  # it drains yet
                self._manager.recall.expect(polled.name, before)
                raise
            try:
                self._manager.load(polled.name, polled.url)
            except ModelConflictError:
                if dict(self._manager.loaded()).get(polled.name, polled.url) != polled.url:
                    raise  # by another route
            except ServingError:
                self._bring_back(polled.name, before if before != polled.url else None)
                raise

    def _bring_back(self, name: str, url: str | None) -> None:
        self._manager.recall.expect(name, url)
        if url is not None:
            try:
                self._manager.load(name, url)
            except (ModelConflictError, UnavailableError, InsufficientMemoryError):
                pass  # a request did, or will
            except ServingError:
                self._manager.recall.expect(name, None)

    def unload(self, name: str, *, with_members: bool = False) -> None:
        """Unload a model; an unknown or unloaded name is no error, as with Triton. Returns when its memory is back.

        `with_members`: the members of an ensemble go, too.
        """
        whole = self.whole(name)
        steps: tuple[Step, ...] = ()
        try:
            with self._turn(whole):
                resident = self._manager.peek(whole)
                model = getattr(resident, "model", None)  # it may go at any moment
                steps = getattr(model, "steps", ()) if with_members else ()
                self._unload(whole, resident)
        finally:
            for member in dict.fromkeys(each.model for each in steps):
                self.unload(member)

    def _unload(self, whole: str, resident: Resident | None) -> None:
        is_there = self._note_unload(whole, resident)
        try:
            with suppress(ModelNotFoundError):
                resident = self._manager.unload(whole, stays_away=is_there)
        finally:
            self._note_unload(whole, resident)  # again: until it went, it was there, and a request may have seen it

    def _note_unload(self, whole: str, resident: Resident | None) -> bool:
        """Note what was, or is to be, unloaded; return whether there is such a model."""
        if resident is not None:
            gone = _Gone(_versions(resident), "unloaded")
        elif self._manager.recall.knows(whole) or self._is_available(whole):
            counted = self._statistics.known(whole)
            gone = _Gone(tuple(each.version for each in counted), "unloaded") if counted else _Gone()
        else:
            return False
        if resident is not None or self._gone_for(whole) is None:
            with self._lock:
                self._gone[whole] = gone
        return True


def spec_of(resident: Resident) -> ModelSpec:
    """Return what a resident is served as; raise `UnavailableError` for one that has no files yet."""
    if resident.artifact is None:
        raise UnavailableError(f"Request for unknown model: '{resident.name}' is not at ready state")
    return resident.artifact.spec


def _versions(resident: Resident) -> tuple[str, ...]:
    """Return the versions of a resident that are served, the one for who names none last."""
    spec = spec_of(resident)
    return tuple(each.version for each in (*spec.versions, spec))


def _not_polled(name: str, error: ServingError) -> LoadFailedError:
    """Return Triton's sentence, and the reason, which Triton has in its log alone."""
    return LoadFailedError(f"failed to load '{name}', failed to poll from model repository: {error.message}")
