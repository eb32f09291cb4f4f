"""The Open Inference routes (V2) as Triton has them: health, metadata, infer, generate, repository, statistics.

Takes a path apart, has `inference` do it and writes what comes in Triton's form: `{"error": ...}` with Triton's codes,
which for a body that cannot be parsed and for a model that failed are 500 here and 4xx on SageMaker's routes. Routes
that change what is loaded want the admin token where one is set. Called by `app`.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from time import perf_counter
from typing import Any

import orjson

from serving import __version__
from serving.codecs import generate, v2, v2_requests
from serving.codecs.v2 import BINARY, HEADER_LENGTH, ParseError
from serving.codecs.v2_heads import Heads
from serving.errors import (
    BadRequestError,
    MethodNotAllowedError,
    ModelFailedError,
    ModelNotFoundError,
    RouteNotFoundError,
    ServingError,
    UnsupportedError,
)
from serving.http import v2_repository
from serving.http.admin import Guard
from serving.http.admission import Gate
from serving.http.bodies import ENCODINGS, Bodies, UnknownEncodingError
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
# Triton's words.
_ONCE = "HTTP end point doesn't support models with decoupled transaction policy"
_SSE = ("Content-Type", "text/event-stream; charset=utf-8")
_WEIGHT = re.compile(r"q\s*=\s*(1(\.0*)?|0?\.0*[1-9]\d*)")  # any but 0


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
        self._heads = Heads()

    def answer(self, call: Call) -> Reply:
        """Answer one request below `/v2`, errors included."""
        try:
            return self._route(call, call.environ["PATH_INFO"].split("/")[2:])
        except Exception as error:
            return v2_error(error, call.request_id)

    def _route(self, call: Call, parts: list[str]) -> Reply:
        """Find the route: 1. inference, 2. what is asked about a model, 3. the repository, 4. the server itself."""
        method = call.environ["REQUEST_METHOD"]
        call.is_invocation = False
        if "" in parts:  # a slash at the end, or two
            raise RouteNotFoundError("Not Found")
        if len(parts) > 2 and parts[0] == "models" and parts[-1] in ("infer", "generate", "generate_stream"):
            _allow(method, "POST")
            return self._infer(call, *_model(*parts[1:-1]), parts[-1])
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
            return _document({"model_stats": self._inference.catalog.stats()})
        name, version = _model(*parts)
        if what == "ready":
            if not self._inference.catalog.is_ready(name, version):
                raise BadRequestError("Model version not ready")
            return 200, [], b""
        if what == "stats":
            return _document({"model_stats": self._inference.catalog.stats(name, version)})
        find = self._inference.config if what == "config" else self._inference.metadata
        return _document(find(name, version))

    def _repository(self, environ: Environ, parts: list[str]) -> Reply:
        """`index`, `models/NAME/load`, `models/NAME/unload`; each may have a repository's name before it."""
        catalog = self._inference.catalog
        if parts[-1:] == ["index"] and len(parts) < 3:  # of which repository, Triton does not ask
            return _document(catalog.index(only_ready=v2_repository.read_index(self._body(environ))))
        if len(parts) < 3 or parts[-1] not in ("load", "unload") or "models" not in parts[:2]:
            raise RouteNotFoundError("Not Found")
        if parts[0] != "models":
            raise UnsupportedError("'repository_name' specification is not supported")
        name, body = check_name(_decoded("/".join(parts[1:-1]))), self._body(environ)
        if parts[-1] == "load":
            catalog.load(name, v2_repository.read_load(body))
        else:
            catalog.unload(name, with_members=v2_repository.read_unload(body))
        return 200, [], b""

    def _body(self, environ: Environ) -> bytes:
        with self._bodies.admitted(environ) as place:
            return place.read()

    # ---- inference --------------------------------------------------------------------------------------------------

    def _infer(self, call: Call, name: str, version: str, how: str) -> Reply:
        call.model, call.is_invocation = name, True
        with self._bodies.admitted(call.environ, name) as place:
            body = place.read()
            if encoding := call.environ.get("HTTP_CONTENT_ENCODING"):
                body = self._bodies.decoded(body, encoding)
            if how == "infer":
                return self._tensors(call, name, version, body)
            question = generate.read(body, self._inference.signature(name, version))
            answers = self._inference.stream(name, version, question)
            if how == "generate":
                started = perf_counter()
                reply = _only(answers)
                call.model_s = perf_counter() - started
                return reply
            try:
                first = next(answers, None)  # what is raised here is the request's error
            except ModelFailedError as error:
                return 400, [_SSE], _event({"error": error.text})
            status = 400 if first is not None and first.error else 200
            return status, [_SSE], Stream(_events(first, answers), place.keep())

    def _tensors(self, call: Call, name: str, version: str, body: bytes) -> Reply:
        environ = call.environ
        header = v2_requests.header_length(environ.get("HTTP_INFERENCE_HEADER_CONTENT_LENGTH"), len(body))
        question = v2_requests.read(body, header, name, self._inference.regions, self._heads)
        started = perf_counter()
        answer = self._inference.infer(name, version, question, once=_ONCE)
        call.model_s = perf_counter() - started
        content, header = v2.write(answer.head, answer.outputs, question, self._inference.regions)
        headers = [JSON] if header is None else [("Content-Type", BINARY), (HEADER_LENGTH, str(header))]
        if encoding := _asked_encoding(environ.get("HTTP_ACCEPT_ENCODING", "")):
            content = gzip.compress(content, 1) if encoding == "gzip" else zlib.compress(content, 1)
            headers.append(("Content-Encoding", encoding))
        return 200, headers, content


