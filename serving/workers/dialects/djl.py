"""Runs a DJL `model.py`: imports it, warms it up, and calls its `handle(inputs)` for requests and batches.

It knows which function is the handler and when a batch falls back to single calls. `djl_input` and `djl_output` know
what goes in and comes out; `workers/compat/djl_python` is what people import. The worker calls `load`. Which file is
the entry point was decided by `repository`, and is `Launch.file`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from serving.workers.dialects import djl_async, djl_input, djl_output
from serving.workers.handler import Handler, HandlerError, Launch, Reply, Request

if TYPE_CHECKING:
    from serving.workers.compat.djl_python.inputs import Input
    from serving.workers.compat.djl_python.outputs import Output

_COMPAT = str(Path(__file__).resolve().parents[1] / "compat")

_BUILT_IN = "djl_python.huggingface"
_SAGEMAKER_FUNCTIONS = ("model_fn", "input_fn", "predict_fn", "output_fn", "transform_fn")


def _log(line: str) -> None:
    sys.stderr.write(line)  # the worker's log


def load(launch: Launch) -> Handler:
    """Import the handler's module and make the warm-up call.

    Raises `HandlerError` where there is no handler function, or with the status of a failed warm-up (507: memory);
    what the import itself raises passes.
    """
    _import_ours()
    module = _module(launch)
    name = launch.options.get("handler", "handle")
    function = getattr(module, name, None)
    if function is None and any(hasattr(module, each) for each in _SAGEMAKER_FUNCTIONS):
        return _sagemaker(launch, module)
    handler = _DjlHandler(launch, function or _substitute(launch, module, name))
    handler.warm_up()
    return handler


def _import_ours() -> None:
    """Import our `djl_python` before any that a model brings along in its lib/."""
    sys.path.insert(0, _COMPAT)
    importlib.import_module("djl_python")
    sys.path.remove(_COMPAT)


def _module(launch: Launch) -> ModuleType:
    entry = launch.options.get("entryPoint", "")
    is_file = entry.endswith(".py")
    if entry and "/" not in entry and not is_file:
        return _named(entry)
    default = entry if is_file else "model.py"
    file = Path(launch.folder, launch.file or default)  # an absolute file stays as it is
    if not file.is_file():
        raise HandlerError(f"Model '{launch.name}' has no {file}: add it, or set option.entryPoint to your handler.")
    return _imported(file)


def _named(entry: str) -> ModuleType:
    try:
        return importlib.import_module(entry)
    except ModuleNotFoundError as error:
        if error.name != entry:
            raise
        raise HandlerError(
            f"option.entryPoint is the module '{entry}', which is not here: of the built-in ones {_BUILT_IN} "
            "and djl_python.deepspeed are; name one of them, or a file of the model."
        ) from error


def _imported(file: Path) -> ModuleType:
    """Import a file under its own name, as pickles of its classes expect, unless that name is taken."""
    stem = file.parent.name if file.stem == "__init__" else file.stem
    # Python 3.9 does not know the names of its own library.
    is_taken = stem in sys.modules or stem in getattr(sys, "stdlib_module_names", ())
    name = "djl_handler_" + stem if is_taken else stem
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise HandlerError(f"The handler {file} is no Python file: option.entryPoint wants one.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _sagemaker(launch: Launch, module: ModuleType) -> Handler:
    """Hand a file in the style of SageMaker's inference.py to that dialect, which imports it anew."""
    sys.modules.pop(module.__name__, None)
    script = replace(launch, file=str(module.__file__))
    handler: Handler = importlib.import_module("serving.workers.dialects.sagemaker").load(script)
    return handler


def _substitute(launch: Launch, module: ModuleType, name: str) -> Callable[[Any], Any]:
    """Return what handles where the module has no function of that name: its decorated functions, or a built-in."""
    service = importlib.import_module("djl_python.decorated").DecoratedService(module)
    if service.is_complete:
        handle: Callable[[Any], Any] = service.handle
        return handle
    is_hub_model = "model_id" in launch.options or Path(launch.folder, "config.json").exists()
    if is_hub_model and not service.functions:
        built_in: Callable[[Any], Any] = importlib.import_module(_BUILT_IN).handle
        return built_in
    found = sorted(each for each, value in vars(module).items() if callable(value) and each[0] != "_")[:20]
    raise HandlerError(
        f"Model '{launch.name}': {module.__name__} has no function '{name}' (found: {', '.join(found) or 'none'}): "
        "add handle(inputs), name yours with option.handler, or decorate an @init_handler and a @prediction_handler."
    )


class _DjlHandler:
    takes_tensors = False
    inputs: list[dict[str, Any]] | None = None
    outputs: list[dict[str, Any]] | None = None

    def __init__(self, launch: Launch, function: Callable[[Any], Any]) -> None:
        self._launch = launch
        self._function = function
        self._common = djl_input.common_properties(launch)
        self._takes_batches = True
        self._loop = djl_async.Loop()

    def warm_up(self) -> None:
        output = self._run(djl_input.warm_up_input(self._launch))
        if output.code < 300:
            output.execute_finalize()
            return
        told = djl_output.reply(output)
        raise HandlerError(
            f"Model '{self._launch.name}' refused to warm up with {output.code} {output.message}: "
            f"{bytes(told.body).decode('utf-8', 'replace')}",
            output.code,
        )

    def call(self, requests: list[Request]) -> list[Reply]:
        """Answer each request; several in one call to the handler, where it knows batches."""
        if len(requests) == 1:
            return [self._single(requests[0])]
        return (self._batched(requests) if self._takes_batches else None) or [self._lenient(each) for each in requests]

    def close(self) -> None:
        """Close the loop of asynchronous handlers: a DJL handler has no farewell of its own."""
        self._loop.close()

    def _single(self, request: Request) -> Reply:
        output = self._run(djl_input.request_input(request, self._common))
        return djl_output.reply(output, is_rank=self._launch.ranks > 0)

    def _lenient(self, request: Request) -> Reply:
        """Answer one of several: what is wrong with it is no other's error, and a stream goes out whole."""
        try:
            return self._single(request).whole()
        except HandlerError as error:
            return djl_output.reply(djl_output.new_output(error.status, str(error)))

    def _batched(self, requests: list[Request]) -> list[Reply] | None:
        """Call the handler once for all; None where it did not answer each of them.

        Such a handler gets no batch again: it would do everything twice. One that asks for them one by one has done
        nothing yet.
        """
        try:
            items = [djl_input.request_input(each, self._common) for each in requests]
        except HandlerError:
            return None
        batch = djl_input.batch_input(items, self._common)
        try:
            output = self._run(batch)
        except djl_output.OneByOne:
            return None
        replies = djl_output.batch_replies(output, len(requests), batch.is_batch_aware)
        if replies is None:
            output.execute_finalize()  # nobody gets this answer
            self._takes_batches = False
            _log(
                f"The handler of '{self._launch.name}' did not answer each of {len(requests)} batched requests: it is "
                "called for one at a time from now on. Set batch_size=1, or answer every one of get_batches().\n"
            )
        return replies

    def _run(self, inputs: Input) -> Output:
        try:
            return djl_output.checked_output(self._loop.settle(self._function(inputs)))
        except djl_output.OneByOne:
            raise
        except Exception as error:
            return djl_output.error_output(error)
