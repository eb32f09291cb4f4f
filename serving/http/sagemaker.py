"""The SageMaker routes that must be fast or must never wait: list, invoke, invocations.

The path decides the model; the Target-Model header is only logged there, and chooses the model on /invocations.
Decoding is the codecs' business, readiness the manager's. Called by `app`, which has taken the path apart.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, perf_counter, perf_counter_ns
from typing import cast
from urllib.parse import parse_qs

import orjson

from serving.backends.base import HandlerModel, LoadedModel
from serving.codecs import json, v2, v2_requests
from serving.codecs.media import decode, encode
from serving.contract import (
    CUSTOM_ATTRIBUTES,
    CUSTOM_ATTRIBUTES_MAX_CHARS,
    MODEL_COMPONENT_MAX_BYTES,
    MODEL_NAME_MAX_CHARS,
    MODEL_NAME_PATTERN,
    PAGE_LIMIT_DEFAULT,
    PAGE_LIMIT_MAX,
)
from serving.cores import CoreBudget
from serving.errors import BadRequestError, ModelNotFoundError, ServingError, UnavailableError
from serving.fitting import rows_of
from serving.http import tfs_container
from serving.http.bodies import Bodies, Place
from serving.http.handed import Stream, headers_of, request_of
from serving.http.replies import JSON, Environ, Headers, Reply
from serving.inference import Answer, Inference, Reader
from serving.lease import Lease
from serving.logs import about
from serving.manager import ModelManager
from serving.repository.source import Artifact
from serving.residents import Resident
from serving.statistics import Spent
from serving.tensors import Tensors


@dataclass(slots=True)
class Call:
    """What one request is about, gathered on its way for its log line and its observation."""

    environ: Environ
    request_id: str = ""
    model: str = ""
    model_s: float = 0.0
    is_hit: bool | None = None
    is_invocation: bool = True
    started: float = field(default_factory=perf_counter)


@dataclass(frozen=True, slots=True)
class InvokeSettings:
    """What invocations need of the settings."""

    request_timeout_s: float
    default_accept: str
    own_name: Callable[[str], str] = lambda name: name
    """Returns what a model is called here: the one of an endpoint has its own name in TensorFlow's container."""


def check_name(name: str) -> str:
    """Return `name` when it is legal as a file's (or a relative path's) name.

    Raise `BadRequestError` that says why not.
    """
    if not name or len(name) > MODEL_NAME_MAX_CHARS or not MODEL_NAME_PATTERN.fullmatch(name):
        raise BadRequestError(
            f"Model name {ascii(name[:80])} is not legal: it wants 1 to {MODEL_NAME_MAX_CHARS} printable characters."
        )
    for part in name.split("/"):
        if part in ("", ".", "..") or len(part.encode()) > MODEL_COMPONENT_MAX_BYTES:
            raise BadRequestError(
                f"Model name {ascii(name[:80])} is not legal: parts between slashes are 1 to "
                f"{MODEL_COMPONENT_MAX_BYTES} bytes and neither '.' nor '..'."
            )
    return name


