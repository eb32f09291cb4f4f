"""One inference in Triton's language, whatever wire it came by: hold the model, check, run, choose, count.

1. The model is held ready (standalone mode loads it). 2. Inputs are checked against its signature, with Triton's texts.
3. It runs: people's Python and batched models by `invoke`, others here within the core budget. 4. The outputs that were
asked for are chosen, classified where asked. 5. Statistics take one observation.

Also says what a model is (`model_documents` writes it) and does what the repository extension asks. Knows neither HTTP
nor gRPC; `http/v2` and `grpc/service` call it. SageMaker's own routes go their shorter way.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic, perf_counter_ns
from typing import Any, cast

from serving import outcomes
from serving.backends.base import HandlerModel, LoadedModel
from serving.backends.compound import CompoundModel
from serving.backends.ensemble import Member
from serving.codecs import json, v2, v2_raw
from serving.codecs.v2 import Question, Wanted
from serving.cores import CoreBudget
from serving.errors import (
    BadRequestError,
    InsufficientMemoryError,
    InvalidArtifactError,
    LoadFailedError,
    ModelConflictError,
    ModelNotFoundError,
    ServingError,
    UnavailableError,
    UnsupportedError,
)
from serving.fitting import choose, fit, rows_of
from serving.logs import quoted
from serving.manager import ModelManager
from serving.model_documents import config_of, metadata_of
from serving.outcomes import Piece
from serving.protocol_settings import LogSettings, TraceSettings
from serving.repository.ensemble_steps import Step
from serving.repository.layouts import ModelSpec
from serving.repository.source import ModelSource
from serving.residents import Resident
from serving.shared_memory import Regions
from serving.statistics import Spent, Statistics
from serving.tensors import Signature, Tensors
from serving.workers.handler import Request

log = logging.getLogger("wharf.inference")


@dataclass(slots=True)
class Answer:
    """What a model answered; of a stream one answer of several, or an `error` after which others may come."""

    model: str
    version: str
    id: str
    outputs: Tensors
    parameters: dict[str, Any] = field(default_factory=dict)
    is_last: bool = True
    error: ServingError | None = None

    @property
    def head(self) -> dict[str, Any]:
        """The answer without its outputs, keys in Triton's order."""
        head: dict[str, Any] = {"id": self.id} if self.id else {}
        head |= {"model_name": self.model, "model_version": self.version}
        return head | ({"parameters": self.parameters} if self.parameters else {})


