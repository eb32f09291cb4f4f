"""Engines behind the contract: requests go to the inference server that a model's worker runs, any number at once.

Each request asks the worker first where its engine listens, which says as well that both live (and waits while they are
started anew); then its own thread talks to the engine by HTTP on loopback, body for body. The path is told from the
body, as clients of OpenAI's API would choose it, or named by the custom attribute `route=`. Events of a stream go out
as they come. A client that leaves, or a deadline, closes the connection: engines give the request up then.

`workers.dialects.engine` runs the engine; `runtimes` puts this around the backend of workers.
"""

from __future__ import annotations

import http.client
import itertools
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import cast

from serving.backends.base import Backend, HandlerModel, LoadedModel
from serving.backends.wrapping import WrappedBackend, WrappedModel
from serving.errors import BadRequestError, ModelFailedError, ServingError
from serving.repository.engine_layout import ENGINE, routes_of
from serving.repository.layouts import ModelSpec
from serving.workers.dialects.engine import END_IT, HOST, PORT, health_of, is_well
from serving.workers.handler import Body, Reply, Request
from serving.workers.instance import WorkerLostError, ran

log = logging.getLogger("wharf.workers")

# What tells a request's kind: OpenAI's API reference, which vLLM, SGLang, TGI and llama.cpp's server follow.
_ROUTES = {"messages": "/v1/chat/completions", "prompt": "/v1/completions", "input": "/v1/embeddings"}
_ATTRIBUTES = "X-Amzn-Sagemaker-Custom-Attributes"
_ROUTE = re.compile(r"(?:^|[;,\s])route=([^;,\s]*)")
_PASSED_ON = ("Content-Type", "Accept", "X-Request-Id", "Traceparent")
# JSON as far as its depth shows: strings, with the colon behind a key, brackets that open, those that close. A string
# that never ends goes to the end, and `++` and its like keep what they took: no byte is read again and again.
_TOKENS = re.compile(rb'"(?P<text>(?:[^"\\]++|\\.)*+)"?(?P<colon>\s*+:)?|[\[{]++|[\]}]++', re.DOTALL)
# So far the key that tells the route is looked for: some 60 ms.
_TOKENS_MAX = 100_000
# Of the engine's answer these are ours to say.
_NOT_THEIRS = ("date", "server", "content-length", "transfer-encoding", "connection")
_CHUNK_BYTES = 64 << 10
# One that computes answers in milliseconds (vLLM's server is a process apart from its model); one that hangs does not.
_HEALTH_S = 5.0


class EngineModel(WrappedModel):
    """A model whose worker owns an engine."""

    def __init__(self, spec: ModelSpec, inner: LoadedModel, timeout_s: float, reply_max_bytes: int) -> None:
        super().__init__(inner)
        self._name = spec.name
        self._timeout_s = timeout_s
        self._reply_max_bytes = reply_max_bytes
        options = spec.handler.options if spec.handler else {}
        self._health = health_of(options)
        self._is_looked_at = threading.Lock()
        self._routes = (*_ROUTES.values(), *routes_of(options))

    def invoke(self, request: Request, deadline: float) -> Reply:
        """Have the engine answer, with its own status and words; a stream has as long for each event.

        Raises `BadRequestError` for a body that tells no route, `UnavailableError` (503) when the engine ends or is
        late; one that was late and is not well either is replaced.
        """
        route = self._route(request)
        deadline = min(deadline, time.monotonic() + self._timeout_s)
        port = int(self._ask(Request(), deadline).headers[PORT])
        answer = _Answer(port, deadline)
        try:
            return self._reply(answer, request, route)
        except BaseException as error:
            answer.close()
            if isinstance(error, TimeoutError):
                self._look_at(port)
                raise self._late() from None
            if isinstance(error, (OSError, http.client.HTTPException)):
                raise self._lost(error) from None
            raise

    def _ask(self, request: Request, deadline: float) -> Reply:
        return cast("HandlerModel", self.inner).invoke(request, deadline)

    def _reply(self, answer: _Answer, request: Request, route: str) -> Reply:
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        status, said = answer.begin(route, request.body, headers)
        reply = Reply(status=status, headers=said)
        if said.get("Content-Type", "").startswith("text/event-stream"):
            reply.chunks = answer
            return reply
        reply.body = answer.whole(self._reply_max_bytes)
        answer.close()
        if len(reply.body) > self._reply_max_bytes:
            raise ModelFailedError(
                f"The engine of '{self._name}' answered more than {self._reply_max_bytes} bytes, which are allowed "
                "(WHARF_MAX_REPLY_BYTES): ask for less, or stream it."
            )
        return reply

    def _route(self, request: Request) -> str:
        named = _ROUTE.search(request.headers.get(_ATTRIBUTES, ""))
        if named is not None:
            if named[1] not in self._routes:
                known = ", ".join(self._routes)
                raise BadRequestError(f"Model '{self._name}' has no route '{named[1]:.80}': name one of {known}.")
            return named[1]
        found = []
        for key in _keys(request.body):
            if key in _ROUTES:
                return _ROUTES[key]
            found.append(key)
        raise BadRequestError(
            f"Model '{self._name}' tells a request's route from its body, a JSON object with one of "
            f"{', '.join(_ROUTES)}; found {', '.join(found)[:80] or 'none'}: send that, or the custom attribute "
            "route=PATH."
        )

    def _look_at(self, port: int) -> None:
        """See after an engine that was late, in a thread of its own: nobody waits for that, and once is enough."""
        if self._is_looked_at.acquire(blocking=False):
            threading.Thread(target=self._end_if_unwell, args=[port], name="engine-health", daemon=True).start()

    def _end_if_unwell(self, port: int) -> None:
        try:
            if not is_well(port, self._health, _HEALTH_S):
                log.warning("event=engine_unwell model=%s health=%s within_s=%g", self._name, self._health, _HEALTH_S)
                with suppress(ServingError):  # its worker ends with it
                    self._ask(Request(about={END_IT: port}), time.monotonic() + self._timeout_s)
        finally:
            self._is_looked_at.release()

    def _late(self) -> ServingError:
        return ran(
            WorkerLostError(
                f"The engine of '{self._name}' did not answer in time, and the request was taken back: ask for less, "
                "or raise predict_timeout_s (and WHARF_REQUEST_TIMEOUT)."
            )
        )

    def _lost(self, error: Exception) -> ServingError:
        return ran(
            WorkerLostError(
                f"The engine of '{self._name}' ended before it had answered ({type(error).__name__}); "
                "it is being replaced: try again."
            )
        )