class SageMakerRoutes:
    """The hot half of the contract."""

    def __init__(  # noqa: PLR0913  the composition root is the one caller
        self,
        manager: ModelManager,
        cores: CoreBudget,
        bodies: Bodies,
        inference: Inference,
        settings: InvokeSettings,
        default_model: Callable[[], str],
    ) -> None:
        self._manager = manager
        self._cores = cores
        self._bodies = bodies
        self._inference = inference
        self._settings = settings
        self._default_model = default_model

    def list_models(self, call: Call) -> Reply:
        """`GET /models`: a page of what is loaded, from memory alone."""
        query = parse_qs(
            call.environ.get("QUERY_STRING", ""), keep_blank_values=True, encoding="utf-8", errors="replace"
        )
        limit = _limit(query.get("limit", [""])[0])
        after = _read_token(query.get("next_page_token", [""])[0])
        rest = [each for each in self._manager.loaded() if after is None or each[0] > after]
        page = rest[:limit]
        answer: dict[str, object] = {"models": [{"modelName": name, "modelUrl": url} for name, url in page]}
        if len(rest) > limit:
            answer["nextPageToken"] = base64.urlsafe_b64encode(page[-1][0].encode()).decode()
        return 200, [JSON], orjson.dumps(answer)

    def invocations(self, call: Call) -> Reply:
        """`POST /invocations`: the Target-Model header chooses, else a custom attribute, else the default model."""
        target = call.environ.get("HTTP_X_AMZN_SAGEMAKER_TARGET_MODEL")
        # Granian hands over a header that is not ASCII as an empty one: never the default model's.
        if target is not None:
            return self.invoke(call, check_name(_utf8(target)))
        named = tfs_container.attributes_of(call.environ).name
        return self.invoke(call, self._settings.own_name(check_name(_utf8(named))) if named else self._default_model())

    def invoke(self, call: Call, name: str) -> Reply:
        """`POST /models/{name}/invoke`: body to tensors, run, tensors to body."""
        call.model = name
        about.set((call.request_id, name))
        with self._bodies.admitted(call.environ, name) as place:
            body = place.read()
            lease = self._manager.ready(name)
            with lease as resident:
                call.is_hit = lease.is_hit
                return self._invoke(call, body, lease, resident, place)

    def _invoke(self, call: Call, body: bytes, lease: Lease, resident: Resident, place: Place) -> Reply:
        """Answer by the shortest way: people's own code, or tensors here; V2's way where the body asks for it.

        V2's way counts itself; the others are counted here, for dashboards of Triton's show all that was inferred.
        """
        model = resident.model
        if (call.environ.get("CONTENT_TYPE") or "").startswith(v2.VENDOR) and _reads_tensors(model):
            return self._vendor(call, body, resident)
        if (attributes := self._as_container(call, body, resident)) is not None:
            return self._tensorflow(call, body, resident, attributes)
        began = perf_counter_ns()
        try:
            if model.is_outside:
                reply, spent, rows = self._hand_over(call, body, lease, resident, place)
            else:
                reply, spent, rows = self._run(call, body, resident)
        except json.OpenInferenceError as found:
            return self._open(call, resident, v2_requests.read_document(found.document, call.model))
        except ServingError as error:
            # Triton does not count what was no request of the model's.
            if error.has_run or not isinstance(error, BadRequestError):
                is_rejected = isinstance(error, UnavailableError) and not error.has_run
                self._failed(resident, began, is_rejected=is_rejected)
            raise
        if reply[0] < 400:
            self._succeeded(resident, began, spent, rows)
        else:
            self._failed(resident, began, is_rejected=False)
        return reply

    def _succeeded(self, resident: Resident, began: int, spent: Spent, rows: int) -> None:
        """Count an answer in what V2's statistics and the `nv_*` metrics tell: that is all that was inferred."""
        spec = cast("Artifact", resident.artifact).spec
        self._inference.statistics.of(spec.name, spec.version).succeeded(perf_counter_ns() - began, spent, rows)

    def _failed(self, resident: Resident, began: int, *, is_rejected: bool) -> None:
        spec = cast("Artifact", resident.artifact).spec
        self._inference.statistics.of(spec.name, spec.version).failed(
            perf_counter_ns() - began, is_rejected=is_rejected
        )

    def _vendor(self, call: Call, body: bytes, resident: Resident) -> Reply:
        """Answer a body of SageMaker's vendor type for Triton."""
        header = v2_requests.vendor_header_length(call.environ["CONTENT_TYPE"], len(body))
        return self._open(call, resident, v2_requests.read(body, header, call.model))

    @staticmethod
    def _as_container(call: Call, body: bytes, resident: Resident) -> tfs_container.Attributes | None:
        """Return what a request says to SageMaker's TensorFlow container, where it is to be answered as that does."""
        attributes, spec = tfs_container.attributes_of(call.environ), cast("Artifact", resident.artifact).spec
        if not (attributes.is_there or tfs_container.is_tensorflow(spec)) or not _reads_tensors(resident.model):
            return None
        return attributes if tfs_container.is_spoken(call.environ, attributes, spec, body) else None

    def _tensorflow(self, call: Call, body: bytes, resident: Resident, attributes: tfs_container.Attributes) -> Reply:
        """Answer as SageMaker's TensorFlow container does; counts itself, as V2's way."""
        version, method = tfs_container.checked(attributes)

        def ask(signature: str, read: Reader) -> Answer:
            started = perf_counter()
            try:
                return self._inference.infer_held_as(resident, version, signature, read)
            finally:
                call.model_s = perf_counter() - started

        accept, content_type = self._accept(call.environ), call.environ.get("CONTENT_TYPE")
        asked = tfs_container.Exchange(call.model, body, content_type, accept)
        content, content_type = tfs_container.answer(asked, method, ask)
        return 200, _headers(call.environ, content_type), content

    def _open(self, call: Call, resident: Resident, question: v2.Question) -> Reply:
        """Answer in V2's form: in the vendor type where an output is binary, else in JSON."""
        started = perf_counter()
        answer: Answer = self._inference.infer_held(resident, question)
        call.model_s = perf_counter() - started
        content, header = v2.write(answer.head, answer.outputs, question)
        return 200, _headers(call.environ, JSON[1] if header is None else f"{v2.VENDOR}{header}"), content

    def _run(self, call: Call, body: bytes, resident: Resident) -> tuple[Reply, Spent, int]:
        model: LoadedModel = resident.model
        asked = perf_counter_ns()
        with self._cores.lease(model.threads, self._left_s(call), call.model):
            # Inside, as a hostile body may decode to far more than it weighs: never more than cores at once.
            began = perf_counter_ns()
            decoded = decode(body, call.environ.get("CONTENT_TYPE"), model.signature)
            started = perf_counter_ns()
            outputs = model.run(decoded.tensors)
            ended = perf_counter_ns()
        call.model_s = (ended - started) / 1e9
        answer, content_type = self._write(call, outputs, decoded.form, resident)
        rows = _rows(resident, decoded.tensors)
        spent = Spent(began - asked, started - began, ended - started, perf_counter_ns() - ended, rows)
        return (200, _headers(call.environ, content_type), answer), spent, rows

    def _hand_over(
        self, call: Call, body: bytes, lease: Lease, resident: Resident, place: Place
    ) -> tuple[Reply, Spent, int]:
        """Give a request to people's own code, as it came or decoded, whichever it takes.

        A reply in chunks keeps its lease and its place until its end.
        """
        model = cast("HandlerModel", resident.model)
        request, form = request_of(call.environ, body), "instances"
        if not model.takes_bodies:
            with self._cores.lease(1, self._left_s(call), call.model):
                decoded = decode(body, call.environ.get("CONTENT_TYPE"), model.signature)
            request.body, request.tensors, form = b"", decoded.tensors, decoded.form
        started = perf_counter_ns()
        reply = model.invoke(request, monotonic() + self._left_s(call))
        ran = perf_counter_ns() - started
        call.model_s = ran / 1e9
        rows = _rows(resident, request.tensors or {})
        spent = reply.spent or Spent(infer_ns=ran, rows=rows)
        if reply.tensors is not None:
            answer, content_type = self._write(call, reply.tensors, form, resident)
            headers = [*_headers(call.environ, content_type), *headers_of(reply)]
            return (reply.status, headers, answer), spent, rows
        if reply.chunks is None:
            return (reply.status, headers_of(reply), bytes(reply.body)), spent, rows
        stream = Stream(reply.chunks, lease.keep())
        stream.when_over(place.keep())
        return (reply.status, headers_of(reply), stream), spent, rows

    def _write(self, call: Call, outputs: Tensors, form: str, resident: Resident) -> tuple[bytes, str]:
        accept = self._accept(call.environ)
        if form == "v2" and accept == JSON[1] and resident.artifact is not None:
            head = {"model_name": call.model, "model_version": resident.artifact.spec.version}
            return v2.write(head, outputs, v2.Question())[0], JSON[1]
        return encode(outputs, accept, form)

    def _accept(self, environ: Environ) -> str:
        accept = environ.get("HTTP_ACCEPT")
        return self._settings.default_accept if not accept or accept == "*/*" else str(accept)

    def _left_s(self, call: Call) -> float:
        return max(0.0, self._settings.request_timeout_s - (perf_counter() - call.started))