class Inference:
    """The engine of the V2 protocol."""

    def __init__(  # noqa: PLR0913  the composition root is the one caller
        self,
        manager: ModelManager,
        source: ModelSource,
        cores: CoreBudget,
        statistics: Statistics,
        timeout_s: float,
        available: Callable[[], list[str]],
        regions: Regions | None = None,
    ) -> None:
        self._manager = manager
        self._source = source
        self._cores = cores
        self._timeout_s = timeout_s
        self._available = available
        self._lock = threading.Lock()
        self._unloaded: set[str] = set()  # by the repository extension: not loaded again by a mere request
        self._failed: dict[str, str] = {}
        self.statistics = statistics
        self.regions = regions or Regions(is_on=False)
        self.traces = TraceSettings(self.is_ready)
        self.logging = LogSettings()

    # ---- one request ------------------------------------------------------------------------------------------------

    def infer(
        self, name: str, version: str, question: Question, deadline: float | None = None, once: str = ""
    ) -> Answer:
        """Answer a request, before `deadline` (of the monotonic clock) or within the request limit.

        Raises `ModelNotFoundError`, `BadRequestError` with Triton's text, what the model raises, and
        `UnsupportedError` with the text `once`, if there is one, for a model that answers as often as it likes.
        """
        deadline = monotonic() + self._timeout_s if deadline is None else deadline
        with self._held(name, version, is_asked=True) as (model, spec):
            if once and _is_decoupled(spec):
                raise UnsupportedError(once)
            return self._answer(question, model, spec, deadline)

    def infer_held(self, resident: Resident, question: Question) -> Answer:
        """Answer a request of a model that the caller holds ready, under the name that it is held by."""
        spec = _spec(resident)
        return self._answer(question, resident.model, spec, monotonic() + self._timeout_s)

    def _answer(self, question: Question, model: LoadedModel, spec: ModelSpec, deadline: float) -> Answer:
        started = perf_counter_ns()
        counters = self.statistics.of(spec.name, spec.version)
        try:
            tensors, rows = self._checked(question, model, spec)
            outputs, spent = self._run(tensors, question, model, started, deadline)
            chosen = choose(outputs, question, spec, model.signature)
        except ServingError as error:
            is_rejected = isinstance(error, (BadRequestError, UnavailableError))
            counters.failed(perf_counter_ns() - started, is_rejected=is_rejected)
            raise
        counters.succeeded(perf_counter_ns() - started, spent, rows)
        if self.traces.take(spec.name):
            _trace(spec, question, started, spent)
        return Answer(spec.name, spec.version, question.id, chosen)

    def stream(self, name: str, version: str, question: Question) -> Iterator[Answer]:
        """Yield what a model answers, none to many times; closing it tells a decoupled model that the client left.

        An error of one answer is an `Answer` too; raises for one that is the end.
        """
        started = perf_counter_ns()
        with self._held(name, version, is_asked=True) as (model, spec):
            counters = self.statistics.of(spec.name, spec.version)
            has_failed = False
            try:
                tensors, rows = self._checked(question, model, spec)
                for piece in self._pieces(tensors, question, model, started):
                    has_failed |= piece.error is not None
                    chosen = {} if piece.error else choose(piece.outputs, question, spec, model.signature)
                    about = spec.name, spec.version, question.id
                    yield Answer(*about, chosen, piece.parameters, piece.is_last, piece.error)
            except ServingError:
                counters.failed(perf_counter_ns() - started)
                raise
            if has_failed:
                counters.failed(perf_counter_ns() - started)
                return
            spent = Spent(0, 0, perf_counter_ns() - started)
            counters.succeeded(perf_counter_ns() - started, spent, rows)
            if self.traces.take(spec.name):
                _trace(spec, question, started, spent)

    def _pieces(self, tensors: Tensors, question: Question, model: LoadedModel, started: int) -> Iterator[Piece]:
        deadline = monotonic() + self._timeout_s
        if not model.is_outside:
            return iter([Piece(self._run(tensors, question, model, started, deadline)[0], is_last=True)])
        request = Request(tensors=tensors, about=_about(question) | {"stream": "tensors"})
        return outcomes.pieces(cast("HandlerModel", model).invoke(request, deadline))

    # ---- members of ensembles ---------------------------------------------------------------------------------------

    def prepare(self, name: str) -> None:
        """Have a member of an ensemble loaded."""
        with self._held(name):
            return

    def call(self, step: Step, tensors: Tensors, about: Mapping[str, Any], deadline: float) -> Tensors:
        """Have a member of an ensemble answer; it is checked and counted like any model."""
        return self.infer(step.model, step.version, _question(step, tensors, about), deadline).outputs

    def call_own(
        self, member: Member, step: Step, tensors: Tensors, about: Mapping[str, Any], deadline: float
    ) -> Tensors:
        """Have a member that an ensemble holds itself answer, as any model does."""
        return self._answer(_question(step, tensors, about), *_version_of(*member, step.version), deadline).outputs

    # ---- what a model is --------------------------------------------------------------------------------------------

    def signature(self, name: str, version: str = "") -> Signature:
        """Return the model's inputs and outputs; loads it where that may be."""
        with self._held(name, version, is_asked=True) as (model, _):
            return model.signature

    def _checked(self, question: Question, model: LoadedModel, spec: ModelSpec) -> tuple[Tensors, int]:
        if model.is_outside and model.takes_bodies:
            raise UnsupportedError(
                f"Model '{spec.name}' has code of its own that reads bodies, not tensors: call "
                f"/models/{spec.name}/invoke or /invocations."
            )
        if question.raw is not None:
            most = spec.scheduling.max_batch_size if spec.scheduling else 0
            v2_raw.fill(question, model.signature, spec.name, has_batch=most > 0)
        return fit(question, model.signature, spec)

    def _run(
        self, tensors: Tensors, question: Question, model: LoadedModel, started: int, deadline: float
    ) -> tuple[Tensors, Spent]:
        if model.is_outside:
            began = perf_counter_ns()
            request = Request(tensors=tensors, about=_about(question))
            reply = cast("HandlerModel", model).invoke(request, deadline)
            if reply.chunks is not None or (reply.tensors is None and reply.status < 400 and reply.body):
                outcomes.close(reply)
                raise UnsupportedError("ModelInfer RPC doesn't support models with decoupled transaction policy")
            if reply.tensors is None:
                raise outcomes.failure(reply)
            spent = reply.spent or Spent(began - started, 0, perf_counter_ns() - began, 0, rows_of(tensors))
            return reply.tensors, spent
        with self._cores.lease(model.threads, max(0.0, deadline - monotonic())):
            began = perf_counter_ns()
            outputs = model.run(tensors)
            return outputs, Spent(began - started, 0, perf_counter_ns() - began, 0, rows_of(tensors))

    @contextmanager
    def _held(self, name: str, version: str = "", *, is_asked: bool = False) -> Iterator[tuple[LoadedModel, ModelSpec]]:
        """Hold a model; for who asks it, one that cannot be loaded as it is is none, and the log says why."""
        _check_version(version)
        self._refuse_unloaded(name)
        try:
            lease = self._manager.ready(name)
            resident = lease.__enter__()
        except ModelNotFoundError:
            raise _unknown(name) from None
        except InvalidArtifactError as error:
            if not is_asked:
                raise
            log.warning("event=not_served model=%s error=%r", quoted(name), error.message)
            raise _unknown(name) from None
        with _Leaving(lease):
            yield _version_of(resident.model, _spec(resident), version)

    def _is_unloaded(self, name: str) -> bool:
        """Say whether the repository extension unloaded it, and nobody loaded it since."""
        return name in self._unloaded and self._manager.peek(name) is None

    def _refuse_unloaded(self, name: str) -> None:
        if self._is_unloaded(name):
            raise ModelNotFoundError(f"Request for unknown model: '{name}' has no available versions")

    # ---- what is there ----------------------------------------------------------------------------------------------

    def metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """Return the model's metadata, as `GET /v2/models/NAME` has it; loads it where that may be."""
        with self._held(name, version) as (model, spec):
            return metadata_of(spec, model.signature)

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        """Return the whole configuration, as `GET /v2/models/NAME/config` has it."""
        with self._held(name, version) as (model, spec):
            return config_of(spec, model.signature)

    def is_decoupled(self, name: str, version: str = "") -> bool:
        """Say whether a model answers a request as often as it likes; loads it where that may be."""
        with self._held(name, version, is_asked=True) as (_, spec):
            return _is_decoupled(spec)

    def is_ready(self, name: str, version: str = "") -> bool:
        """Say whether a request for `name` would be served: it is loaded, or (standalone) loads when asked for."""
        if self._is_unloaded(name):
            return False
        resident = self._manager.peek(name)
        if resident is not None:
            return version in ("", "-1", _spec(resident).version)
        return not self._manager.is_platform and self._is_available(name) and version in ("", "-1", "1")

    def stats(self, name: str = "", version: str = "") -> list[dict[str, Any]]:
        """Return the statistics of a model's versions, of all without a name; 400 for an unknown one."""
        found = [each for each in self.statistics.known(name) if version in ("", each.version)]
        if name and not found:
            resident = self._manager.peek(name)
            if resident is None:
                raise BadRequestError(f"requested model '{name}' is not available")
            found = [self.statistics.of(name, _spec(resident).version)]
        return [each.document() for each in found]

    def index(self, *, only_ready: bool = False) -> list[dict[str, str]]:
        """Return the repository's index: every model with its version and state, as far as they are known."""
        rows: dict[str, dict[str, str]] = {name: {"name": name} for name in self._available()}
        for name in self._unloaded:
            rows[name] = {"name": name, "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        for name, reason in self._failed.items():
            rows[name] = {"name": name, "version": "1", "state": "UNAVAILABLE", "reason": reason}
        for name, _ in self._manager.loaded():
            resident = self._manager.peek(name)
            if resident is not None:
                rows[name] = {"name": name, "version": _spec(resident).version, "state": "READY"}
        return [rows[name] for name in sorted(rows) if not only_ready or rows[name].get("state") == "READY"]

    def _is_available(self, name: str) -> bool:
        try:
            self._source.find(name)
        except ServingError:
            return False
        return True

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


class _Leaving:
    """Leaves a lease that was entered by hand."""

    def __init__(self, lease: Any) -> None:
        self._lease = lease

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: Any) -> None:
        self._lease.__exit__(*error)


