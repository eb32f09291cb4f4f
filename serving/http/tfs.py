"""TensorFlow Serving's REST API: a model's status and metadata, predict, classify, regress.

    GET  /v1/models/NAME[/versions/V | /labels/L]           which versions there are, and whether they serve
    GET  /v1/models/NAME[/versions/V | /labels/L]/metadata  signatures
    POST /v1/models/NAME[/versions/V | /labels/L]:predict   or :classify, :regress

Takes a path apart, has `inference` do it and writes what comes in TensorFlow Serving's form, errors too: `{"error":
...}` with the status that its code has over HTTP. Every model that takes tensors answers, whatever runs it. Labels are
those of the model's wharf.toml. Called by `app`; `tfs_methods` runs the three methods, `tfs_documents` writes what a
model says of itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from time import perf_counter

import orjson

from serving.codecs.v2 import Question
from serving.errors import (
    BadRequestError,
    MethodNotAllowedError,
    ModelFailedError,
    ModelNotFoundError,
    RouteNotFoundError,
    ServingError,
)
from serving.http import tfs_documents, tfs_methods
from serving.http.admission import Gate
from serving.http.bodies import Bodies
from serving.http.replies import JSON, Reply, error_reply
from serving.http.sagemaker import Call, check_name
from serving.inference import Answer, Inference, Reader

# As TensorFlow Serving takes them apart (http_rest_api_util.cc), but for slashes in names, which models have here.
_WHICH = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_NAME = r"(?P<name>[^:]+?)"
_METHOD = re.compile(rf"/v1/models/{_NAME}{_WHICH}:(?P<method>classify|regress|predict)", re.I)
_ABOUT = re.compile(rf"/v1/models(?:/{_NAME})?{_WHICH}(?P<metadata>/metadata)?", re.I)
_ODD_NAME = re.compile(r"/(?:versions|labels)(?:/|$)|//|/$", re.I)
_VERSION_MAX = 2**63 - 1


class TfsRoutes:
    """Everything below `/v1`."""

    def __init__(
        self, inference: Inference, bodies: Bodies, gate: Gate, own_name: Callable[[str], str] = lambda name: name
    ) -> None:
        self._inference = inference
        self._own_name = own_name  # of the one model of an endpoint, which clients may call otherwise
        self._bodies = bodies
        self._gate = gate

    def answer(self, call: Call) -> Reply:
        """Answer one request below `/v1`, errors included."""
        call.is_invocation = False
        try:
            return self._route(call)
        except Exception as error:
            return tfs_error(error, call.request_id)

    def _route(self, call: Call) -> Reply:
        method, path = call.environ["REQUEST_METHOD"], call.environ["PATH_INFO"]
        found = (_METHOD if method == "POST" else _ABOUT).fullmatch(path) if method in ("POST", "GET", "HEAD") else None
        if found is None or (found["name"] and _ODD_NAME.search(found["name"])):
            raise BadRequestError(f"Malformed request: {ascii(method)[1:-1][:20]} {ascii(path)[1:-1][:200]}")
        if not found["name"]:
            raise BadRequestError("Missing model name in request.")
        name = self._own_name(check_name(_decoded(found["name"])))
        version = self._labelled(name, _decoded(found["label"])) if found["label"] else _version(found)
        if method == "POST":
            return self._ask(call, name, version, found["method"].lower())
        with self._gate:
            if found["metadata"]:
                return self._metadata(name, version)
            return _document(tfs_documents.status(self._inference.catalog, name, version))

    def _labelled(self, name: str, label: str) -> str:
        """Return the version of a label; the model is loaded for it where that may be."""
        try:
            labels = self._inference.described(name, "", lambda _, spec: spec.labels or {})
        except ModelNotFoundError as error:
            raise _not_found(error, name, "") from None
        if label not in labels:
            raise BadRequestError(
                f"Unrecognized servable version label: {label[:80]}: model '{name}' has "
                f"{', '.join(labels) or 'none'} (labels in its wharf.toml)."
            )
        return labels[label]

    def _metadata(self, name: str, version: str) -> Reply:
        try:
            return _document(self._inference.described(name, version, tfs_documents.metadata))
        except ModelNotFoundError as error:
            raise _not_found(error, name, version) from None

    def _ask(self, call: Call, name: str, version: str, method: str) -> Reply:
        call.model, call.is_invocation = name, True

        def ask(signature: str, read: Reader) -> Answer:
            started = perf_counter()
            try:
                return self._inference.infer_as(name, version, signature, read)
            except ModelNotFoundError as error:
                raise _not_found(error, name, version) from None
            finally:
                call.model_s = perf_counter() - started

        with self._bodies.admitted(call.environ, name) as place:
            body = place.read()
            if encoding := call.environ.get("HTTP_CONTENT_ENCODING"):
                body = self._bodies.decoded(body, encoding)
            return 200, [JSON], tfs_methods.run(method, body, name, ask)


def tfs_error(error: BaseException, request_id: str) -> Reply:
    """Return the reply for any exception as TensorFlow Serving has it: the text alone, the status of its code.

    A route or a method that it has not is 400 there, a model that failed 500.
    """
    status, headers, body = error_reply(error, request_id)
    if isinstance(error, ServingError):
        body = orjson.dumps({"error": error.text.removeprefix(Question().about).rstrip(" ")})
    if isinstance(error, (RouteNotFoundError, MethodNotAllowedError)):
        status = 400
    elif isinstance(error, ModelFailedError):
        status = 500
    return status, headers, body


def _version(found: re.Match[str]) -> str:
    """Return the version of a path, "" for the one of who names none."""
    if not found["version"]:
        return ""
    if len(found["version"]) > 30 or int(found["version"]) > _VERSION_MAX:
        raise BadRequestError(f"Failed to convert version: {found['version'][:80]} to numeric.")
    return str(int(found["version"]))


def _not_found(error: ModelNotFoundError, name: str, version: str) -> ModelNotFoundError:
    """Return TensorFlow Serving's sentence, and behind it ours."""
    asked = f"Specific({name}, {version})" if version else f"Latest({name})"
    return ModelNotFoundError(f"Servable not found for request: {asked}. {error.text}")


def _decoded(name: str) -> str:
    """Return a name of the path, which WSGI hands over percent-decoded, its bytes as latin-1."""
    try:
        return name.encode("latin-1").decode()
    except UnicodeError:
        raise BadRequestError(f"Failed to decode model name:{ascii(name[:80])}") from None


def _document(value: object) -> Reply:
    return 200, [JSON], orjson.dumps(value)
