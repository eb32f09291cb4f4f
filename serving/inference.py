"""One inference in Triton's language, whatever wire it came by: hold the model, check, run, choose, count.

1. The model is held ready (standalone mode loads it). 2. Inputs are checked against its signature, with Triton's texts.
3. It runs: people's Python and batched models by `invoke`, others here within the core budget. 4. The outputs that were
asked for are chosen, classified where asked. 5. Statistics take one observation.

Also says what a model is (`model_documents` writes it). Knows neither HTTP nor gRPC; `http/v2` and `grpc/service` call
it, and `http/tfs`, which speaks TensorFlow Serving's. SageMaker's own routes go their shorter way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic, perf_counter_ns
from typing import Any, TypeVar, cast

from serving import outcomes
from serving.backends.base import HandlerModel, LoadedModel
from serving.backends.ensemble import Member
from serving.catalog import Catalog, spec_of
from serving.codecs import json, v2, v2_raw
from serving.codecs.v2 import Question, Wanted
from serving.cores import CoreBudget
from serving.errors import (
    BadRequestError,
    CancelledError,
    ServingError,
    UnavailableError,
    UnsupportedError,
)
from serving.fitting import choose, fit
from serving.holds import Hold, version_of
from serving.logs import quoted
from serving.manager import ModelManager
from serving.model_documents import config_of, metadata_of
from serving.outcomes import Piece
from serving.protocol_settings import LogSettings, TraceSettings
from serving.repository.ensemble_steps import Step
from serving.repository.layouts import ModelSpec
from serving.residents import Resident
from serving.shared_memory import Regions
from serving.signatures import signature_of, signed
from serving.statistics import ModelStatistics, Spent, Statistics
from serving.tensors import Signature, Tensors
from serving.workers.handler import Reply, Request

log = logging.getLogger("wharf.inference")

Said = TypeVar("Said")

# Inputs as the model takes them, and how many rows they count: 1 where the model does not batch.
Fitted = tuple[Tensors, int]
Reader = Callable[[Signature], Question]
"""Makes a question of a body, once the model's inputs are known."""


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
        catalog: Catalog,
        cores: CoreBudget,
        statistics: Statistics,
        timeout_s: float,
        regions: Regions | None = None,
    ) -> None:
        self._manager = manager
        self._cores = cores
        self._timeout_s = timeout_s
        self.catalog = catalog
        self.statistics = statistics
        self.regions = regions or Regions(is_on=False)
        self.traces = TraceSettings(self.catalog.is_ready, self.catalog.whole)
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
        spec = spec_of(resident)
        return self._answer(question, resident.model, spec, monotonic() + self._timeout_s)

    def infer_as(self, name: str, version: str, signature: str, read: Reader) -> Answer:
        """Answer a request that can be read only where the model's inputs are known: `read` makes the question of them.

        `signature` names one of those that the model has, "" its default one. Raises what `infer`, `signed` and `read`
        raise.
        """
        deadline = monotonic() + self._timeout_s
        with self._held(name, version, is_asked=True) as (model, spec):
            return self._answer_as((model, spec), signature, read, deadline)

    def infer_held_as(self, resident: Resident, version: str, signature: str, read: Reader) -> Answer:
        """Answer such a request of a model that the caller holds ready."""
        member = version_of(resident.model, spec_of(resident), version)
        return self._answer_as(member, signature, read, monotonic() + self._timeout_s)

    def _answer_as(self, member: Member, name: str, read: Reader, deadline: float) -> Answer:
        model, spec = member
        _refuse_bodies(model, spec)
        signature, parameters = signed(model, spec.name, name)
        with self._cores.lease(1, max(0.0, deadline - monotonic()), spec.name):  # a body may decode to far more
            question = read(signature)
        question.parameters |= parameters
        return self._answer(question, model, spec, deadline)

    def _answer(self, question: Question, model: LoadedModel, spec: ModelSpec, deadline: float) -> Answer:
        started = perf_counter_ns()
        counters = self.statistics.of(spec.name, spec.version)
        spent: Spent | None = None
        try:
            fitted = self._checked(question, model, spec)
            outputs, spent = self._run(fitted, question, model, started, deadline)
            if isinstance(outputs, ServingError):
                raise outputs
            chosen = choose(outputs, question, spec, signature_of(model, question, spec.name))
        except ServingError as error:
            counters.failed(perf_counter_ns() - started, spent, is_rejected=spent is None and _is_rejected(error))
            raise
        self._answered(spec, counters, question, started, spent, fitted[1])
        return Answer(spec.name, spec.version, question.id, chosen)

    def stream(self, name: str, version: str, question: Question) -> Iterator[Answer]:
        """Yield what a model answers, none to many times; closing it tells a decoupled model that the client left.

        An error of one answer is an `Answer` too; raises for one that is the end.
        """
        started = perf_counter_ns()
        with self._held(name, version, is_asked=True) as (model, spec):
            counters = self.statistics.of(spec.name, spec.version)
            try:
                fitted = self._checked(question, model, spec)
                pieces, spent = self._pieces(fitted, question, model, started)
            except ServingError as error:
                counters.failed(perf_counter_ns() - started, is_rejected=_is_rejected(error))
                raise
            has_failed = False
            try:
                for piece in pieces:
                    has_failed |= piece.error is not None
                    chosen = {} if piece.error else choose(piece.outputs, question, spec, model.signature)
                    about = spec.name, spec.version, question.id
                    yield Answer(*about, chosen, piece.parameters, piece.is_last, piece.error)
            except Exception:
                has_failed = True
                raise
            finally:  # also for a client that left: the model ran for it, and Triton's goes on to its end
                getattr(pieces, "close", lambda: None)()  # while the model is held
                spent.infer_ns = spent.infer_ns or perf_counter_ns() - started - spent.queue_ns
                if has_failed:
                    counters.failed(perf_counter_ns() - started, spent)
                else:
                    self._answered(spec, counters, question, started, spent, fitted[1])

    def _pieces(
        self, fitted: Fitted, question: Question, model: LoadedModel, started: int
    ) -> tuple[Iterator[Piece], Spent]:
        """Return the answers as they come, and where the time went; a model that has not ended has no `infer_ns`."""
        deadline = monotonic() + self._timeout_s
        if not model.is_outside:
            outputs, spent = self._run_here(fitted, question, model, started, deadline)
            return iter([Piece(outputs, is_last=True)]), spent
        reply, spent = _invoke(fitted, question, model, started, deadline, stream="tensors")
        if reply.chunks is not None:
            spent.infer_ns = 0
        return outcomes.pieces(reply), spent

    def _answered(  # noqa: PLR0913  what there is to record
        self, spec: ModelSpec, counters: ModelStatistics, question: Question, started: int, spent: Spent, rows: int
    ) -> None:
        counters.succeeded(perf_counter_ns() - started, spent, rows)
        if self.traces.take(spec.name):
            _trace(spec, question, started, spent)

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
        return self._answer(_question(step, tensors, about), *version_of(*member, step.version), deadline).outputs

    # ---- what a model is --------------------------------------------------------------------------------------------

    def signature(self, name: str, version: str = "") -> Signature:
        """Return the model's inputs and outputs; loads it where that may be."""
        with self._held(name, version, is_asked=True) as (model, _):
            return model.signature

    def _checked(self, question: Question, model: LoadedModel, spec: ModelSpec) -> Fitted:
        _refuse_bodies(model, spec)
        if question.raw is not None:
            most = spec.scheduling.max_batch_size if spec.scheduling else 0
            v2_raw.fill(question, model.signature, spec.name, has_batch=most > 0)
        return fit(question, signature_of(model, question, spec.name), spec)

    def _run(
        self, fitted: Fitted, question: Question, model: LoadedModel, started: int, deadline: float
    ) -> tuple[Tensors | ServingError, Spent]:
        """Return what a model answers, which may be an error, and where the time went; raises where none did."""
        if not model.is_outside:
            return self._run_here(fitted, question, model, started, deadline)
        reply, spent = _invoke(fitted, question, model, started, deadline)
        if reply.chunks is not None or (reply.tensors is None and reply.status < 400 and reply.body):
            outcomes.close(reply)
            raise UnsupportedError("ModelInfer RPC doesn't support models with decoupled transaction policy")
        return outcomes.failure(reply) if reply.tensors is None else reply.tensors, spent

    def _run_here(
        self, fitted: Fitted, question: Question, model: LoadedModel, started: int, deadline: float
    ) -> tuple[Tensors, Spent]:
        tensors, rows = fitted
        with self._cores.lease(model.threads, max(0.0, deadline - monotonic())):
            if question.is_left is not None and question.is_left():
                raise CancelledError("Request is cancelled")
            began = perf_counter_ns()
            outputs = model.run(tensors)
            return outputs, Spent(began - started, 0, perf_counter_ns() - began, 0, rows)

    def _held(self, name: str, version: str = "", *, is_asked: bool = False) -> Hold:
        """Return the hold on a model, to be entered; for who asks it, one that cannot be loaded as it is is none."""
        _check_version(version)
        self.catalog.refuse_unloaded(name)
        return Hold(self._manager.ready(name), name, version, is_asked)

    # ---- what is there ----------------------------------------------------------------------------------------------

    def metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """Return the model's metadata, as `GET /v2/models/NAME` has it; loads it where that may be."""
        with self._held(name, version) as (model, spec):
            return metadata_of(spec, model.signature)

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        """Return the whole configuration, as `GET /v2/models/NAME/config` has it."""
        with self._held(name, version) as (model, spec):
            return config_of(spec, model.signature)

    def described(self, name: str, version: str, write: Callable[[LoadedModel, ModelSpec], Said]) -> Said:
        """Return what `write` says of a model; loads it where that may be."""
        with self._held(name, version) as found:
            return write(*found)


