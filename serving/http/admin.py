"""The management routes, in Flask: load, unload, describe, the repository, metrics.

None of them is hot. Every error, Flask's own included, leaves as our JSON. `Guard` closes them to callers without the
admin token, but never in platform mode: the platform sends none.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable

import flask
import orjson
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from serving.errors import (
    BadRequestError,
    MethodNotAllowedError,
    PayloadTooLargeError,
    RouteNotFoundError,
    ServingError,
    UnauthorizedError,
)
from serving.http.replies import Environ, RequestIds, error_reply, json_reply
from serving.http.sagemaker import check_name
from serving.logs import quoted
from serving.manager import ModelManager
from serving.metrics import Metrics

log = logging.getLogger("wharf.http")

# A load request is a name and a path.
_LOAD_BODY_MAX_BYTES = 64 * 1024


class Guard:
    """Asks for the admin token where one is set."""

    def __init__(self, token: str | None) -> None:
        self._expected = f"Bearer {token}".encode() if token else None

    def check(self, environ: Environ) -> None:
        """Raise `UnauthorizedError` (401) unless the request carries the token."""
        given = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1", "replace")
        if self._expected is not None and not hmac.compare_digest(given, self._expected):
            raise UnauthorizedError("This route wants 'Authorization: Bearer <WHARF_ADMIN_TOKEN>'.")


def make_admin(
    manager: ModelManager,
    metrics: Metrics,
    guard: Guard,
    available: Callable[[], list[dict[str, object]]],
    request_id: RequestIds,
) -> flask.Flask:
    """Build the Flask app of the cold routes."""
    app = flask.Flask("wharf", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _LOAD_BODY_MAX_BYTES
    app.url_map.merge_slashes = False

    @app.before_request
    def _authorize() -> None:
        guard.check(flask.request.environ)

    @app.errorhandler(Exception)
    def _to_reply(error: Exception) -> ResponseReturnValue:
        status, headers, body = error_reply(_translate(error), request_id(flask.request.environ))
        return flask.Response(body, status, headers)

    @app.post("/models")
    def _load() -> ResponseReturnValue:
        name, url = read_load_request(flask.request.get_data(cache=False))
        manager.load(name, url)
        return _respond({"status": f"Model '{name}' loaded."})

    @app.get("/models")
    def _list() -> ResponseReturnValue:
        # `app` answers /models; it is known here so that the Allow of a 405 names GET. What comes is //models.
        raise _no_route(flask.request.environ["PATH_INFO"])

    @app.get("/models/<path:name>")
    def _describe(name: str) -> ResponseReturnValue:
        return _respond({"modelName": check_name(name), "modelUrl": manager.url_of(name)})

    @app.delete("/models/<path:name>")
    def _unload(name: str) -> ResponseReturnValue:
        manager.unload(check_name(name))
        return _respond({"status": f"Model '{name}' unloaded."})

    @app.get("/repository")
    def _repository() -> ResponseReturnValue:
        return _respond({"models": available()})

    @app.get("/metrics")
    def _metrics() -> ResponseReturnValue:
        return flask.Response(metrics.render(), content_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def read_load_request(body: bytes) -> tuple[str, str]:
    """Return (model_name, url) of a load request's JSON body; raise `BadRequestError` that says what is wrong.

    What else stands there (DJL's register call has batch_size and more) is named in the log.
    """
    wanted = 'send {"model_name": "NAME", "url": "/opt/ml/models/HASH/model"}'
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"The load request is not JSON ({error}): {wanted}.") from None
    if not isinstance(fields, dict):
        raise BadRequestError(f"The load request is a JSON {type(fields).__name__} and wants an object: {wanted}.")
    values = []
    for key in ("model_name", "url"):
        value = fields.get(key)
        if not isinstance(value, str) or not value:
            found = "is missing" if key not in fields else f"is {ascii(value)[:40]} and wants a text"
            raise BadRequestError(f"'{key}' of the load request {found}: {wanted}.")
        values.append(value)
    name = check_name(values[0])
    if more := sorted(fields.keys() - {"model_name", "url"}):
        warning = f"the load request has {', '.join(more)[:200]}, which has no effect: set it in the model's own files."
        log.warning("event=configuration model=%s warning=%s", quoted(name), quoted(warning))
    return name, values[1]


def _respond(value: object) -> flask.Response:
    status, headers, body = json_reply(value)
    return flask.Response(body, status, headers)


def _translate(error: Exception) -> Exception:
    """Turn Flask's own errors into ours."""
    if isinstance(error, ServingError) or not isinstance(error, HTTPException):
        return error
    path, method = ascii(flask.request.path[:80]), ascii(flask.request.method[:20])
    if error.code == 405:
        allow = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        return MethodNotAllowedError(f"{path} does not take {method}: use {allow}.", allow)
    if error.code == 413:
        return PayloadTooLargeError(f"A management request takes at most {_LOAD_BODY_MAX_BYTES} bytes.")
    if error.code == 404:
        return _no_route(flask.request.path)
    return BadRequestError(f"{method} {path}: {error.description}")


def _no_route(path: str) -> RouteNotFoundError:
    return RouteNotFoundError(
        f"There is no {ascii(path[:80])} here: see /ping, /models, /models/NAME/invoke, /invocations."
    )