def v2_error(error: BaseException, request_id: str) -> Reply:
    """Return the reply for any exception in Triton's words: the status is V2's, the body `{"error": ...}`."""
    if isinstance(error, RouteNotFoundError):
        return 404, [JSON], b'{"error":"Not Found"}'
    if isinstance(error, MethodNotAllowedError):
        return 405, [JSON, ("Allow", error.allow)], b'{"error":"Method Not Allowed"}'
    status, headers, body = error_reply(error, request_id)
    if isinstance(error, ServingError):
        body = orjson.dumps({"error": error.text})
    if isinstance(error, UnknownEncodingError):
        headers.append(("Accept-Encoding", ENCODINGS))
    if isinstance(error, (ParseError, ModelFailedError)):
        status = 500
    return status, headers, body


def _allow(method: str, allowed: str) -> None:
    if method != allowed:
        raise MethodNotAllowedError("Method Not Allowed", allowed)


@lru_cache(256)  # clients ask for few; what is refused is not kept
def _model(*path: str) -> tuple[str, str]:
    """Take `NAME` or `NAME/versions/V` apart; a name may have slashes of its own, a version is a number."""
    parts, version = list(path), ""
    if len(parts) > 2 and parts[-2] == "versions":
        *parts, _, version = parts
    if not parts or "versions" in parts[1:] or not (version.isdigit() or version == ""):
        raise RouteNotFoundError("Not Found")
    return check_name(_decoded("/".join(parts))), version


def _decoded(name: str) -> str:
    """Return a name of the path, which WSGI hands over percent-decoded, its bytes as latin-1."""
    try:
        return name.encode("latin-1").decode()
    except UnicodeError:
        raise ModelNotFoundError(f"Request for unknown model: {ascii(name[:80])} is not found") from None


def _asked_encoding(offered: str) -> str:
    """Return the encoding of the answer for an Accept-Encoding, empty for none.

    Only for who accepts one of those that there are and not both: clients that offer all they know do so by habit, and
    a tensor of floats is no smaller for the time that it takes.
    """
    if not offered:
        return ""
    known = {each for each in map(_accepted, offered.split(",")) if each in ("gzip", "deflate")}
    return known.pop() if len(known) == 1 else ""


def _accepted(offer: str) -> str:
    """Return what an element of Accept-Encoding accepts, empty where its weight is 0 or none (RFC 9110 12.5.3)."""
    coding, _, weight = offer.partition(";")
    return coding.strip() if not weight or _WEIGHT.fullmatch(weight.strip()) else ""


def _document(value: object) -> Reply:
    return 200, [JSON], b"" if value is None else orjson.dumps(value)


def _only(answers: Iterator[Answer]) -> Reply:
    """Return the one answer of a model; of another number of them Triton says so with the status 200.

    That the first is an error is 400 on these routes, whatever the error.
    """
    try:
        first = next(answers, None)
        is_only = first is not None and (first.error is not None or not _has_another(answers))
    except ModelFailedError as error:
        return 400, [JSON], orjson.dumps({"error": error.text})
    finally:
        _close(answers)
    if first is None or not is_only:
        return _document({"error": generate.NOT_ONE_ANSWER})
    if first.error is not None:
        return 400, [JSON], orjson.dumps({"error": first.error.text})
    return _document(generate.flat(first.head, first.outputs))


def _has_another(answers: Iterator[Answer]) -> bool:
    try:
        return next(answers, None) is not None
    except ModelFailedError:
        return True


def _events(first: Answer | None, rest: Iterator[Answer]) -> Iterator[bytes]:
    """Yield a server-sent event for each answer, errors too; empty bytes where there is none."""
    try:
        yield b"" if first is None else _told(first)
        for answer in rest:
            yield _told(answer)
    except ServingError as error:
        yield _event({"error": error.text})
    finally:
        _close(rest)  # now: until then the model is held


def _told(answer: Answer) -> bytes:
    return _event({"error": answer.error.text} if answer.error else generate.flat(answer.head, answer.outputs))


def _event(said: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(said) + b"\n\n"


def _close(answers: Iterator[object]) -> None:
    getattr(answers, "close", lambda: None)()
