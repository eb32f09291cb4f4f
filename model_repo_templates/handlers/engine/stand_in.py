"""Stands in for vLLM's OpenAI server: its routes, its stream, its errors, and a "language model" that counts.

Standard library alone. What a request may ask besides, for tests: `"wait_for": 8` begins when so many requests have
been here at once; `"fail": 429` is answered with that status; `"fail": "crash"` ends this process, as a fault on a GPU
does, and `"cut"` does so after the answer's headers; `"takes": 4` sends four bytes of the answer a second apart before
the others; `"health_takes": 2` makes its health slow. The header `X-Process` tells which process answered.

    python stand_in.py serve MODEL --port 8000 [--host 127.0.0.1] [--served-model-name NAME] [--starts-in SECONDS]
        [--holds-mib MEBIBYTES]
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
_here = threading.Condition()
_running: list[int] = []
_peaks = [0]
_is_up = threading.Event()


class RefusedError(Exception):
    """An answer with an error, in OpenAI's form."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": status}}


class Routes(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    model = ""
    health_takes = 0.0
    asked: dict[str, Any]

    def do_GET(self) -> None:
        """Tell whether the model is there, or its name."""
        self.asked = {}
        if self.path == "/health":
            if Routes.health_takes:
                time.sleep(Routes.health_takes)
                print("slow, and well", flush=True)
            self._answer(200 if _is_up.is_set() else 503, {})
        elif self.path == "/v1/models":
            self._answer(200, {"object": "list", "data": [{"id": self.model, "object": "model"}]})
        else:
            self._answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        """Complete a prompt or a chat, whole or as events."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            with _one_more():
                self.asked = json.loads(body)
                self._complete(self.asked)
        except RefusedError as error:
            self._answer(error.status, error.body)
        except (BrokenPipeError, ConnectionResetError):
            print("Aborted request: the client has left.", flush=True)

    def _complete(self, asked: dict[str, Any]) -> None:
        if self.path not in (CHAT, COMPLETIONS, EMBEDDINGS):
            raise RefusedError(404, "NotFoundError", f"no route {self.path}")
        if asked.get("model", self.model) != self.model:
            raise RefusedError(404, "NotFoundError", f"The model `{asked['model']}` does not exist.")
        _misbehave(asked)
        count = asked.get("max_tokens", 4)
        if count < 1:
            raise RefusedError(400, "BadRequestError", f"max_tokens must be at least 1, got {count}.")
        if self.path == EMBEDDINGS:
            self._answer(200, {"object": "list", "data": [{"index": 0, "embedding": [0.5, 0.25]}]})
        elif asked.get("stream"):
            self._stream(asked, count)
        else:
            text = "".join(f" {number}" for number in range(count))
            usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
            self._answer(200, self._document({"role": "assistant", "content": text}, text, "length") | {"usage": usage})

    def _document(self, message: dict[str, str], text: str, reason: str | None, *, key: str = "message") -> Any:
        """Return an answer, or a piece of one."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        choice |= {key: message} if self.path == CHAT else {"text": text}
        return {"model": self.model, "choices": [choice]}

    def _stream(self, asked: dict[str, Any], count: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self._events(asked, count):
            data = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def _events(self, asked: dict[str, Any], count: int) -> Iterator[str]:
        for number in range(count):
            text, reason = f" {number}", "length" if number == count - 1 else None
            yield json.dumps(self._document({"content": text}, text, reason, key="delta"))
        if (asked.get("stream_options") or {}).get("include_usage"):
            yield json.dumps({"model": self.model, "choices": [], "usage": {"completion_tokens": count}})
        yield "[DONE]"

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Process", str(os.getpid()))
        if status in (429, 503):
            self.send_header("Retry-After", "1")
        self.end_headers()
        self._send(body)

    def _send(self, body: bytes) -> None:
        if self.asked.get("fail") == "cut":
            os._exit(3)
        for _ in range(self.asked.get("takes", 0)):
            self.wfile.write(body[:1])
            body = body[1:]
            time.sleep(1)
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the library's name
        """Say nothing of each request."""


class _one_more:  # noqa: N801  read as a word: with _one_more()
    """Counts a request that is here."""

    def __enter__(self) -> None:
        with _here:
            _running.append(1)
            _peaks.append(max(_peaks.pop(), len(_running)))
            _here.notify_all()

    def __exit__(self, *_: object) -> None:
        with _here:
            _running.pop()


def _misbehave(asked: dict[str, Any]) -> None:
    Routes.health_takes = asked.get("health_takes", 0.0)
    with _here:
        _here.wait_for(lambda: _peaks[0] >= asked.get("wait_for", 0))
    if asked.get("fail") == "crash":
        print("CUDA error: an illegal memory access was encountered", flush=True)
        os._exit(3)
    if isinstance(asked.get("fail"), int):
        raise RefusedError(asked["fail"], "OverloadedError", "as you asked")


def main() -> None:
    """Listen at once, as llama.cpp's server does; be healthy when the model is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name")
    parser.add_argument("--starts-in", type=float, default=0)
    parser.add_argument("--holds-mib", type=int, default=0)
    options = parser.parse_args()
    weights = b"1" * (options.holds_mib << 20)
    Routes.model = options.served_model_name or options.model
    print(f"serving {Routes.model} of {len(weights)} bytes from process {os.getpid()}", flush=True)
    threading.Timer(options.starts_in, _is_up.set).start()
    ThreadingHTTPServer((options.host, options.port), Routes).serve_forever()


if __name__ == "__main__":
    main()