def _is_decoupled(spec: ModelSpec) -> bool:
    """Say whether a model answers a request as often as it likes."""
    config = spec.triton or (spec.handler.config if spec.handler else {})
    return bool((config.get("model_transaction_policy") or {}).get("decoupled"))


def _check_version(version: str) -> None:
    if version and not version.removeprefix("-").isdecimal():
        raise BadRequestError(
            f"failed to get model version from specified version string '{version}' (details: stol), version should be "
            "an integral value > 0"
        )


def _version_of(model: LoadedModel, spec: ModelSpec, version: str) -> Member:
    """Return the model and the spec of one version, of the highest that is served for "" and -1."""
    if version in ("", "-1", spec.version):
        return model, spec
    if isinstance(model, CompoundModel) and (found := model.version(version)) is not None:
        return found
    raise ModelNotFoundError(f"Request for unknown model: '{spec.name}' version {version} is not found")


def _question(step: Step, tensors: Tensors, about: Mapping[str, Any]) -> Question:
    return Question(
        id=about.get("id", ""),
        parameters=about.get("parameters", {}),
        inputs={name: (json.datatype_of(array), array) for name, array in tensors.items()},
        outputs=[Wanted(name) for name in step.outputs],
        priority=about.get("priority", 0),
        timeout_us=about.get("timeout_us", 0),
    )