def _reads_tensors(model: LoadedModel) -> bool:
    return not (model.is_outside and cast("HandlerModel", model).takes_bodies)


def _rows(resident: Resident, tensors: Tensors) -> int:
    """Return how many rows a request counts: 1 for a model whose first dimension is no batch."""
    scheduling = cast("Artifact", resident.artifact).spec.scheduling
    return rows_of(tensors) if scheduling is not None and scheduling.max_batch_size else 1


def _headers(environ: Environ, content_type: str) -> Headers:
    """Return the headers of an answer that we wrote; what the caller said of the request goes back with it."""
    headers = [("Content-Type", content_type)]
    attributes = environ.get("HTTP_X_AMZN_SAGEMAKER_CUSTOM_ATTRIBUTES")
    if attributes:
        headers.append((CUSTOM_ATTRIBUTES, attributes[:CUSTOM_ATTRIBUTES_MAX_CHARS]))
    return headers


def _utf8(header: str) -> str:
    """WSGI hands bytes over as latin-1; names are UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        raise ModelNotFoundError(f"Model {ascii(header[:80])} is not UTF-8: no model has such a name.") from None


def _limit(text: str) -> int:
    if not text:
        return PAGE_LIMIT_DEFAULT
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise BadRequestError(f"Query 'limit' is {ascii(text[:40])} and wants a number from 1 to {PAGE_LIMIT_MAX}.")
    return min(int(text[:9]), PAGE_LIMIT_MAX)


def _read_token(text: str) -> str | None:
    if not text:
        return None
    try:
        return base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True).decode()
    except (UnicodeError, binascii.Error):
        raise BadRequestError(
            f"Query 'next_page_token' is {ascii(text[:40])}: send back the nextPageToken of the page before, unchanged."
        ) from None
