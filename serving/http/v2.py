"""The Open Inference routes (V2) as Triton has them: health, metadata, infer, generate, repository, statistics.

Takes a path apart, has `inference` do it and writes what comes in Triton's form: `{"error": ...}` with Triton's codes,
which for a body that cannot be parsed and for a model that failed are 500 here and 4xx on SageMaker's routes. Routes
that change what is loaded want the admin token where one is set. Called by `app`.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import orjson

from serving import __version__
from serving.codecs import generate, v2
from serving.codecs.v2 import BINARY, HEADER_LENGTH, ParseError, header_length
from serving.errors import (
    BadRequestError,
    InsufficientMemoryError,
    MethodNotAllowedError,
    ModelFailedError,
    ModelNotFoundError,
    RouteNotFoundError,
    ServingError,
    UnsupportedError,
)
from serving.http.admin import Guard
from serving.http.admission import Gate
from serving.http.bodies import Bodies
from serving.http.handed import Stream
from serving.http.replies import JSON, Environ, Reply, error_reply
from serving.http.sagemaker import Call, check_name
from serving.http.v2_settings import find_setting
from serving.inference import Answer, Inference

EXTENSIONS = [
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
]
_SSE = ("Content-Type", "text/event-stream; charset=utf-8")


class V2Routes:
    """Everything below `/v2`."""

    def __init__(
        self,
        inference: Inference,
        bodies: Bodies,
        gate: Gate,
        guard: Guard,
        is_healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        self._inference = inference
        self._bodies = bodies
        self._gate = gate
        self._guard = guard
        self._is_healthy = is_healthy

    def answer(self, call: Call) -> Reply:
        """Answer one request below `/v2`, errors included."""
        try:
            return self._route(call, call.environ["PATH_INFO"].strip("/").split("/")[1:])
        except Exception as error:
            return v2_error(error, call.request_id)

    def _route(self, call: Call, parts: list[str]) -> Reply:
        """Find the route: 1. inference, 2. what is asked about a model, 3. the repository, 4. the server itself."""
        method = call.environ["REQUEST_METHOD"]
        call.is_invocation = False
        if len(parts) > 2 and parts[0] == "models" and parts[-1] in ("infer", "generate", "generate_stream"):
            _allow(method, "POST")
            return self._infer(call, *_model(parts[1:-1]), parts[-1])
        if parts[:1] == ["models"] and parts[-2:] != ["trace", "setting"]:
            _allow(method, "GET")
            with self._gate:
                return self._about(parts[1:])
        if parts[:1] == ["repository"]:
            _allow(method, "POST")
            self._guard.check(call.environ)
            with self._gate:
                return self._repository(call.environ, parts[1:])
        if (change := find_setting(method, parts)) is not None:
            if method == "POST":
                self._guard.check(call.environ)
            with self._gate:
                return _document(change(self._inference, self._body(call.environ)))
        return self._server(method, parts)

    # ---- the server and its models ----------------------------------------------------------------------------------

    def _server(self, method: str, parts: list[str]) -> Reply:
        if parts not in ([], ["health", "live"], ["health", "ready"]):
            raise RouteNotFoundError("Not Found")
        _allow(method, "GET")
        if not parts:
            return 200, [JSON], orjson.dumps({"name": "wharf", "version": __version__, "extensions": EXTENSIONS})
        return 200 if parts[1] == "live" or self._is_healthy() else 400, [], b""

    def _about(self, parts: list[str]) -> Reply:
        what = parts.pop() if parts and parts[-1] in ("ready", "config", "stats") else ""
        if not parts and what == "stats":
            return _document({"model_stats": self._inference.stats()})
        name, version = _model(parts)
        if what == "ready":
            if not self._inference.is_ready(name, version):
                raise BadRequestError("Model version not ready")
            return 200, [], b""
        if what == "stats":
            return _document({"model_stats": self._inference.stats(name, version)})
        find = self._inference.config if what == "config" else self._inference.metadata
        return _document(find(name, version))

    def _repository(self, environ: Environ, parts: list[str]) -> Reply:
        said = _read_object(self._body(environ))
        if parts[1:2] == ["models"]:
            raise UnsupportedError("Repositories have no names here: leave it out of the path.")
        if parts == ["index"]:
            return _document(self._inference.index(only_ready=bool(said.get("ready", False))))
        if len(parts) < 3 or parts[0] != "models" or parts[-1] not in ("load", "unload"):
            raise RouteNotFoundError("Not Found")
        name, parameters = check_name(_decoded("/".join(parts[1:-1]))), said.get("parameters", {})
        if parts[-1] == "load":
            self._inference.load(name, parameters)
        else:
            self._inference.unload(name, with_members=bool(parameters.get("unload_dependents", False)))
        return 200, [], b""

    def _body(self, environ: Environ) -> bytes:
        admitted_bytes = self._bodies.enter(environ)
        try:
            return self._bodies.read(environ)
        finally:
            self._bodies.leave(admitted_bytes)

    # ---- inference --------------------------------------------------------------------------------------------------

    def _infer(self, call: Call, name: str, version: str, how: str) -> Reply:
        call.model, call.is_invocation = name, True
        environ = call.environ
        admitted_bytes = self._bodies.enter(environ)
        is_streaming = False
        try:
            body = self._bodies.read(environ)
            if encoding := environ.get("HTTP_CONTENT_ENCODING"):
                body = self._bodies.decoded(body, encoding)
            if how == "infer":
                return self._tensors(call, name, version, body)
            question = generate.read(body, self._inference.signature(name, version))
            if how == "generate":
                answer = self._timed(call, lambda: self._inference.infer(name, version, question))
                return _document(generate.flat(answer.head, answer.outputs))
            answers = self._inference.stream(name, version, question)
            events = _events(answers)
            first = next(events)  # an error before the first answer is an error of the request
            reply = Stream(_chain(first, events), lambda: self._bodies.leave(admitted_bytes))
            is_streaming = True
            return 200, [_SSE], reply
        except MemoryError:
            raise InsufficientMemoryError(
                f"Model '{name}' ran out of memory on this request: send less at once."
            ) from None
        finally:
            if not is_streaming:
                self._bodies.leave(admitted_bytes)

    def _tensors(self, call: Call, name: str, version: str, body: bytes) -> Reply:
        environ = call.environ
        header = header_length(environ.get("HTTP_INFERENCE_HEADER_CONTENT_LENGTH"), len(body))
        question = v2.read(body, header, self._inference.regions)
        answer = self._timed(call, lambda: self._inference.infer(name, version, question))
        content, header = v2.write(answer.head, answer.outputs, question, self._inference.regions)
        headers = [JSON] if header is None else [("Content-Type", BINARY), (HEADER_LENGTH, str(header))]
        encoding = environ.get("HTTP_ACCEPT_ENCODING", "")
        # Only for who asks for one and nothing else, as tritonclient does: others offer all that they know by habit,
        # and a tensor of floats is no smaller for the time that it takes.
        if encoding in ("gzip", "deflate"):
            content = gzip.compress(content, 1) if encoding == "gzip" else zlib.compress(content, 1)
            headers.append(("Content-Encoding", encoding))
        return 200, headers, content

    @staticmethod
    def _timed(call: Call, infer: Callable[[], Answer]) -> Answer:
        started = perf_counter()
        answer = infer()
        call.model_s = perf_counter() - started
        return answer


def v2_error(error: BaseException, request_id: str) -> Reply:
    """Return the reply for any exception in Triton's words: the status is V2's, the body `{"error": ...}`."""
    if isinstance(error, RouteNotFoundError):
        return 404, [JSON], b'{"error":"Not Found"}'
    if isinstance(error, MethodNotAllowedError):
        return 405, [JSON, ("Allow", error.allow)], b'{"error":"Method Not Allowed"}'
    status, headers, body = error_reply(error, request_id)
    if isinstance(error, (ParseError, ModelFailedError)):
        status = 500
    return status, headers, body


def _allow(method: str, allowed: str) -> None:
    if method != allowed:
        raise MethodNotAllowedError("Method Not Allowed", allowed)


def _model(parts: list[str]) -> tuple[str, str]:
    """Take `NAME` or `NAME/versions/V` apart; a name may have slashes of its own."""
    version = ""
    if len(parts) > 2 and parts[-2] == "versions":
        *parts, _, version = parts
    if not parts:
        raise RouteNotFoundError("Not Found")
    return check_name(_decoded("/".join(parts))), version


def _decoded(name: str) -> str:
    """Return a name of the path, which WSGI hands over percent-decoded, its bytes as latin-1."""
    try:
        return name.encode("latin-1").decode()
    except UnicodeError:
        raise ModelNotFoundError(f"Request for unknown model: {ascii(name[:80])} is not found") from None


def _read_object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        raise ParseError(f"failed to parse the request JSON buffer: {fault.msg} at {fault.pos}") from None
    if not isinstance(found, dict) or not isinstance(found.get("parameters", {}), dict):
        raise ParseError("failed to parse the request JSON buffer: an object is wanted, 'parameters' one too.")
    return found


def _document(value: object) -> Reply:
    return 200, [JSON], b"" if value is None else orjson.dumps(value)


def _events(answers: Iterator[Answer]) -> Iterator[bytes]:
    """Yield server-sent events; an error after the first answer is an event too. Empty bytes: there was no answer."""
    is_first = True
    try:
        for answer in answers:
            is_first = False
            yield b"data: " + orjson.dumps(generate.flat(answer.head, answer.outputs)) + b"\n\n"
        if is_first:
            yield b""
    except ServingError as error:
        if is_first:
            raise
        yield b"data: " + orjson.dumps({"error": error.message}) + b"\n\n"


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield first
        yield from rest
    finally:
        getattr(rest, "close", lambda: None)()
