"""The yardsticks: bare WSGI and gRPC callables, the same work in Flask. Run by the benchmarks as servers."""

from __future__ import annotations

import json
import mmap
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any


def tiny(body: bytes) -> bytes:
    """json.loads + 4-multiply + json.dumps: the work of the tiny model."""
    rows = json.loads(body)["instances"]
    return json.dumps({"predictions": [[value * 4 for value in row] for row in rows]}).encode()


def swallow(body: bytes) -> bytes:
    """Take a tensor, answer 4,000 bytes."""
    return bytes(4000) if body else b""


WORK = {"/tiny": tiny, "/swallow": swallow}


class Handed:
    """The mean of each channel of a tensor of 3x224x224 at a body's end, computed by a forked process of its own.

    The least that a server with its models in processes can do: one copy into memory that both sides keep mapped, one
    byte there and the answer back. Nothing is parsed, checked, named, counted, limited or recovered from.
    """

    _TENSOR_BYTES = 3 * 224 * 224 * 4

    def __init__(self) -> None:
        import numpy as np

        self._memory = mmap.mmap(-1, self._TENSOR_BYTES)
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        if os.fork():
            theirs.close()
            return
        self._socket.close()
        while theirs.recv(1):
            tensor = np.frombuffer(self._memory, np.float32).reshape(1, 3, 224, 224)
            theirs.sendall(tensor.mean(axis=(2, 3)).tobytes())
        os._exit(0)

    def __call__(self, body: bytes) -> bytes:
        with self._lock:
            self._memory[:] = memoryview(body)[-self._TENSOR_BYTES :]
            self._socket.sendall(b"x")
            return self._socket.recv(64)


def bare(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with no framework at all."""
    work = WORK.get(environ["PATH_INFO"])
    if work is None:
        start_response("404 Not Found", [])
        return [b""]
    answer = work(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


def make_flask() -> Any:
    """Build the same two routes in Flask."""
    import flask

    app = flask.Flask("peer")

    @app.post("/<path:name>")
    def _work(name: str) -> flask.Response:
        return flask.Response(WORK["/" + name](flask.request.get_data()), content_type="application/json")

    return app


def serve_bare(port: int, threads: int, *, has_worker: bool = False) -> None:
    """Serve `bare` on Granian with our own server's settings."""
    from granian.constants import HTTPModes, Interfaces
    from granian.log import LogLevels
    from granian.server.mp import MPServer

    from serving import memory

    def load() -> Any:
        memory.tune_allocator()
        if has_worker:
            WORK["/handed"] = Handed()
        return bare

    MPServer(
        "bare", address="127.0.0.1", port=port, interface=Interfaces.WSGI, blocking_threads=threads, backlog=4096,
        backpressure=16_384, http=HTTPModes.http1, websockets=False, log_level=LogLevels.warning,
    ).serve(target_loader=load, wrap_loader=False)  # fmt: skip


def serve_bare_grpc(port: int, threads: int) -> None:
    """Serve a gRPC method that takes bytes and answers none, unparsed, with our own listener's settings."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    from serving import memory

    memory.tune_allocator()
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(threads), options=options)
    take = grpc.unary_unary_rpc_method_handler(lambda _data, _context: b"")  # no deserializer: bytes as they came
    handlers = {"ModelInfer": take}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    modes = {"http": serve_bare, "worker": partial(serve_bare, has_worker=True), "grpc": serve_bare_grpc}
    modes[sys.argv[3] if len(sys.argv) > 3 else "http"](int(sys.argv[1]), int(sys.argv[2]))
