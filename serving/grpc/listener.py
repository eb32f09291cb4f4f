"""The gRPC server: its port, its threads, its end.

Built by `server` in the server process, after the fork: gRPC's own threads would not survive one. Knows no method;
`service` has those, `health` the probe's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass
from tritonclient.grpc import service_pb2 as pb

from serving.errors import BadRequestError
from serving.grpc.calls import CALLS_MAX, MANAGEMENT_MAX, STREAMS_MAX
from serving.grpc.health import health_handler
from serving.grpc.infer_request import InferRequest
from serving.grpc.service import Service

log = logging.getLogger("wharf.grpc")

# All calls and streams that may be under way, and some that none of them takes: they answer health and refusals.
# Threads are made when needed.
THREADS = CALLS_MAX + MANAGEMENT_MAX + STREAMS_MAX + 16
# What is in a message besides tensors.
_ENVELOPE_BYTES = 64 << 10
_NAME = "inference.GRPCInferenceService"


class Listener:
    """A gRPC server on `host:port`; `address` says where."""

    def __init__(self, service: Service, is_ready: Callable[[], bool], host: str, port: int, max_bytes: int) -> None:
        self._service = service
        self._server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="grpc"),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", min(max_bytes + _ENVELOPE_BYTES, 2**31 - 1)),
                ("grpc.max_send_message_length", -1),
            ],
        )
        self._server.add_registered_method_handlers(_NAME, _handlers(service))
        self._server.add_generic_rpc_handlers((health_handler(is_ready),))
        shown = f"[{host}]" if ":" in host else host
        try:
            bound = self._server.add_insecure_port(f"{shown}:{port}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise BadRequestError(
                f"Port {port} of {host} cannot be bound for gRPC: stop what holds it or set WHARF_GRPC_PORT."
            )
        self.address = f"{shown}:{bound}"

    def start(self) -> None:
        """Answer from now on."""
        self._server.start()
        log.info("event=grpc_listening address=%s", self.address)

    def stop(self, timeout_s: float) -> bool:
        """Refuse what is new, let requests end for `timeout_s`, cut off the rest; return whether all ended."""
        deadline = monotonic() + timeout_s
        self._server.stop(timeout_s)
        is_clean = self._service.calls.wait_until_idle(deadline - monotonic())
        self._server.stop(0.5 if is_clean else 0).wait(2)  # answers that were made are still on their way
        return is_clean


def _handlers(service: Service) -> dict[str, Any]:
    """Return the service's methods by name, with what reads and writes their messages.

    The generated stubs do the same, but have protobuf copy tensors.
    """
    found = {}
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        make = grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_unary_rpc_method_handler
        kind, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        read = InferRequest.read if kind is pb.ModelInferRequest else kind.FromString
        found[method.name] = make(getattr(service, method.name), read, answer.SerializeToString)
    return found
