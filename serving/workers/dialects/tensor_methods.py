"""A model that is called by named methods over tensors: what the SavedModel and the Keras dialect share; no dialect.

Knows how a request chooses its method (the parameter `signature_name`), how requests of one method become one run (rows
are joined where all its tensors have a free first dimension, and the answers dealt out again), and which status an
error of TensorFlow is. Rows are joined only where the model's configuration asks for it: a free first dimension need
not be a batch. Knows no TensorFlow: what runs comes in as a function from arrays to arrays.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.workers.handler import HandlerError, Launch, Reply, Request

Tensors = dict[str, Any]
Specs = list[dict[str, Any]]

DEFAULT = "serving_default"
"""The signature that TensorFlow Serving takes where a request names none."""

DTYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "FP32",  # numpy has none: it is cast on the way in and out, which loses nothing
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}
"""TensorFlow's names of the types that travel."""

_MESSAGE_MAX_CHARS = 500
_HEADINGS = ("Graph execution error", "Detected at node", "Node: ")
# Statuses of TensorFlow's own errors, by the name of their class; any other is the model's failure.
_STATUSES = {"InvalidArgumentError": 400, "OutOfRangeError": 400, "ResourceExhaustedError": 507}


@dataclass
class Method:
    """One way to call a model: `run` takes arrays by input name and returns arrays by output name."""

    run: Callable[[Tensors], Tensors]
    inputs: Specs
    outputs: Specs
    name: str = ""
    casts: dict[str, str] = field(default_factory=dict)  # inputs whose type numpy's arrays get before the run

    @property
    def joins(self) -> bool:
        """Whether rows of several requests can be one run, as far as shapes tell."""
        dims = [each["dims"] for each in (*self.inputs, *self.outputs)]
        return bool(self.inputs) and all(each is not None and each[:1] == [-1] for each in dims)

    def described(self) -> dict[str, Any]:
        """Return what the server is told of it."""
        return {"inputs": self.inputs, "outputs": self.outputs, "method": self.name}


class MethodsHandler:
    """A `Handler` around methods by name; `default` is the one that a request without a name calls."""

    takes_tensors = True

    def __init__(self, methods: Mapping[str, Method], default: str, launch: Launch) -> None:
        self._methods = methods
        self._default = default
        self.inputs = methods[default].inputs
        self.outputs = methods[default].outputs
        self.signatures = {name: each.described() for name, each in methods.items()}
        _check_config(methods[default], launch)
        is_asked = launch.batch_size > 1 and not launch.config  # config.pbtxt says itself what its batcher does
        if is_asked and not methods[default].joins:
            raise HandlerError(
                f"wharf.toml of '{launch.name}' has batch_size = {launch.batch_size} and not all tensors of its "
                f"signature '{default}' have a free first dimension, whose rows could be joined: take batch_size away."
            )
        self.batching = {"max_batch_size": launch.batch_size, "is_dynamic": True} if is_asked else None

    def call(self, requests: list[Request]) -> list[Reply]:
        """Answer requests: those of one method whose rows join in one run, else one after the other."""
        if len(requests) == 1:
            return [self._answer(requests[0])]
        names = {_name(request) for request in requests}
        if len(names) == 1 and self._method(next(iter(names))).joins and len(set(map(_kind, requests))) == 1:
            try:
                return self._joined(self._method(next(iter(names))), requests)
            except Exception:  # one bad request must not fail its neighbours
                traceback.print_exc()
        return [self._answered(request) for request in requests]

    def close(self) -> None:
        """Nothing to say farewell to: the process ends."""

    def _answered(self, request: Request) -> Reply:
        """Answer one of several: an error is its own."""
        try:
            return self._answer(request)
        except Exception as error:
            fault = as_handler_error(error)
            body = json.dumps({"error": str(fault)}).encode()
            return Reply(body, fault.status, {"Content-Type": "application/json"})

    def _answer(self, request: Request) -> Reply:
        method = self._method(_name(request))
        tensors = request.tensors or {}
        wanted = [each["name"] for each in method.inputs]
        if set(tensors) != set(wanted):
            raise HandlerError(f"The request has inputs {sorted(tensors)} and the signature wants {wanted}.", 400)
        return Reply(tensors=_run(method, tensors))

    def _joined(self, method: Method, requests: Sequence[Request]) -> list[Reply]:
        import numpy as np

        parts = [request.tensors or {} for request in requests]
        sizes = [len(next(iter(each.values()))) for each in parts]
        whole = _run(method, {name: np.concatenate([each[name] for each in parts]) for name in parts[0]})
        for name, array in whole.items():
            if array.shape[:1] != (sum(sizes),):
                raise HandlerError(f"Output '{name}' has shape {list(array.shape)} for {sum(sizes)} rows.")
        ends = np.cumsum(sizes)[:-1]
        split = {name: np.split(array, ends) for name, array in whole.items()}
        return [Reply(tensors={name: part[n] for name, part in split.items()}) for n in range(len(parts))]

    def _method(self, name: str) -> Method:
        found = self._methods.get(name or self._default)
        if found is None:
            raise HandlerError(f"The model has no signature '{name}', but {sorted(self._methods)}: name one.", 400)
        return found


