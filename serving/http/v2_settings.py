"""The V2 routes that read or set something of the server: traces, the log, shared memory.

Each is a function of the engine and the request's JSON object, found by method and path; `v2` calls it and writes what
it returns. CUDA shared memory is refused in words. Texts and shapes are Triton's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving.errors import BadRequestError, MethodNotAllowedError, UnsupportedError
from serving.inference import Inference

_Route = Callable[[Inference, dict[str, Any]], object]
_SYSTEM, _CUDA = "systemsharedmemory", "cudasharedmemory"


def find_setting(method: str, parts: list[str]) -> _Route | None:
    """Return what a path below `/v2` does, None where it is none of these routes; raises `MethodNotAllowedError`."""
    if parts[-2:] == ["trace", "setting"]:
        _allow(method, "GET, POST")
        model = "/".join(parts[1:-2]) if parts[0] == "models" else ""
        return _get_trace(model) if method == "GET" else _set_trace(model)
    if parts == ["logging"]:
        _allow(method, "GET, POST")
        return _get_logging if method == "GET" else _set_logging
    if parts[:1] in ([_SYSTEM], [_CUDA]):
        return _memory(method, parts)
    return None


def _allow(method: str, allowed: str) -> None:
    if method not in allowed.split(", "):
        raise MethodNotAllowedError("Method Not Allowed", allowed)


def _memory(method: str, parts: list[str]) -> _Route | None:
    """`[region/NAME/]status`, `region/NAME/register`, `[region/NAME/]unregister`."""
    method_of = {"status": "GET", "register": "POST", "unregister": "POST"}
    if parts[-1] not in method_of or (len(parts) != 2 and parts[1] != "region"):
        return None
    _allow(method, method_of[parts[-1]])
    if parts[0] == _CUDA:
        return _no_cuda
    name = "/".join(parts[2:-1])
    return {"status": _status, "register": _register, "unregister": _unregister}[parts[-1]](name)


def _get_trace(model: str) -> _Route:
    return lambda engine, _: engine.traces.get(model)


def _set_trace(model: str) -> _Route:
    return lambda engine, said: engine.traces.update(said, model)


def _get_logging(engine: Inference, _: dict[str, Any]) -> object:
    return engine.logging.get()


def _set_logging(engine: Inference, said: dict[str, Any]) -> object:
    return engine.logging.update(said)


def _status(name: str) -> _Route:
    return lambda engine, _: engine.regions.status(name)


def _unregister(name: str) -> _Route:
    def unregister(engine: Inference, _: dict[str, Any]) -> object:
        engine.regions.unregister(name)
        return None

    return unregister


def _register(name: str) -> _Route:
    def register(engine: Inference, said: dict[str, Any]) -> object:
        key, offset, size = said.get("key"), said.get("offset", 0), said.get("byte_size")
        if not isinstance(key, str) or type(offset) is not int or type(size) is not int or offset < 0 or size < 0:
            raise BadRequestError(
                f"shared memory region '{name}' wants a 'key' (a text), an 'offset' and a 'byte_size'."
            )
        engine.regions.register(name, key, offset, size)
        return None

    return register


def _no_cuda(_: Inference, __: dict[str, Any]) -> object:
    raise UnsupportedError("CUDA shared memory is not served here: register system shared memory, or send the data.")