def _about(question: Question) -> dict[str, Any]:
    """Return what of a request travels to a worker, and only what is there."""
    parameters = v2.own_parameters(question.parameters)
    flags = bool(question.parameters.get("sequence_start")) + 2 * bool(question.parameters.get("sequence_end"))
    about = {
        "id": question.id,
        "parameters": parameters,
        "outputs": [each.name for each in question.outputs],
        "priority": question.priority,
        "timeout_us": question.timeout_us,
        "sequence_id": question.parameters.get("sequence_id", 0),
        "flags": flags,
    }
    return {key: value for key, value in about.items() if value}


def _trace(spec: ModelSpec, question: Question, started: int, spent: Spent) -> None:
    """Write a trace: nanoseconds since the request began."""
    log.info(
        "event=trace model=%s version=%s id=%s queue_ns=%d compute_input_ns=%d compute_infer_ns=%d "
        "compute_output_ns=%d request_ns=%d",
        *(quoted(spec.name), spec.version, quoted(question.id), spent.queue_ns, spent.input_ns, spent.infer_ns),
        *(spent.output_ns, perf_counter_ns() - started),
    )


def _spec(resident: Resident) -> ModelSpec:
    if resident.artifact is None:
        raise UnavailableError(f"Request for unknown model: '{resident.name}' is not at ready state")
    return resident.artifact.spec


def _unknown(name: str) -> ModelNotFoundError:
    return ModelNotFoundError(f"Request for unknown model: '{name}' is not found")