def _refuse_bodies(model: LoadedModel, spec: ModelSpec) -> None:
    if model.is_outside and model.takes_bodies:
        raise UnsupportedError(
            f"Model '{spec.name}' has code of its own that reads bodies, not tensors: call "
            f"/models/{spec.name}/invoke or /invocations."
        )


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


def _question(step: Step, tensors: Tensors, about: Mapping[str, Any]) -> Question:
    flags = about.get("flags", 0)
    said = {"sequence_id": about.get("sequence_id"), "sequence_start": flags & 1, "sequence_end": flags & 2}
    return Question(
        id=about.get("id", ""),
        parameters=about.get("parameters", {}) | {key: value for key, value in said.items() if value},
        inputs={name: (json.datatype_of(array), array) for name, array in tensors.items()},
        outputs=[Wanted(name) for name in step.outputs],
        priority=about.get("priority", 0),
        timeout_us=about.get("timeout_us", 0),
    )


def _invoke(
    fitted: Fitted, question: Question, model: LoadedModel, started: int, deadline: float, **more: str
) -> tuple[Reply, Spent]:
    """Have a model outside answer; where its line does not say how the time went, all of it was the model's."""
    tensors, rows = fitted
    began = perf_counter_ns()
    request = Request(tensors=tensors, about=_about(question) | more, is_left=question.is_left)
    reply = cast("HandlerModel", model).invoke(request, deadline)
    return reply, reply.spent or Spent(began - started, 0, perf_counter_ns() - began, 0, rows)


def _is_rejected(error: ServingError) -> bool:
    """Say whether a request that got no answer never reached the model: it did not fit, or found no room."""
    return not error.has_run and isinstance(error, (BadRequestError, UnavailableError))


def _about(question: Question) -> dict[str, Any]:
    """Return what of a request travels to a worker, and only what is there."""
    if not (question.parameters or question.id or question.outputs or question.priority or question.timeout_us):
        return {}
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
