"""The SageMaker inference toolkit's `inference.py`: model_fn, input_fn, predict_fn, output_fn or transform_fn.

A script gives any of them, and optionally pre_model_fn and model_warmup_fn; each may take one argument more, the
context. What it leaves out has the toolkits' defaults. A script of TensorFlow Serving's container, which has `handler`
or a pair of them instead, goes to `tensorflow`. This room knows the contract alone: the script's import and arities are
`sagemaker_script`'s, the context and the reply `sagemaker_context`'s, the defaults `sagemaker_defaults`'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from serving.workers.dialects import sagemaker_defaults as defaults
from serving.workers.dialects import tensorflow
from serving.workers.dialects.sagemaker_context import Context, reply, wanted
from serving.workers.dialects.sagemaker_script import defined, fitted, import_script
from serving.workers.handler import Handler, HandlerError, Launch, Reply, Request

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "pre_model_fn": ("model_dir",),
    "model_fn": ("model_dir",),
    "model_warmup_fn": ("model_dir", "model"),
    "input_fn": ("body", "content_type"),
    "predict_fn": ("data", "model"),
    "output_fn": ("prediction", "accept"),
    "transform_fn": ("model", "body", "content_type", "accept"),
}
"""The toolkit's functions in the order of their arguments, which are given by position; context comes last."""

_TOOLKIT_ERRORS = {"BaseInferenceToolkitError": 500, "UnsupportedFormatError": 415}
"""Errors by their class's name, and the status of one that tells none."""

Functions = Mapping[str, Callable[..., Any]]


def load(launch: Launch) -> Handler:
    """Import the script and load its model.

    Without a script (`launch.file` empty) all functions are the defaults. Raises `ValueError` for a script that breaks
    the contract; what its own functions raise passes through.
    """
    module = import_script(launch.file) if launch.file else ModuleType("inference")
    found = {name: function for name in ARGUMENTS if (function := defined(module, name)) is not None}
    if not found and tensorflow.is_handled(module):
        return tensorflow.from_module(module, launch)
    parts = [name for name in ("input_fn", "predict_fn", "output_fn") if name in found]
    if "transform_fn" in found and parts:
        raise ValueError(f"'{launch.file}' has transform_fn and {', '.join(parts)}, which it stands for: keep either.")
    context = Context(launch)
    functions = {name: fitted(each, name, ARGUMENTS[name], context) for name, each in found.items()}
    return SageMakerHandler(functions, _model(functions, launch), context, launch)


def _model(functions: Functions, launch: Launch) -> Any:
    if "pre_model_fn" in functions:
        functions["pre_model_fn"](launch.folder)
    if "model_fn" in functions:
        model = functions["model_fn"](launch.folder)
    else:
        model = defaults.model_fn(launch.folder, launch.device)
    if "model_warmup_fn" in functions:
        functions["model_warmup_fn"](launch.folder, model)
    return model


class SageMakerHandler:
    """A model behind the toolkit's functions, those of the script and the defaults for the rest."""

    takes_tensors = False
    inputs: list[dict[str, Any]] | None = None
    outputs: list[dict[str, Any]] | None = None

    def __init__(self, functions: Functions, model: Any, context: Context, launch: Launch) -> None:
        self._functions = functions
        self._model = model
        self._context = context
        self._device = launch.device
        self._default_accept = launch.default_accept
        self._predict: Callable[[Any], Any] | None = None
        if not functions.keys() & {"transform_fn", "predict_fn"}:
            self._predict = defaults.predictor(model, launch.device)

    def call(self, requests: list[Request]) -> list[Reply]:
        """Answer the requests one by one: the toolkit's functions take one body."""
        return [self._answer(request) for request in requests]

    def close(self) -> None:
        """Do nothing: the contract has no farewell."""

    def _answer(self, request: Request) -> Reply:
        exchange = self._context.begin(request)
        accept = wanted(request, self._default_accept)
        content_type = request.header("Content-Type") or None
        try:
            return reply(self._transform(_body(request, content_type), content_type, accept), accept, exchange)
        except Exception as error:
            status = _toolkit_status(error)
            if status is None:
                raise
            raise HandlerError(str(getattr(error, "message", error)), status) from error

    def _transform(self, body: defaults.Payload, content_type: str | None, accept: str) -> Any:
        if "transform_fn" in self._functions:
            return self._functions["transform_fn"](self._model, body, content_type, accept)
        data = self._input(body, content_type)
        if self._predict is not None:
            prediction = self._predict(data)
        else:
            prediction = self._functions["predict_fn"](data, self._model)
        if "output_fn" in self._functions:
            return self._functions["output_fn"](prediction, accept)
        return defaults.encode(prediction, accept, self._default_accept)

    def _input(self, body: defaults.Payload, content_type: str | None) -> Any:
        if "input_fn" in self._functions:
            return self._functions["input_fn"](body, content_type)
        data = defaults.decode(body, content_type)
        return defaults.as_tensor(data, content_type, self._device) if defaults.is_torch(self._model) else data


def _body(request: Request, content_type: str | None) -> defaults.Payload:
    is_text = content_type is not None and defaults.media_type(content_type) in defaults.UTF8_TYPES
    return defaults.text(request.body, content_type) if is_text else bytes(request.body)


def _toolkit_status(error: Exception) -> int | None:
    """Return the status of an error of the toolkits' own trees, which people's environments may bring."""
    for each in type(error).__mro__:
        if each.__name__ in _TOOLKIT_ERRORS:
            return int(getattr(error, "status_code", _TOOLKIT_ERRORS[each.__name__]))
    return None
