"""The WSGI app: the hot routes by hand, everything else to Flask.

Matches method and path, gives every request an id, turns errors into replies, writes its log line (but not for polls
that succeed) and, for an invocation, its observation. Runs unchanged under Granian and gunicorn. What a route does is
`sagemaker`'s and `admin`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import Protocol

from serving.contract import REQUEST_ID
from serving.errors import BadRequestError, MethodNotAllowedError, UnavailableError
from serving.http.admin import Guard
from serving.http.admission import Gate
from serving.http.handed import Stream
from serving.http.replies import Environ, Headers, Reply, RequestIds, StartResponse, error_reply, send
from serving.http.sagemaker import Call, SageMakerRoutes, check_name
from serving.logs import AccessLog, about
from serving.metrics import Metrics

_INVOKE = "/invoke"
_MODELS = "/models/"


class Language(Protocol):
    """Another protocol's routes, all below one path."""

    def answer(self, call: Call) -> Reply:
        """Answer one request, errors included."""


class App:
    """A WSGI callable.

    `spoken` has the other languages by the path that they live below; `ailment` says why /ping is 503, and nothing
    while all is well.
    """

    def __init__(  # noqa: PLR0913  the composition root is the one caller
        self,
        routes: SageMakerRoutes,
        cold: Callable[[Environ, StartResponse], Iterable[bytes]],
        gate: Gate,
        guard: Guard,
        request_id: RequestIds,
        metrics: Metrics,
        access_log: AccessLog,
        ailment: Callable[[], str] = lambda: "",
        spoken: Mapping[str, Language] | None = None,
    ) -> None:
        self._routes = routes
        self._cold = cold
        self._gate = gate
        self._guard = guard
        self._request_id = request_id
        self._metrics = metrics
        self._access_log = access_log
        self._ailment = ailment
        self._spoken = spoken or {}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path = environ["PATH_INFO"]
        if path == "/ping":
            return self._ping(environ, start_response)
        # /models/invoke is the model of that name.
        if path == "/invocations" or (path.endswith(_INVOKE) and path.startswith(_MODELS) and path != "/models/invoke"):
            return self._invoke(environ, path, start_response)
        if path == "/models" and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._list(environ, start_response)
        language = self._spoken.get(path[:3])
        if language is not None and path[3:4] in ("", "/"):
            return self._speak(language, environ, start_response)
        return self._manage(environ, start_response)

    def flush(self) -> None:
        """Write the access lines that are still pending."""
        self._access_log.flush()

    def _ping(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            reply = error_reply(_wrong_method(environ, "GET, HEAD"), "")
        elif ailment := self._ailment():
            reply = error_reply(UnavailableError(ailment), "")
        else:
            reply = (200, [], b"")
        return send(reply, start_response)

    def _list(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        call = Call(environ, self._request_id(environ))
        try:
            self._guard.check(environ)
            reply = self._routes.list_models(call)
        except Exception as error:
            reply = error_reply(error, call.request_id)
            self._log(call, reply[0])
        return send(reply, start_response)

    def _manage(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Hand a management call to Flask, if there is a place for it."""
        call = Call(environ, self._request_id(environ))

        def start(status: str, headers: Headers, *rest: object) -> object:
            self._log(call, int(status[:3]))
            return start_response(status, [*headers, (REQUEST_ID, call.request_id)], *rest)

        token = about.set((call.request_id, ""))
        try:
            with self._gate:
                return list(self._cold(environ, start))
        except UnavailableError as error:
            return send(error_reply(error, call.request_id), start)
        finally:
            about.reset(token)

    def _speak(self, language: Language, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        call = Call(environ, self._request_id(environ))
        token = about.set((call.request_id, ""))
        try:
            reply = language.answer(call)
        finally:
            about.reset(token)
        return self._finish(call, reply, start_response)

    def _invoke(self, environ: Environ, path: str, start_response: StartResponse) -> Iterable[bytes]:
        call = Call(environ, self._request_id(environ))
        token = about.set((call.request_id, ""))
        try:
            reply = self._route(call, path)
        except Exception as error:
            reply = error_reply(error, call.request_id)
        finally:
            about.reset(token)
        return self._finish(call, reply, start_response)

    def _finish(self, call: Call, reply: Reply, start_response: StartResponse) -> Iterable[bytes]:
        if isinstance(reply[2], Stream):
            status = reply[0]
            reply[2].when_over(lambda: self._observe(call, status))
        else:
            self._observe(call, reply[0])
        reply[1].append((REQUEST_ID, call.request_id))
        return send(reply, start_response)

    def _observe(self, call: Call, status: int) -> None:
        total_s = self._log(call, status)
        if call.is_invocation:
            self._metrics.invocation(status, total_s, call.model_s, call.is_hit)

    def _route(self, call: Call, path: str) -> Reply:
        if call.environ["REQUEST_METHOD"] != "POST":
            raise _wrong_method(call.environ, "POST")
        if path == "/invocations":
            return self._routes.invocations(call)
        name = path[len(_MODELS) : -len(_INVOKE)]
        if not name.isascii():
            name = _decode_name(name)
        return self._routes.invoke(call, name if name.isalnum() else check_name(name))

    def _log(self, call: Call, status: int) -> float:
        """Write the line of a request; return its duration in seconds."""
        environ = call.environ
        total_s = perf_counter() - call.started
        self._access_log.write(
            status,
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"],
            call.model,
            environ.get("HTTP_X_AMZN_SAGEMAKER_TARGET_MODEL"),
            environ.get("HTTP_X_AMZN_SAGEMAKER_INFERENCE_ID"),
            call.request_id,
            round(total_s * 1000, 3),
        )
        return total_s


def _decode_name(name: str) -> str:
    try:
        return name.encode("latin-1").decode()
    except UnicodeError:
        raise BadRequestError(f"Model name {ascii(name[:80])} is not UTF-8.") from None


def _wrong_method(environ: Environ, allow: str) -> MethodNotAllowedError:
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    return MethodNotAllowedError(f"{ascii(path[:80])} does not take {ascii(method[:20])}: use {allow}.", allow)
