"""The V2 routes that read or set something of the server: traces, the log, shared memory.

Each is a function of the engine and the request's body, found by method and path; `v2` calls it and writes what it
returns. Types of JSON values are checked here, in Triton's words; what a value may be is the engine's. CUDA shared
memory is refused. Texts and shapes are Triton's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from serving.codecs.v2 import ParseError
from serving.errors import BadRequestError, MethodNotAllowedError, UnsupportedError
from serving.inference import Inference
from serving.protocol_settings import LOG_SWITCHES, TRACE_NAMES

_Route = Callable[[Inference, bytes], object]
_SYSTEM, _CUDA = "systemsharedmemory", "cudasharedmemory"


def find_setting(method: str, parts: list[str]) -> _Route | None:
    """Return what a path below `/v2` does, None where it is none of these routes; raises `MethodNotAllowedError`."""
    if parts == ["trace", "setting"]:
        return _trace(method, "")
    if parts[:1] == ["models"] and parts[-2:] == ["trace", "setting"]:
        name = _text("/".join(parts[1:-2]))
        is_version = parts[-4:-3] == ["versions"]  # settings are a model's, not a version's
        return _trace(method, name) if name and not is_version else None
    if parts == ["logging"]:
        _allow(method, "GET, POST")
        return _get_logging if method == "GET" else _set_logging
    if parts[:1] in ([_SYSTEM], [_CUDA]):
        return _memory(method, parts)
    return None


def _allow(method: str, allowed: str) -> None:
    if method not in allowed.split(", "):
        raise MethodNotAllowedError("Method Not Allowed", allowed)


def _text(part: str) -> str:
    """Return a name of the path, which WSGI hands over percent-decoded, its bytes as latin-1."""
    return part.encode("latin-1").decode("utf-8", "replace")


# ---- traces and the log ----------------------------------------------------------------------------------------------


def _trace(method: str, model: str) -> _Route:
    _allow(method, "GET, POST")
    if method == "GET":
        return lambda engine, _: engine.traces.get(model)

    def change(engine: Inference, body: bytes) -> object:
        said = _read(body)
        for name in (name for name in TRACE_NAMES if said.get(name) is not None):
            texts = said[name] if name == "trace_level" else [said[name]]
            for text in _typed(texts, list, "array"):
                _typed(text, str, "string")
        return engine.traces.update(said, model)

    return change


def _get_logging(engine: Inference, _: bytes) -> object:
    return engine.logging.get()


def _set_logging(engine: Inference, body: bytes) -> object:
    said = {name: value for name, value in _read(body).items() if value is not None or name == "log_file"}
    for name in (name for name in LOG_SWITCHES if name in said):
        _typed(said[name], bool, "boolean")
    _count(said.get("log_verbose_level", 0))
    _typed(said.get("log_format", ""), str, "string")
    return engine.logging.update(said)


# ---- shared memory ---------------------------------------------------------------------------------------------------


def _memory(method: str, parts: list[str]) -> _Route | None:
    """`[region/NAME/]status`, `[region/NAME/]register`, `[region/NAME/]unregister`."""
    method_of = {"status": "GET", "register": "POST", "unregister": "POST"}
    place, what = parts[1:-1], parts[-1]
    if what not in method_of or not (place == [] or (len(place) == 2 and place[0] == "region" and place[1])):
        return None
    _allow(method, method_of[what])
    if parts[0] == _CUDA:
        return _no_cuda
    return {"status": _status, "register": _register, "unregister": _unregister}[what](_text("".join(place[1:])))


def _status(name: str) -> _Route:
    return lambda engine, _: engine.regions.status(name)


def _unregister(name: str) -> _Route:
    return lambda engine, _: engine.regions.unregister(name)


def _register(name: str) -> _Route:
    def register(engine: Inference, body: bytes) -> object:
        said = _read(body)
        for field in ("key", "byte_size"):
            if field not in said:
                raise BadRequestError(f"Shared memory register request has no '{field}' field")
        key = _typed(said["key"], str, "string")
        engine.regions.register(name, key, _count(said.get("offset", 0)), _count(said["byte_size"]))
        return None

    return register


def _no_cuda(_: Inference, __: bytes) -> object:
    raise UnsupportedError("CUDA shared memory is not served here: register system shared memory, or send the data.")


# ---- JSON ------------------------------------------------------------------------------------------------------------


def _read(body: bytes) -> dict[str, Any]:
    """Return the object that a body is; what is none has no members, as Triton has it."""
    if not body.strip():
        raise ParseError("failed to parse the request JSON buffer: The document is empty. at 0")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        raise ParseError(f"failed to parse the request JSON buffer: {fault.msg} at {fault.pos}") from None
    return found if isinstance(found, dict) else {}


def _typed(value: Any, wanted: type, name: str) -> Any:
    if type(value) is not wanted:
        raise ParseError(f"attempt to access JSON non-{name} as {name}")
    return value


def _count(value: Any) -> int:
    found: int = _typed(value, int, "unsigned-integer")
    if found < 0:
        raise ParseError("attempt to access JSON non-unsigned-integer as unsigned-integer")
    return found
