"""Models of Triton's Python backend: `TritonPythonModel` in a version's model.py.

`load` imports the file, lets `auto_complete_config` complete the configuration and calls `initialize`. Triton runs the
former in an interpreter of its own and throws that away; here it is this very worker, so that what it imports stays.
`execute` gets the requests of a batch and returns as many responses; a response with an error fails its own request
only. A decoupled model returns None and sends instead, from whatever thread. What becomes of responses is the business
of `triton_answers`.

It knows neither the channel nor HTTP; `main` calls it in the worker. The classes that the model sees are those of
`compat/triton_python_backend_utils`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import sys
import threading
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from serving.workers.dialects.triton_answers import Answers
from serving.workers.dialects.triton_faults import NoAnswerError, is_memory
from serving.workers.handler import HandlerError, Launch, Reply, Request

_COMPAT = str(Path(__file__).absolute().parent.parent / "compat")
_NUMBERS = (f"{kind}{bits}" for kind in ("INT", "UINT", "FP") for bits in (8, 16, 32, 64))
_DTYPES = ("BOOL", "STRING", *(each for each in _NUMBERS if each != "FP8"))
# Responses of a stream that wait for a slow client: enough to hide a pause, too few to be memory.
_UNREAD_MAX = 64

_dumps = json.dumps


def load(launch: Launch) -> TritonPythonHandler:
    """Import the model, complete its configuration (also in `launch.config`) and initialize it.

    Raises `HandlerError` for a file without a model, or what contradicts its configuration; else what the model raises.
    """
    utils = _backend_utils()
    file = Path(launch.folder, launch.file or "model.py")
    folder = file.parent
    version = folder.name if folder.name.isdecimal() else "1"
    utils._models.set_model_dir(str(folder))
    sys.path.extend(each for each in (str(folder), launch.folder) if each not in sys.path)  # last, as Triton has them
    _import_package(version, folder)
    kind: Any = getattr(importlib.import_module(version + "." + file.stem), "TritonPythonModel", None)
    if not callable(getattr(kind, "execute", None)):
        raise HandlerError(f"{file} wants a class TritonPythonModel with a method execute(self, requests): add it.")
    launch.config = _completed(utils, kind, launch)
    model = kind()
    if hasattr(model, "initialize"):
        model.initialize(_arguments(launch, version))
    return TritonPythonHandler(utils, model, launch, int(version))


def _backend_utils() -> ModuleType:
    sys.path.insert(0, _COMPAT)
    try:
        return importlib.import_module("triton_python_backend_utils")
    except ImportError as error:
        raise HandlerError(
            f"Models of Triton's Python backend need numpy ({error}): add it to the environment that the model runs in."
        ) from error
    finally:
        sys.path.remove(_COMPAT)


def _import_package(name: str, folder: Path) -> None:
    """Make `folder` the package `name`, as Triton does: models import their neighbours by `from .tools import ...`."""
    init = folder / "__init__.py"
    if init.is_file():
        spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(folder)])
    else:
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
    if spec is None:
        raise HandlerError(f"{init} cannot be imported: correct or remove it.")
    sys.modules[name] = package = importlib.util.module_from_spec(spec)
    if spec.loader is not None:
        spec.loader.exec_module(package)


def _completed(utils: ModuleType, kind: Any, launch: Launch) -> dict[str, Any]:
    config = {
        "name": launch.name,
        "backend": "python",
        "max_batch_size": 0,
        "input": [],
        "output": [],
        "parameters": {},
    }
    config.update(launch.config)
    config["name"] = config["name"] or launch.name
    if not hasattr(kind, "auto_complete_config"):
        return config
    found = kind.auto_complete_config(utils.ModelConfig(_dumps(config)))
    if not isinstance(found, utils.ModelConfig):
        raise HandlerError(
            f"auto_complete_config of '{launch.name}' returned {type(found).__name__} and wants the configuration that "
            "it was given: end it with `return auto_complete_model_config`."
        )
    completed: dict[str, Any] = found.as_dict()
    return completed


def _arguments(launch: Launch, version: str) -> dict[str, str]:
    device, _, number = launch.device.partition(":")
    groups = launch.config.get("instance_group") or [{}]
    by_model = groups[0].get("kind") == "KIND_MODEL"
    return {
        "model_config": _dumps(launch.config),
        "model_instance_kind": "MODEL" if by_model else "CPU" if device == "cpu" else "GPU",
        "model_instance_device_id": number or "0",
        "model_instance_name": _instance_name(launch),
        "model_repository": launch.folder,
        "model_version": version,
        "model_name": launch.name,
    }


def _instance_name(launch: Launch) -> str:
    """Return what Triton calls an instance: its group's name, or the model's where there is none, and its number."""
    number = launch.instance
    for index, group in enumerate(launch.config.get("instance_group") or []):
        count = int(group.get("count") or 1)
        if number < count:
            return f"{group.get('name') or f'{launch.name}_{index}'}_{number}"
        number -= count
    return f"{launch.name}_{launch.instance}"


def _specs(config: dict[str, Any], kind: str) -> list[dict[str, Any]] | None:
    tensors = config.get(kind)
    batch = [-1] if config.get("max_batch_size", 0) > 0 else []
    return [_spec(each, kind, batch) for each in tensors] if tensors else None


def _spec(tensor: dict[str, Any], kind: str, batch: list[int]) -> dict[str, Any]:
    found = str(tensor["data_type"])
    dtype = found[5:]
    if found[:5] != "TYPE_" or dtype not in _DTYPES:
        raise HandlerError(
            f"The {kind} '{tensor['name']}' has the data_type {found!r:.60}: served are TYPE_{', TYPE_'.join(_DTYPES)}."
        )
    dims = [*batch, *(int(dim) for dim in tensor["dims"])]
    return {"name": tensor["name"], "dtype": "BYTES" if dtype == "STRING" else dtype, "dims": dims}


class TritonPythonHandler:
    """A loaded `TritonPythonModel`."""

    takes_tensors = True

    def __init__(self, utils: ModuleType, model: Any, launch: Launch, version: int) -> None:
        self._utils, self._model, self._name, self._version = utils, model, launch.name, version
        self.inputs = _specs(launch.config, "input")
        self.outputs = _specs(launch.config, "output")
        self.batching = {
            "max_batch_size": launch.config.get("max_batch_size", 0),
            "is_dynamic": launch.config.get("dynamic_batching") is not None,
        }
        self._output_names = [spec["name"] for spec in self.outputs or ()]
        self._instance = _instance_name(launch)
        self._answers = Answers(utils, launch.name, version, self._instance, self._output_names)
        self._is_decoupled = utils.using_decoupled_model_transaction_policy(launch.config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._busy: threading.Thread | None = None

    def call(self, requests: list[Request]) -> list[Reply]:
        """Execute a batch; a request of it that fails gets a reply of its own status, `{"error": ...}`.

        What `execute` raises, or an answer that is none, fails all of them; raises it where it is for lack of memory.
        """
        # Of a batch the answers are read one after the other: a model that waits for the second would be waited for.
        limit = _UNREAD_MAX if self._is_decoupled and len(requests) == 1 else 0
        mailboxes = [self._utils._sender.Mailbox(limit) for _ in requests]
        if not self._is_decoupled:
            try:
                answers = self._checked(self._execute(self._incoming(requests, mailboxes)), mailboxes)
            except Exception as error:
                if is_memory(error):
                    raise
                traceback.print_exc()
                return [self._answers.reply(error) for _ in requests]
            return [
                self._answers.collect(request, mailbox, is_alone=False)
                if answer is None
                else self._answers.reply(answer)
                for request, answer, mailbox in zip(requests, answers, mailboxes)  # noqa: B905  Python 3.9
            ]
        if self._busy is not None:
            self._busy.join()  # the last call's answers were complete, its `execute` may not have returned
        self._busy = threading.Thread(target=self._execute_decoupled, args=(requests, mailboxes), daemon=True)
        self._busy.start()
        is_alone = len(requests) == 1
        return [self._answers.collect(*each, is_alone=is_alone) for each in zip(requests, mailboxes)]  # noqa: B905

    def close(self) -> None:
        """Run the model's `finalize`; what it raises goes to the log, as with Triton."""
        try:
            if hasattr(self._model, "finalize"):
                self._model.finalize()
        except Exception:
            traceback.print_exc()
        finally:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)

    def _incoming(self, requests: list[Request], mailboxes: list[Any]) -> list[Any]:
        """Make requests for the model, which alone may hold them: their senders tell when it has let go of them."""
        incoming = []
        for request, mailbox in zip(requests, mailboxes):  # noqa: B905
            made = self._utils.InferenceRequest(
                inputs=[self._utils.Tensor(name, array) for name, array in (request.tensors or {}).items()],
                request_id=request.about.get("id", ""),
                correlation_id=request.about.get("sequence_id", 0),
                requested_output_names=request.about.get("outputs") or self._output_names,
                model_name=self._name,
                model_version=self._version,
                flags=request.about.get("flags", 0),
                timeout=request.about.get("timeout_us", 0),
                parameters=request.about.get("parameters"),
            )
            made.connect(mailbox)
            incoming.append(made)
        return incoming

    def _execute(self, incoming: list[Any]) -> Any:
        answers = self._model.execute(incoming)
        if isinstance(answers, list) or not inspect.isawaitable(answers):
            return answers
        return self._awaited(answers)

    def _awaited(self, answers: Any) -> Any:
        """Wait for a coroutine in one loop that lives as long as the model: its locks and sessions belong to a loop."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._run_loop, args=(self._loop,), daemon=True).start()

        async def wait() -> Any:
            return await answers

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result()

    @staticmethod
    def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            loop.close()

    def _checked(self, answers: Any, mailboxes: list[Any]) -> list[Any]:
        if answers is None:
            answers = [None] * len(mailboxes)
        if not isinstance(answers, (list, tuple)):
            raise NoAnswerError(f"Expected a list in the execute return, found type '{type(answers)}'.")
        if len(answers) != len(mailboxes):
            raise NoAnswerError(
                "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
                f"InferenceRequest(s) size is:{len(mailboxes)}, and InferenceResponse(s) size is:{len(answers)}\n"
            )
        for answer, mailbox in zip(answers, mailboxes):  # noqa: B905
            if not isinstance(answer, self._utils.InferenceResponse) and not (answer is None and mailbox.is_taken):
                raise NoAnswerError(
                    "Expected an 'InferenceResponse' object in the execute function return list, found type "
                    f"'{type(answer)}'."
                )
        return list(answers)

    def _execute_decoupled(self, requests: list[Request], mailboxes: list[Any]) -> None:
        incoming = self._incoming(requests, mailboxes)  # held until it is known how `execute` ended
        try:
            found = self._execute(incoming)
            if found is not None:
                raise NoAnswerError(
                    f"Python model '{self._instance}' is using the decoupled mode and the execute function must return "
                    "None."
                )
        except BaseException as error:  # whatever it is, nobody may wait for ever; `collect` raises what it must
            traceback.print_exc()
            for mailbox in mailboxes:
                mailbox.post(error, True)
