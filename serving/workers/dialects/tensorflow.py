"""TensorFlow Serving's container: `handler(data, context)`, or the pair `input_handler` and `output_handler`.

`data` is a stream, the context the container's named tuple. Between a pair stands TensorFlow Serving's REST API: a JSON
body goes in, a response comes out. A `handler` posts to it itself, at `context.rest_uri`, or computes everything alone.
No TensorFlow Serving runs: `tensorflow_predict` finds who predicts, in this process, `tensorflow_api` speaks, and where
a script names the address, `tensorflow_rest` listens there. Its gRPC has nobody, and a script that names that is warned
about.
"""

from __future__ import annotations

import io
import logging
import re
from collections import namedtuple
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from serving.workers.dialects.sagemaker_context import Exchange, reply, wanted
from serving.workers.dialects.sagemaker_script import defined, import_script
from serving.workers.dialects.tensorflow_api import METHODS, respond
from serving.workers.dialects.tensorflow_predict import Predictor, predictor
from serving.workers.dialects.tensorflow_rest import RestServer, uri
from serving.workers.handler import Handler, HandlerError, Launch, Reply, Request

_log = logging.getLogger(__name__)

Context = namedtuple(
    "Context",
    "model_name, model_version, method, rest_uri, grpc_port, channel, "
    "custom_attributes, request_content_type, accept_header, content_length",
)

_ATTRIBUTE = re.compile(r"(tfs-[a-z-]+)=([^,]+)")
_NOWHERE = "http://localhost:0"  # port 0 refuses at once
# Of a script's own folder at most so many files are looked through for the address.
_LOOKED_AT_MAX = 200

Handle = Callable[[Any, Any], Any]


def load(launch: Launch) -> Handler:
    """Import the script and make its handlers ready.

    Raises `ValueError` where it has neither `handler` nor the pair, or where nothing can predict between the pair.
    """
    return from_module(import_script(launch.file), launch)


def is_handled(module: ModuleType) -> bool:
    """Tell whether a script speaks this contract."""
    return _handler(module) is not None or (hasattr(module, "input_handler") and hasattr(module, "output_handler"))


def _handler(module: ModuleType) -> Callable[..., Any] | None:
    handler = getattr(module, "handler", None)
    return handler if callable(handler) else None  # a script's logging.StreamHandler is often called so


def from_module(module: ModuleType, launch: Launch) -> Handler:
    """Make the handlers of an imported script ready; `handler` alone counts where a script has the pair too."""
    handler = _handler(module)
    named = _names(Path(str(module.__file__)))
    _warn_of_grpc(module, named)
    if handler is not None:
        found = predictor(module, launch) if "rest_uri" in named else None
        if found is None and "rest_uri" in named:
            _log.warning("%s uses context.rest_uri and %s", module.__file__, _nothing(launch))
        return TensorFlowHandler(handler, launch, None if found is None else RestServer(launch.name, found))
    before, after = defined(module, "input_handler"), defined(module, "output_handler")
    if before is None or after is None:
        raise ValueError(
            f"'{module.__file__}' has neither handler nor the pair of input_handler and output_handler "
            f"(handler(data, context) is wanted): define them."
        )
    found = predictor(module, launch)
    if found is None:
        raise ValueError(f"Between input_handler and output_handler somebody must predict, and {_nothing(launch)}")
    server = RestServer(launch.name, found) if "rest_uri" in named else None
    return TensorFlowHandler(_paired(before, after, found), launch, server)


def _nothing(launch: Launch) -> str:
    return (
        f"'{launch.folder}' has nothing that predicts: add a SavedModel or a .keras file, or give the script "
        "predict(data) or model_fn(model_dir)."
    )


def _paired(before: Handle, after: Handle, found: Predictor) -> Handle:
    def handle(data: Any, context: Any) -> Any:
        method, version = context.method or "predict", context.model_version or ""
        if method not in METHODS:
            raise HandlerError(f"tfs-method is '{method}': send {', '.join(METHODS)}, or none.", 400)
        return after(respond(before(data, context), method, version, found.predict), context)

    return handle


def _names(script: Path) -> set[str]:
    """Return which places of TensorFlow Serving a script names, or what lies beside it."""
    beside = (path for path in script.parent.rglob("*.py") if "lib" not in path.relative_to(script.parent).parts)
    files = [script, *islice(beside, _LOOKED_AT_MAX)]
    source = "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    return {name for name in ("rest_uri", "grpc_port", "channel") if re.search(rf"\b{name}\b", source)}


def _warn_of_grpc(module: ModuleType, named: set[str]) -> None:
    source = Path(str(module.__file__)).read_text(encoding="utf-8", errors="replace")
    for name in sorted(named - {"rest_uri"}):
        if f"context.{name}" in source:
            _log.warning(
                "%s uses context.%s and no TensorFlow Serving answers gRPC here: post to context.rest_uri",
                module.__file__,
                name,
            )


class TensorFlowHandler:
    """A script's handlers, given the request's body as a stream."""

    takes_tensors = False
    inputs: list[dict[str, Any]] | None = None
    outputs: list[dict[str, Any]] | None = None

    def __init__(self, handle: Handle, launch: Launch, server: RestServer | None = None) -> None:
        self._handle = handle
        self._server = server
        self._address = server.address if server is not None else _NOWHERE
        self._name = launch.name
        self._default_accept = launch.default_accept

    def call(self, requests: list[Request]) -> list[Reply]:
        """Answer the requests one by one: handlers take one body."""
        return [self._answer(request) for request in requests]

    def close(self) -> None:
        """Listen no longer: the contract has no farewell."""
        if self._server is not None:
            self._server.close()

    def _answer(self, request: Request) -> Reply:
        accept = wanted(request, self._default_accept)
        result = self._handle(io.BytesIO(request.body), context_of(request, self._name, accept, self._address))
        return reply(result, accept, Exchange(request.headers))


def context_of(request: Request, model_name: str, accept: str, address: str = _NOWHERE) -> Any:
    """Return the container's context for a request: version and method come from its custom attributes, else None."""
    custom = request.header("X-Amzn-Sagemaker-Custom-Attributes") or None
    attributes = {name: value.strip() for name, value in _ATTRIBUTE.findall(custom or "")}
    version, method = attributes.get("tfs-model-version"), attributes.get("tfs-method")
    return Context(
        model_name=model_name,
        model_version=version,
        method=method,
        rest_uri=uri(address, model_name, version or "", method or "predict"),
        grpc_port=None,
        channel=None,
        custom_attributes=custom,
        request_content_type=request.header("Content-Type") or "application/json",
        accept_header=accept,
        content_length=len(request.body),
    )