def _name(request: Request) -> str:
    return str((request.about.get("parameters") or {}).get("signature_name") or "")


def _kind(request: Request) -> object:
    """Equal for requests whose rows join; a fresh object for one that cannot."""
    tensors = request.tensors or {}
    if not tensors or len({array.shape[:1] for array in tensors.values()}) != 1:
        return object()
    kinds = tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(tensors.items()))
    return object() if any(array.ndim == 0 for array in tensors.values()) else kinds


def _run(method: Method, tensors: Tensors) -> Tensors:
    for name, dtype in method.casts.items():
        tensors = {**tensors, name: tensors[name].astype(dtype)}
    try:
        outputs = method.run(tensors)
    except Exception as error:
        raise as_handler_error(error) from error
    return {
        name: array.astype("float32") if array.dtype.name == "bfloat16" else array for name, array in outputs.items()
    }


def as_handler_error(error: BaseException) -> HandlerError:
    """Return an error with TensorFlow's first line; 400 for a wrong input, 507 for memory, 424 for all else."""
    if isinstance(error, HandlerError):
        return error
    is_memory = isinstance(error, MemoryError)
    status = next((_STATUSES[each.__name__] for each in type(error).__mro__ if each.__name__ in _STATUSES), 424)
    return HandlerError(first_line(error), 507 if is_memory else status)


def first_line(error: BaseException) -> str:
    """Return what an error of TensorFlow says, without its headings and the graph nodes that follow, indented."""
    said = str(getattr(error, "message", "") or error).strip()
    lines = [line for line in said.splitlines() if line and not line[0].isspace() and not line.startswith(_HEADINGS)]
    return f"{type(error).__name__}: {(lines or [said])[0]}"[:_MESSAGE_MAX_CHARS]


def choose_default(methods: Mapping[str, Method], wanted: str, refused: Mapping[str, str], launch: Launch) -> str:
    """Return the method that the option `signature` names, else the usual one, else the only one.

    Raises `HandlerError` that lists what there is; `refused` says why others cannot be served.
    """
    if wanted in methods:
        return wanted
    if not wanted and (DEFAULT in methods or len(methods) == 1):
        return DEFAULT if DEFAULT in methods else next(iter(methods))
    if reason := refused.get(wanted or DEFAULT):
        raise HandlerError(f"Signature '{wanted or DEFAULT}' of model '{launch.name}' cannot be served: {reason}.")
    if not methods:
        why = "".join(f" ('{name}': {reason})" for name, reason in refused.items())
        raise HandlerError(
            f"Model '{launch.name}' has no signature to call{why}: save it with one, in TensorFlow 2 "
            "tf.saved_model.save(model, folder, signatures=...), in Keras model.export(folder)."
        )
    raise HandlerError(
        f"Model '{launch.name}' has the signatures {sorted(methods)} and "
        + (f"'{wanted}' is wanted: choose among those." if wanted else f"no {DEFAULT}: name one (option signature).")
    )


def _check_config(method: Method, launch: Launch) -> None:
    """Refuse a config.pbtxt that names tensors which the model has not."""
    for key, known in (("input", method.inputs), ("output", method.outputs)):
        names = [each["name"] for each in known]
        for each in launch.config.get(key, ()):
            if each["name"] not in names:
                raise HandlerError(
                    f"config.pbtxt of '{launch.name}' has the {key} '{each['name']}' and the model's are {names}: "
                    "correct it."
                )
