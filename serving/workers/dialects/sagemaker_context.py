"""One exchange as people's functions see it: the `context` they may take, and the reply that their result becomes.

The context has the attributes that the toolkit's model server gives it (system_properties, request_processor, the
getters of request headers and the setters of the response), under that server's names, old and new. It does not know
which functions run. `sagemaker` and `tensorflow` call it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from serving.workers.handler import HandlerError, Launch, Reply, Request

_dumps = json.dumps
_END = object()
# By what it has, not by its class: the older toolkit's is Flask's, ours is neither's.
_OF_A_RESPONSE = ("get_data", "status_code", "headers", "content_type")


class Headers(dict[str, str]):
    """Request headers, found under any spelling: people ask for `X-Amzn-SageMaker-`, WSGI says `X-Amzn-Sagemaker-`."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__({name.replace("-Sagemaker-", "-SageMaker-"): value for name, value in headers.items()})
        self._names = {name.lower(): name for name in self}

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(self._names.get(name.lower(), name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name.lower() in self._names or super().__contains__(name))

    def get(self, name: str, default: Any = None) -> Any:
        """Return the header or `default`."""
        return super().get(self._names.get(name.lower(), name), default)


class Exchange:
    """One request's headers, and the status and headers that the functions set for its response."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.request_headers = Headers(headers)
        self.response_headers: dict[str, str] = {}
        self.status = 200
        self.phrase = ""

    def get_request_property(self, key: str) -> str | None:
        """Return a request header, None where the client sent none."""
        value: str | None = self.request_headers.get(key)
        return value

    def get_request_properties(self) -> Headers:
        """Return all request headers."""
        return self.request_headers

    def report_status(self, code: int, reason_phrase: str = "") -> None:
        """Set the status; the phrase is kept for its getter and does not travel (HTTP/2 has none)."""
        self.status, self.phrase = int(code), reason_phrase

    def get_response_status_code(self) -> int:
        """Return the status so far."""
        return self.status

    def get_response_status_phrase(self) -> str:
        """Return the phrase so far."""
        return self.phrase

    def add_response_property(self, key: str, value: str) -> None:
        """Set a response header."""
        self.response_headers[str(key).lower()] = str(value)

    def get_response_headers(self) -> dict[str, str]:
        """Return the response headers so far, by lower-case name."""
        return self.response_headers

    def get_response_header(self, key: str) -> str | None:
        """Return one response header."""
        return self.response_headers.get(key.lower())


class Context:
    """What a function with one parameter more is given; the same object for the whole life of a model.

    `idx` is always 0 here: each request of a batch is an exchange of its own.
    """

    def __init__(self, launch: Launch) -> None:
        self.model_name = launch.name
        self.manifest: dict[str, Any] = {}
        self.metrics: Any = None
        self.request_ids: dict[int, str] = {}
        self.request_processor: list[Exchange] = [Exchange({})]
        self.system_properties: dict[str, Any] = {
            "model_dir": launch.folder,
            "gpu_id": _gpu(launch.device),
            "batch_size": launch.batch_size,
            "server_name": "Wharf",
        }

    def begin(self, request: Request) -> Exchange:
        """Turn to the next request."""
        exchange = Exchange(request.headers)
        self.request_processor = [exchange]
        self.request_ids = {0: exchange.get_request_property("X-Amzn-SageMaker-Inference-Id") or uuid.uuid4().hex}
        return exchange

    def get_request_id(self, idx: int = 0) -> str | None:
        """Return the platform's inference id, or one made up."""
        return self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> str | None:
        """Return a request header by any spelling, None where the client sent none."""
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> Headers:
        """Return all request headers."""
        return self.request_processor[idx].request_headers

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a response header."""
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """Return the response headers so far."""
        return self.request_processor[idx].response_headers

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the response's Content-Type; one that comes with the result, as `(body, content_type)`, wins."""
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        """Return the Content-Type set so far."""
        return self.request_processor[idx].get_response_header("content-type")

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the response's status."""
        self.request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Set the status of every request of the batch, which is this one."""
        self.set_response_status(code, phrase)

    def get_response_status(self, idx: int = 0) -> tuple[int, str]:
        """Return status and phrase so far."""
        return self.request_processor[idx].status, self.request_processor[idx].phrase

    set_http_response_status = set_response_status  # the names of the model server before 1.0
    get_http_response_status = get_response_status


def _gpu(device: str) -> int | None:
    kind, _, index = device.partition(":")
    return int(index or 0) if kind == "cuda" else None


class Chunks(Iterator[bytes]):
    """A result that comes piece by piece; the first piece is made at once, so that its error is a whole answer yet.

    Pieces are bytes or text. `close` ends the generator behind it, as a client that left does.
    """

    def __init__(self, pieces: Iterator[Any]) -> None:
        self._pieces = pieces
        self._first = next(pieces, _END)

    def __next__(self) -> bytes:
        piece, self._first = self._first, None
        if piece is None:
            piece = next(self._pieces)
        if piece is _END:
            raise StopIteration
        if isinstance(piece, str):
            return piece.encode()
        if isinstance(piece, (bytes, bytearray, memoryview)):
            return bytes(piece)
        raise HandlerError(f"The handler yielded a {type(piece).__name__}: yield bytes or str.")

    def close(self) -> None:
        """End the generator, if it is one."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()


def wanted(request: Request, default_accept: str) -> str:
    """Return the request's Accept; none and `*/*` are the default one."""
    accept = request.header("Accept").strip()
    return default_accept if accept in ("", "*/*") else accept


def reply(result: Any, accept: str, exchange: Exchange) -> Reply:
    """Turn what the last function returned into a reply.

    1. `(body, content_type)` gives both; otherwise the type is the one set through the context, else `accept`.
    2. A response object, Flask's or the older toolkit's, gives body, type, status and headers. 3. An iterator becomes
    chunks. 4. bytes and str are the body as they are. 5. Anything else is written as JSON.
    Raises `HandlerError` for what JSON cannot hold.
    """
    content_type = exchange.response_headers.get("content-type")
    if isinstance(result, tuple):
        result, content_type = _pair(result)
    if all(hasattr(result, name) for name in _OF_A_RESPONSE):
        result, content_type = _taken_apart(result, exchange)
    if isinstance(result, Iterator):
        chunks = Chunks(result)  # its first piece may set headers, hence before the rest
        return Reply(status=exchange.status, headers=_headers(exchange, content_type or accept), chunks=chunks)
    if isinstance(result, str):
        result = result.encode()
    elif isinstance(result, memoryview):
        result = result.tobytes()
    elif not isinstance(result, (bytes, bytearray)):
        result, content_type = _json(result), content_type or "application/json"
    return Reply(body=result, status=exchange.status, headers=_headers(exchange, content_type or accept))


def _pair(result: tuple[Any, ...]) -> tuple[Any, str]:
    if len(result) == 2 and isinstance(result[1], str):
        return result
    kinds = ", ".join(type(each).__name__ for each in result)
    raise HandlerError(f"The handler returned a tuple of ({kinds}): return the body, or (body, content type).")


def _taken_apart(response: Any, exchange: Exchange) -> tuple[Any, str]:
    """Return a response's body, an iterator where it is streamed, and its type; status and headers go to `exchange`."""
    exchange.report_status(response.status_code)
    for name, value in response.headers.items():
        if name.lower() not in ("content-type", "content-length"):
            exchange.add_response_property(name, value)
    is_streamed = getattr(response, "is_streamed", False)
    return iter(response.response) if is_streamed else response.get_data(), response.content_type


def _headers(exchange: Exchange, content_type: str) -> dict[str, str]:
    headers = {name.title(): value for name, value in exchange.response_headers.items()}
    headers["Content-Type"] = content_type
    return headers


def _json(value: Any) -> bytes:
    try:
        return _dumps(value, default=listed).encode()
    except (TypeError, ValueError) as fault:
        raise HandlerError(
            f"The handler returned a {type(value).__name__} and it cannot be written, {fault}: "
            "return str, bytes, an iterator of them, or (body, content type)."
        ) from None


def listed(value: Any) -> Any:
    """Serve `json.dumps` as `default`: arrays and tensors, whole or single values, become lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} has no JSON form")
