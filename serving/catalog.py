"""The repository as V2's clients see and steer it: which models there are, which are ready, load, unload, counts.

Remembers what the manager does not: which models were unloaded here, so that no mere request brings them back, and why
a load failed. What is loaded is the manager's to know, where a model lies `repository/source`'s. Knows neither HTTP nor
gRPC; `http/v2` and `grpc/service` call it, and `inference` asks before it holds a model.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from serving.errors import (
    BadRequestError,
    InsufficientMemoryError,
    LoadFailedError,
    ModelConflictError,
    ModelNotFoundError,
    ServingError,
    UnavailableError,
    UnsupportedError,
)
from serving.manager import ModelManager
from serving.repository.ensemble_steps import Step
from serving.repository.layouts import ModelSpec
from serving.repository.source import ModelSource
from serving.residents import Resident
from serving.statistics import Statistics


class Catalog:
    """What the repository extension and the statistics extension ask."""

    def __init__(self, manager: ModelManager, source: ModelSource, statistics: Statistics) -> None:
        self._manager = manager
        self._source = source
        self._statistics = statistics
        self._lock = threading.Lock()
        self._unloaded: set[str] = set()  # not loaded again by a mere request
        self._failed: dict[str, str] = {}

    # ---- what is there ----------------------------------------------------------------------------------------------

    def is_ready(self, name: str, version: str = "") -> bool:
        """Say whether a request for `name` would be served: it is loaded, or (standalone) loads when asked for."""
        if self._is_unloaded(name):
            return False
        resident = self._manager.peek(name)
        if resident is not None:
            return version in ("", "-1", spec_of(resident).version)
        return not self._manager.is_platform and self._is_available(name) and version in ("", "-1", "1")

    def stats(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """Return the statistics of a model's versions, of all without a name; 400 for an unknown one."""
        found = [each for each in self._statistics.known(name) if version in ("", each.version)]
        if name and not found:
            resident = self._manager.peek(name)
            if resident is None:
                raise BadRequestError(f"requested model '{name}' is not available")
            found = [self._statistics.of(name, spec_of(resident).version)]
        return [each.document() for each in found]

    def index(self, *, only_ready: bool = False) -> list[dict[str, str]]:
        """Return the repository's index: every model with its version and state, as far as they are known."""
        rows: dict[str, dict[str, str]] = {name: {"name": name} for name in self._source.available()}
        for name in self._unloaded:
            rows[name] = {"name": name, "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        for name, reason in self._failed.items():
            rows[name] = {"name": name, "version": "1", "state": "UNAVAILABLE", "reason": reason}
        for name, _ in self._manager.loaded():
            resident = self._manager.peek(name)
            if resident is not None:
                rows[name] = {"name": name, "version": spec_of(resident).version, "state": "READY"}
        return [rows[name] for name in sorted(rows) if not only_ready or rows[name].get("state") == "READY"]

    def _is_available(self, name: str) -> bool:
        try:
            self._source.find(name)
        except ServingError:
            return False
        return True

    def _is_unloaded(self, name: str) -> bool:
        """Say whether the repository extension unloaded it, and nobody loaded it since."""
        return name in self._unloaded and self._manager.peek(name) is None

    def refuse_unloaded(self, name: str) -> None:
        """Raise `ModelNotFoundError`, in Triton's words, for a model that was unloaded here."""
        if self._is_unloaded(name):
            raise ModelNotFoundError(f"Request for unknown model: '{name}' has no available versions")

    # ---- the repository extension -----------------------------------------------------------------------------------

    def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Load, or load anew, a model of the repository.

        Raises what the load raises; a name that is not there is Triton's `failed to load ...`, with our reason.
        """
        if parameters:
            raise UnsupportedError(
                f"load of '{name}' has the parameters {sorted(parameters)}, which this version does not act on: change "
                "the model's files and load it without."
            )
        try:
            canonical, url = self._source.find(name)
            try:
                self._manager.load(canonical, url)
            except ModelConflictError:
                self._manager.unload(canonical)
                self._manager.load(canonical, url)
        except InsufficientMemoryError:
            raise
        except ModelNotFoundError as error:
            raise LoadFailedError(
                f"failed to load '{name}', failed to poll from model repository: {error.message}"
            ) from None
        except ServingError as error:
            with self._lock:
                self._failed[name] = error.message
            raise type(error)(f"load failed for model '{name}': {error.message}") from None
        with self._lock:
            self._unloaded.discard(name)
            self._failed.pop(name, None)

    def unload(self, name: str, *, with_members: bool = False) -> None:
        """Unload a model; an unknown or unloaded name is no error, as with Triton. Returns when its memory is back.

        `with_members`: the members of an ensemble go, too.
        """
        resident = self._manager.peek(name)
        steps: tuple[Step, ...] = getattr(resident.model, "steps", ()) if resident and with_members else ()
        with self._lock:
            if self._manager.peek(name) is not None or self._is_available(name):
                self._unloaded.add(name)
        try:
            self._manager.unload(name)
        except ModelNotFoundError:
            return
        finally:
            for member in dict.fromkeys(each.model for each in steps):
                self.unload(member)


def spec_of(resident: Resident) -> ModelSpec:
    """Return what a resident is served as; raise `UnavailableError` for one that has no files yet."""
    if resident.artifact is None:
        raise UnavailableError(f"Request for unknown model: '{resident.name}' is not at ready state")
    return resident.artifact.spec
