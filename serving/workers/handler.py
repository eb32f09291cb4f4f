"""What a dialect turns a model into: a `Handler`, which answers requests inside a worker.

Every module of `serving.workers.dialects` has `load(launch) -> Handler`. This room is shared by both sides of the
channel and runs under a foreign interpreter too (a model may bring its own): standard library alone, CPython 3.9 on.
It knows no dialect, no channel and no HTTP; `main` calls it in the worker, `pool` builds a `Launch` in the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Union

Body = Union[bytes, bytearray, memoryview]  # noqa: UP007  evaluated, and Python 3.9 has no |


@dataclass
class Launch:
    """What a worker is told at its birth; travels as JSON.

    `folder` is the model's folder and becomes the working directory; `file` is the handler's Python file, or the model
    file of a plain model. `options` are the dialect's own (serving.properties' without `option.`, Triton's parameters);
    `config` is Triton's model configuration as JSON. `ranks` is the size of the group that this process is one of, 0
    for a worker by itself; `rank` counts from 0.
    """

    name: str
    dialect: str
    folder: str
    file: str = ""
    options: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    instance: int = 0
    rank: int = 0
    ranks: int = 0
    threads: int = 1
    batch_size: int = 1
    default_accept: str = "application/json"
    max_reply_bytes: int = 64 << 20
    address_space_bytes: int = 0
    open_files: int = 0
    processes: int = 0


@dataclass
class Request:
    """One request as it came: headers in Title-Case, and either the raw body or, for dialects that take them, tensors.

    Title-Case is the WSGI kind: `Content-Type`, `Accept`, `X-Amzn-Sagemaker-Custom-Attributes`. `query` is the url's.

    `body` may be a view of shared memory (bodies from 64 KiB on): it stays valid as long as it is referenced, and what
    is written to it stays here. `tensors` maps names to numpy arrays, views likewise. `about` is what a client of the
    Open Inference protocol said besides: id, parameters, outputs, priority, timeout_us, sequence_id, flags; `stream` is
    "tensors" where chunks are to be `answer_frames`. `is_left` never travels: it says whether the caller has gone.
    """

    body: Body = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    tensors: dict[str, Any] | None = None
    query: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    is_left: Any = None

    def header(self, name: str, default: str = "") -> str:
        """Return a header by its Title-Case name."""
        return self.headers.get(name, default)


@dataclass
class Reply:
    """One answer: `tensors` for dialects that take them, else a status with headers and a body, whole or in chunks.

    `chunks` yields bytes and is closed when the client leaves. One that has `push(send)` can make all of them in the
    caller's thread instead: `send(chunk)` says whether more are wanted; what fails before the first of them fails the
    whole call. `after` runs once the answer is sent. `spent` is the server's own note of where the time went
    (`serving.statistics.Spent`); it never travels.
    """

    body: Body = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    chunks: Iterator[bytes] | None = None
    tensors: dict[str, Any] | None = None
    after: Any = None
    spent: Any = None

    def whole(self) -> Reply:
        """Make one body of its chunks, if it has any; return this very reply."""
        if self.chunks is not None:
            self.body, self.chunks = b"".join(self.chunks), None
        return self


class HandlerError(Exception):
    """A failure with a status of its own: 415 for a Content-Type, 400 for a body, 507 for memory.

    Any other exception of a handler is a 424 with its last line. Raised by dialects, turned into a reply by `main`.
    """

    def __init__(self, message: str, status: int = 424) -> None:
        super().__init__(message)
        self.status = status


class Handler(Protocol):
    """A loaded model: one process, one thread, one call at a time."""

    takes_tensors: bool
    """Whether the server decodes bodies into tensors (and encodes them), or this handler takes raw bodies."""

    inputs: list[dict[str, Any]] | None
    """Specs `{"name", "dtype" (Triton's), "dims" (-1 is free)}` of the inputs, None where the model does not tell."""

    outputs: list[dict[str, Any]] | None

    # One that completes its own configuration has `batching` besides: {"max_batch_size", "is_dynamic"}. One that can be
    # called in several ways has `signatures`, by name: {"inputs", "outputs", "method"}; a request chooses one by its
    # parameter `signature_name`.

    def call(self, requests: list[Request]) -> list[Reply]:
        """Answer each request, in order.

        More than one only where `Launch.batch_size` or Triton's batcher allows. An exception fails all of them: 424
        with its last line, 507 for MemoryError.
        """

    def close(self) -> None:
        """Run the model's own farewell; the process ends afterwards."""
