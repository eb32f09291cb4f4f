"""`grpc.health.v1.Health/Check`, for probes that speak gRPC alone.

Two messages of one field each, so they are written by hand: no other package is wanted for them. `Watch` is not there
and answers UNIMPLEMENTED. Source: grpc/health/v1/health.proto. `listener` adds it to the server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

# Field 1, an enum: SERVING is 1, NOT_SERVING 2.
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"
# An empty request asks for the server; else field 1, a text, names a service.
_KNOWN = {b""} | {
    b"\x0a" + bytes([len(name)]) + name for name in (b"inference.GRPCInferenceService", b"grpc.health.v1.Health")
}


def health_handler(is_ready: Callable[[], bool]) -> Any:
    """Return the handler of the health service; `is_ready` is asked each time."""

    def check(request: bytes, context: Any) -> bytes:
        if request not in _KNOWN:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service: inference.GRPCInferenceService is here.")
        return _SERVING if is_ready() else _NOT_SERVING

    return grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
    )