class _Answer:
    """One request at the engine: its answer whole, or in chunks as they come; closing it takes the request back."""

    def __init__(self, port: int, deadline: float) -> None:
        self._deadline = deadline
        self._timeout_s = max(0.001, deadline - time.monotonic())
        self._connection = http.client.HTTPConnection(HOST, port, timeout=self._timeout_s)
        self._response: http.client.HTTPResponse | None = None

    def begin(self, route: str, body: Body, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        """Send the request; return status and headers of the answer."""
        self._connection.request("POST", route, body, headers)
        self._socket = self._connection.sock  # http.client forgets it where the engine will hang up
        self._socket.settimeout(self._left_s())
        self._response = self._connection.getresponse()
        said = {name.title(): value for name, value in self._response.getheaders() if name.lower() not in _NOT_THEIRS}
        return self._response.status, said

    def whole(self, most: int) -> bytes:
        """Return the body, or one byte more than `most` of it, before the deadline."""
        body = bytearray()
        while len(body) <= most and (chunk := self._piece(most + 1 - len(body), self._left_s())):
            body += chunk
        return bytes(body)

    def __iter__(self) -> _Answer:
        return self

    def __next__(self) -> bytes:
        """Return what has come, at least a byte; an engine that ends or is late breaks the stream off."""
        if chunk := self._piece(_CHUNK_BYTES, self._timeout_s):
            return chunk
        self.close()
        raise StopIteration

    def _left_s(self) -> float:
        if (left_s := self._deadline - time.monotonic()) <= 0:
            raise TimeoutError
        return left_s

    def _piece(self, most: int, timeout_s: float) -> bytes:
        """Return what has come, nothing at the end; raises `IncompleteRead` for an end before the length that it said.

        http.client itself tells a cut answer in chunks alone.
        """
        assert self._response is not None
        self._socket.settimeout(timeout_s)
        chunk = self._response.read1(most)
        if not chunk and self._response.length:
            raise http.client.IncompleteRead(chunk, self._response.length)
        return chunk

    def close(self) -> None:
        """Hang up."""
        if self._response is not None:
            self._response.close()
        self._connection.close()


class EngineBackend(WrappedBackend):
    """The backend of workers, with the way to the engine for models that have one."""

    def __init__(self, inner: Backend, timeout_s: float, reply_max_bytes: int) -> None:
        super().__init__(inner)
        self._timeout_s = timeout_s
        self._reply_max_bytes = reply_max_bytes

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Make the model ready."""
        model = self.inner.load(spec)
        handler = spec.handler
        if handler is None or handler.dialect != ENGINE:
            return model
        return EngineModel(spec, model, handler.predict_timeout_s or self._timeout_s, self._reply_max_bytes)


def _keys(body: Body) -> Iterator[str]:
    """Yield the keys of the outermost object as they come; the values are passed over, for the engine to judge."""
    depth = 0
    for token in itertools.islice(_TOKENS.finditer(body), _TOKENS_MAX):
        start, end = token.span()
        if body[start] in b"[{":
            depth += end - start
        elif body[start] in b"]}":
            depth -= end - start
        elif depth == 1 and token["colon"]:
            yield token["text"].decode("utf-8", "replace")
