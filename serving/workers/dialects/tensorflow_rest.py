"""Where `context.rest_uri` leads: TensorFlow Serving's API on a loopback port of the worker, for its own script.

In SageMaker's container a script posts to a TensorFlow Serving beside it. Here its model lives in the same process, and
a thread answers for it while the script waits, so that the script runs as it is and nothing is loaded twice. Only this
process's own requests are meant; the address is nobody else's business. Bodies are `tensorflow_api`'s; `tensorflow`
starts this where a script names the address.
"""

from __future__ import annotations

import re
import socket
import socketserver
import threading
import traceback
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import quote, unquote

from serving.workers.dialects.tensorflow_api import METHODS, Response, respond
from serving.workers.dialects.tensorflow_predict import Predictor
from serving.workers.handler import HandlerError

_PATH = re.compile(rf"/v1/models/(?P<name>[^:]+?)(?:/versions/(?P<version>\d+))?(?::(?P<method>{'|'.join(METHODS)}))?")


class RestServer:
    """Answers for one model at `address`, http://127.0.0.1:PORT."""

    def __init__(self, name: str, predictor: Predictor) -> None:
        self._name = name
        self._predictor = predictor
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _handler_of(self), bind_and_activate=True)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._is_closed = False
        threading.Thread(target=self._serve, name="tensorflow-rest", daemon=True).start()

    def close(self) -> None:
        """Take no more requests; who connects now is refused."""
        self._is_closed = True
        self._server.socket.shutdown(socket.SHUT_RDWR)  # a close alone waits for the thread that accepts
        self._server.server_close()

    def _serve(self) -> None:
        """Hand each connection to a thread of its own; the library's loop would wake up for nothing, twice a second."""
        while not self._is_closed:
            try:
                self._server.process_request(*self._server.get_request())
            except OSError:  # the caller is gone, or this is the end
                continue

    def answer(self, is_post: bool, path: str, body: bytes) -> Response:
        """Answer one request; what the model raises is a 500."""
        found = _PATH.fullmatch(path)
        if found is None or is_post != bool(found["method"]):
            return Response({"error": f"Malformed request: {'POST' if is_post else 'GET'} {path[:200]}"}, 400)
        name, version = unquote(found["name"]), found["version"] or ""
        if name != self._name:
            return Response({"error": f"Servable not found for request: Latest({name}): here is {self._name}."}, 404)
        if not is_post:
            return self._status(version)
        if version and not self._predictor.versions:
            version = ""  # a model without versions is every one
        try:
            return respond(body, found["method"], version, self._predictor.predict)
        except Exception as error:
            traceback.print_exc()
            status = error.status if isinstance(error, HandlerError) and error.status == 507 else 500
            return Response({"error": f"{type(error).__name__}: {error}"}, status)

    def _status(self, version: str) -> Response:
        known = [each for each in self._predictor.versions or ("1",) if version in ("", each)]
        if not known:
            return Response({"error": f"Could not find version {version} of model {self._name}"}, 404)
        said = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        return Response({"model_version_status": [{"version": each, **said} for each in known]})


def uri(address: str, name: str, version: str, method: str) -> str:
    """Return the address of a model's method."""
    path = f"/versions/{version}" if version else ""
    return f"{address}/v1/models/{quote(name)}{path}:{method}"


def _handler_of(server: RestServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer(b"", is_post=False)

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if length.isdigit():
                self._answer(self.rfile.read(int(length)), is_post=True)
            else:
                self.close_connection = True
                self._send(Response({"error": "Send a Content-Length: chunks are not read here."}, 411))

        def log_message(self, *args: Any) -> None:
            """Say nothing: the script's own call is logged where it came in."""

        def _answer(self, body: bytes, *, is_post: bool) -> None:
            self._send(server.answer(is_post, self.path.partition("?")[0], body))

        def _send(self, response: Response) -> None:
            self.send_response(response.status_code)
            self.send_header("Content-Type", response.headers["Content-Type"])
            self.send_header("Content-Length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

    return Handler
