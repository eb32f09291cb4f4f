"""One inference in Triton's language, whatever wire it came by: hold the model, check, run, choose, count.

1. The model is held ready (standalone mode loads it). 2. Inputs are checked against its signature, with Triton's texts.
3. It runs: people's Python and batched models by `invoke`, others here within the core budget. 4. The outputs that were
asked for are chosen, classified where asked. 5. Statistics take one observation.

Also says what a model is (`model_documents` writes it). Knows neither HTTP nor gRPC; `http/v2` and `grpc/service` call
it. SageMaker's own routes go their shorter way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic, perf_counter_ns
from typing import Any, cast

import orjson

from serving.backends.base import HandlerModel, LoadedModel
from serving.backends.compound import CompoundModel
from serving.backends.ensemble import Member
from serving.catalog import Catalog, spec_of
from serving.codecs import json, v2, v2_raw
from serving.codecs.v2 import Question, Wanted
from serving.cores import CoreBudget
from serving.errors import (
    BadRequestError,
    InsufficientMemoryError,
    ModelFailedError,
    ModelNotFoundError,
    ServingError,
    UnavailableError,
    UnsupportedError,
)
from serving.fitting import choose, fit, rows_of
from serving.logs import quoted
from serving.manager import ModelManager
from serving.model_documents import config_of, metadata_of
from serving.protocol_settings import LogSettings, TraceSettings
from serving.repository.ensemble_steps import Step
from serving.repository.layouts import ModelSpec
from serving.residents import Resident
from serving.shared_memory import Regions
from serving.statistics import Spent, Statistics
from serving.tensors import Signature, Tensors
from serving.workers import answer_frames
from serving.workers.handler import Body, Reply, Request

log = logging.getLogger("wharf.inference")


@dataclass(slots=True)
class Answer:
    """What a model answered; `outputs` in the order that was asked for."""

    model: str
    version: str
    id: str
    outputs: Tensors
    parameters: dict[str, Any] = field(default_factory=dict)

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
        self.traces = TraceSettings()
        self.logging = LogSettings()

    # ---- one request ------------------------------------------------------------------------------------------------

    def infer(self, name: str, version: str, question: Question, deadline: float | None = None) -> Answer:
        """Answer a request, before `deadline` (of the monotonic clock) or within the request limit.

        Raises `ModelNotFoundError`, `BadRequestError` with Triton's text, and what the model raises.
        """
        deadline = monotonic() + self._timeout_s if deadline is None else deadline
        with self._held(name, version) as (model, spec):
            return self._answer(question, model, spec, deadline)

    def infer_held(self, resident: Resident, question: Question) -> Answer:
        """Answer a request of a model that the caller holds ready, under the name that it is held by."""
        spec = spec_of(resident)
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
        """Yield what a model answers, none to many times; closing it tells a decoupled model that the client left."""
        started = perf_counter_ns()
        with self._held(name, version) as (model, spec):
            counters = self.statistics.of(spec.name, spec.version)
            try:
                tensors, rows = self._checked(question, model, spec)
                for outputs, said in self._outputs(tensors, question, model, started):
                    chosen = choose(outputs, question, spec, model.signature)
                    yield Answer(spec.name, spec.version, question.id, chosen, said)
            except ServingError:
                counters.failed(perf_counter_ns() - started)
                raise
            counters.succeeded(perf_counter_ns() - started, Spent(0, 0, perf_counter_ns() - started), rows)

    def _outputs(
        self, tensors: Tensors, question: Question, model: LoadedModel, started: int
    ) -> Iterator[tuple[Tensors, dict[str, Any]]]:
        """Yield the outputs of each answer, with its parameters."""
        if not model.is_outside:
            yield self._run(tensors, question, model, started, monotonic() + self._timeout_s)[0], {}
            return
        request = Request(tensors=tensors, about=_about(question) | {"stream": "tensors"})
        reply = cast("HandlerModel", model).invoke(request, monotonic() + self._timeout_s)
        if reply.tensors is not None:
            yield reply.tensors, {}
        elif reply.chunks is not None:
            try:
                for frames in reply.chunks:
                    yield from streamed(frames)
            finally:
                getattr(reply.chunks, "close", lambda: None)()
        elif reply.status >= 400:
            raise _failure(reply)
        else:  # of a batch, whose answers are sent whole
            yield from streamed(reply.body)

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
        with self._held(name, version) as (model, _):
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
                getattr(reply.chunks, "close", lambda: None)()
                raise UnsupportedError("ModelInfer RPC doesn't support models with decoupled transaction policy")
            if reply.tensors is None:
                raise _failure(reply)
            spent = reply.spent or Spent(began - started, 0, perf_counter_ns() - began, 0, rows_of(tensors))
            return reply.tensors, spent
        with self._cores.lease(model.threads, max(0.0, deadline - monotonic())):
            began = perf_counter_ns()
            outputs = model.run(tensors)
            return outputs, Spent(began - started, 0, perf_counter_ns() - began, 0, rows_of(tensors))

    @contextmanager
    def _held(self, name: str, version: str = "") -> Iterator[tuple[LoadedModel, ModelSpec]]:
        self.catalog.refuse_unloaded(name)
        try:
            lease = self._manager.ready(name)
            resident = lease.__enter__()
        except ModelNotFoundError:
            raise _unknown(name) from None
        with _Leaving(lease):
            yield _version_of(resident.model, spec_of(resident), version)

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
        with self._held(name, version) as (_, spec):
            config = spec.triton or (spec.handler.config if spec.handler else {})
            return bool((config.get("model_transaction_policy") or {}).get("decoupled"))


class _Leaving:
    """Leaves a lease that was entered by hand."""

    def __init__(self, lease: Any) -> None:
        self._lease = lease

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: Any) -> None:
        self._lease.__exit__(*error)


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


def streamed(frames: Body) -> Iterator[tuple[Tensors, dict[str, Any]]]:
    """Yield outputs and parameters of each frame of a worker's stream; raises `ModelFailedError` with what it says."""
    try:
        for head, tensors in answer_frames.read(frames):
            if "error" in head:
                raise ModelFailedError(str(head["error"]))
            said = head.get("parameters")
            yield tensors, said if isinstance(said, dict) else {}
    except ValueError as error:
        raise ModelFailedError(f"The model's worker sent an answer that is none: {error}") from None


# What a model's own code says with a status of its own; any other status is a failure of the model.
_KINDS: dict[int, type[ServingError]] = {
    400: BadRequestError,
    404: ModelNotFoundError,
    501: UnsupportedError,
    503: UnavailableError,
    507: InsufficientMemoryError,
}


def _failure(reply: Reply) -> ServingError:
    """Return the error that a reply without tensors is."""
    return _KINDS.get(reply.status, ModelFailedError)(_error_text(bytes(reply.body)))


def _error_text(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    with suppress(ValueError, KeyError, TypeError):  # a model's own words
        text = str(orjson.loads(body)["error"])
    return text or "The model answered nothing."


def _unknown(name: str) -> ModelNotFoundError:
    return ModelNotFoundError(f"Request for unknown model: '{name}' is not found")
