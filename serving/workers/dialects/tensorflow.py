"""TensorFlow Serving's container: `handler(data, context)`, or the pair `input_handler` and `output_handler`.

`data` is a stream, the context the container's named tuple. A `handler` computes everything itself. Between a pair
stands TensorFlow Serving's REST prediction: a JSON body with instances or inputs goes in, a response with predictions
or outputs comes out. It is answered by `tensorflow_predict`, in this process: no TensorFlow Serving runs here,
so `context.rest_uri` leads nowhere and a script that names it is warned about.
"""

from __future__ import annotations

import io
import logging
import re
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from serving.workers.dialects.sagemaker_context import Exchange, reply, wanted
from serving.workers.dialects.sagemaker_script import defined, import_script
from serving.workers.dialects.tensorflow_predict import predictor, respond
from serving.workers.handler import Handler, HandlerError, Launch, Reply, Request

_log = logging.getLogger(__name__)

Context = namedtuple(
    "Context",
    "model_name, model_version, method, rest_uri, grpc_port, channel, "
    "custom_attributes, request_content_type, accept_header, content_length",
)

_ATTRIBUTE = re.compile(r"(tfs-[a-z-]+)=([^,]+)")
_NOWHERE = "http://localhost:0"  # port 0 refuses at once
_ANSWERS_PREDICT = (None, "predict")

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
    _warn_of_serving(module)
    if handler is not None:
        return TensorFlowHandler(handler, launch)
    before, after = defined(module, "input_handler"), defined(module, "output_handler")
    if before is None or after is None:
        raise ValueError(
            f"'{module.__file__}' has neither handler nor the pair of input_handler and output_handler "
            f"(handler(data, context) is wanted): define them."
        )
    return TensorFlowHandler(_paired(before, after, module, launch), launch)


def _paired(before: Handle, after: Handle, module: ModuleType, launch: Launch) -> Handle:
    predict = predictor(module, launch)

    def handle(data: Any, context: Any) -> Any:
        if context.method not in _ANSWERS_PREDICT:
            raise HandlerError(
                f"tfs-method is '{context.method}' and only predict is answered: send that, or none.", 400
            )
        return after(respond(before(data, context), predict), context)

    return handle


def _warn_of_serving(module: ModuleType) -> None:
    source = Path(str(module.__file__)).read_text(encoding="utf-8", errors="replace")
    for name in ("rest_uri", "grpc_port", "channel"):
        if f"context.{name}" in source:
            _log.warning(
                "%s uses context.%s and no TensorFlow Serving runs here: use input_handler and output_handler, "
                "or predict inside handler",
                module.__file__,
                name,
            )


class TensorFlowHandler:
    """A script's handlers, given the request's body as a stream."""

    takes_tensors = False
    inputs: list[dict[str, Any]] | None = None
    outputs: list[dict[str, Any]] | None = None

    def __init__(self, handle: Handle, launch: Launch) -> None:
        self._handle = handle
        self._name = launch.name
        self._default_accept = launch.default_accept

    def call(self, requests: list[Request]) -> list[Reply]:
        """Answer the requests one by one: handlers take one body."""
        return [self._answer(request) for request in requests]

    def close(self) -> None:
        """Do nothing: the contract has no farewell."""

    def _answer(self, request: Request) -> Reply:
        accept = wanted(request, self._default_accept)
        result = self._handle(io.BytesIO(request.body), context_of(request, self._name, accept))
        return reply(result, accept, Exchange(request.headers))


def context_of(request: Request, model_name: str, accept: str) -> Any:
    """Return the container's context for a request: version and method come from its custom attributes, else None."""
    custom = request.header("X-Amzn-Sagemaker-Custom-Attributes") or None
    attributes = dict(_ATTRIBUTE.findall(custom or ""))
    version, method = attributes.get("tfs-model-version"), attributes.get("tfs-method")
    path = f"/versions/{version}" if version else ""
    return Context(
        model_name=model_name,
        model_version=version,
        method=method,
        rest_uri=f"{_NOWHERE}/v1/models/{model_name}{path}:{method or 'predict'}",
        grpc_port=None,
        channel=None,
        custom_attributes=custom,
        request_content_type=request.header("Content-Type") or "application/json",
        accept_header=accept,
        content_length=len(request.body),
    )
