"""The gRPC methods that read or set something of the server: traces, the log, shared memory.

Each is a function of the engine and the request's message and returns the answer's. Which choice of a message a value
takes is checked here, in Triton's words; what a value may be is the engine's. The twin of `http/v2_settings`; `service`
calls it.
"""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import service_pb2 as pb

from serving.errors import BadRequestError
from serving.inference import Inference
from serving.protocol_settings import LOG_SWITCHES, TRACE_NAMES

# The choice that a log setting is, and how Triton calls it.
_CHOICES = {
    **dict.fromkeys(LOG_SWITCHES, ("bool_param", "boolean")),
    "log_verbose_level": ("uint32_param", "int32"),
    "log_format": ("string_param", "string"),
}
_CHOICE_OF = {bool: "bool_param", int: "uint32_param", str: "string_param"}


def trace(engine: Inference, request: Any) -> Any:
    """Change a model's or all trace settings where the request has some; return those in force."""
    changes: dict[str, Any] = {}
    for name, setting in request.settings.items():
        values = list(setting.value)
        if name == "trace_level":
            changes[name] = values or None
        elif len(values) > 1 and name in TRACE_NAMES:
            raise BadRequestError(f"expect only 1 value for '{name}'")
        else:
            changes[name] = values[0] if values else None
    found = engine.traces.update(changes, request.model_name) if changes else engine.traces.get(request.model_name)
    response = pb.TraceSettingResponse()
    for name, value in found.items():
        response.settings[name].value.extend(value if isinstance(value, list) else [value])
    return response


def log(engine: Inference, request: Any) -> Any:
    """Change log settings where the request has some; return all."""
    changes: dict[str, Any] = {}
    for name, setting in request.settings.items():
        choice = setting.WhichOneof("parameter_choice")
        wanted, words = _CHOICES.get(name, (choice, ""))
        if choice != wanted:
            raise BadRequestError(f"expect {words} for '{name}'")
        changes[name] = getattr(setting, choice) if choice else None
    found = engine.logging.update(changes) if changes else engine.logging.get()
    response = pb.LogSettingsResponse()
    for name, value in found.items():
        setattr(response.settings[name], _CHOICE_OF[type(value)], value)
    return response


def memory_status(engine: Inference, request: Any) -> Any:
    """Describe a region, all without a name."""
    response = pb.SystemSharedMemoryStatusResponse()
    for each in engine.regions.status(request.name):
        response.regions[each["name"]].MergeFrom(pb.SystemSharedMemoryStatusResponse.RegionStatus(**each))
    return response


def register_memory(engine: Inference, request: Any) -> Any:
    """Register a region."""
    engine.regions.register(request.name, request.key, request.offset, request.byte_size)
    return pb.SystemSharedMemoryRegisterResponse()


def unregister_memory(engine: Inference, request: Any) -> Any:
    """Let go of a region, of all without a name."""
    engine.regions.unregister(request.name)
    return pb.SystemSharedMemoryUnregisterResponse()
