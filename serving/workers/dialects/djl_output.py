"""Turns what a DJL handler returned, or raised, into replies: status, headers, body or chunks.

It knows the `Output` and the peer's rules (None is 204, an exception 424 with a JSON body, memory 507); it does not
know the handler. `djl` calls it, inside a worker.
"""

from __future__ import annotations

import importlib
import json
import operator
import re
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from serving.workers.handler import Body, Reply

if TYPE_CHECKING:
    from serving.workers.compat.djl_python.outputs import Output

_import = importlib.import_module
_dumps = json.dumps
_print_exc = traceback.print_exc

_MEMORY_ERRORS = ("OutOfMemoryError", "MemoryError")
_MEMORY_WORDS = ("CUDA error: out of memory", "No available memory for the cache blocks")

_BATCH_KEY = re.compile(r"batch_(\d+)\.(.*)", re.DOTALL)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a header's name, RFC 9110 5.6.2
# The server alone frames a reply.
_FRAMING = ("content-length", "transfer-encoding", "connection")


class OneByOne(Exception):  # noqa: N818  a wish and no error
    """Raised by a handler that takes batches and wants the requests of this one each by itself."""


def new_output(code: int = 200, message: str = "OK") -> Output:
    """Build an Output of the class that people's code imports."""
    made: Output = _import("djl_python.outputs").Output(code, message)
    return made


def checked_output(result: Any) -> Output:
    """Return what a handler returned as an Output: None is 204, anything else that is none an error."""
    if result is None:
        return new_output(204, "No content")
    if not isinstance(result, _import("djl_python.outputs").Output):
        return new_output().error(f"Invalid output type: {type(result)}")
    output: Output = result
    is_status = isinstance(output.code, int) and 200 <= output.code <= 599
    return output if is_status else new_output().error(f"Invalid output code: {output.code!r:.80}")


def error_output(error: Exception) -> Output:
    """Return the Output of an exception, 507 where memory ran out; the traceback goes to the model's log."""
    _print_exc()
    message = str(error)
    if type(error).__name__ in _MEMORY_ERRORS or any(words in message for words in _MEMORY_WORDS):
        return new_output(507, message)
    return new_output().error(message)


def reply(output: Output, *, is_rank: bool = False) -> Reply:
    """Turn an Output into one reply; a stream is begun, so that an error before its first chunk is still a 424.

    Of a group's rank an exception later on breaks the stream off: as a last chunk it would look like its sister's next.
    """
    made = _streamed(output, is_rank=is_rank) if output.stream_content is not None else _plain(output, output.content)
    if output.finalize_function is not None:
        made.after = output.execute_finalize
    return made


def bodies(first: Output, rest: Iterator[Output]) -> Iterator[Body]:
    """Yield the body of each Output of an asynchronous stream."""
    yield _body(first.content)
    for each in rest:
        yield _body(each.content)


def _plain(output: Output, content: Any) -> Reply:
    headers = _headers(output)
    if output.code == 204:  # which has no body, RFC 9110 15.3.5
        return Reply(b"", 204, headers)
    if output.code >= 300 and content.is_empty():
        headers.setdefault("Content-Type", "application/json")
        told = _dumps({"code": output.code, "message": str(output.message)})
        return Reply(told.encode(), output.code, headers)
    return Reply(_body(content), output.code, headers)


def _body(content: Any) -> Body:
    if content.is_empty():
        return b""
    found = content.get("data")
    return _bytes(content.value_at(0) if found is None else found)


def _bytes(value: Any) -> Body:
    return value if isinstance(value, (bytes, bytearray, memoryview)) else str(value).encode()


def _headers(output: Output) -> dict[str, str]:
    headers = {}
    for name, value in output.properties.items():
        name = str(name)  # noqa: PLW2901
        if _TOKEN.fullmatch(name) and name.lower() not in _FRAMING:
            spelled = "Content-Type" if name.lower() == "content-type" else name
            printable = "".join(each if each.isprintable() else " " for each in str(value))
            headers[spelled] = printable.encode("latin-1", "replace").decode("latin-1")
    return headers


def _streamed(output: Output, *, is_rank: bool) -> Reply:
    """Take the first chunk and reply: whole where the iterator knows that it has no more, in chunks otherwise."""
    try:
        first = _formatted(output, next(output.stream_content))
        is_whole = operator.length_hint(output.stream_content, 1) == 0
    except StopIteration:
        return Reply(b"", output.code, _headers(output))
    except Exception as error:
        failed = reply(error_output(error))
        _close(output.stream_content)
        return failed
    if is_whole:
        return Reply(first, output.code, _headers(output))
    return Reply(b"", output.code, _headers(output), chunks=_rest(output, first, is_rank=is_rank))


def _rest(output: Output, first: bytes, *, is_rank: bool) -> Iterator[bytes]:
    """Yield the chunks, the words of an exception being the last; close the handler's iterator whoever leaves first."""
    try:
        yield first
        while True:  # not `for`: __next__ is all that a stream promises
            try:
                chunk = next(output.stream_content)
            except StopIteration:
                return
            yield _formatted(output, chunk)
    except Exception as error:
        if is_rank:
            raise
        _print_exc()
        yield str(error).encode()
    finally:
        _close(output.stream_content)


def _close(stream: Any) -> None:
    close = getattr(stream, "close", None)
    if close is not None:
        close()


def _formatted(output: Output, chunk: Any) -> bytes:
    formatter = output.stream_output_formatter
    if formatter is not None:
        chunk = formatter(chunk)
    if isinstance(chunk, (bytes, bytearray)):
        return bytes(chunk)
    return (chunk if isinstance(chunk, str) else _dumps(chunk)).encode()


def batch_replies(output: Output, size: int, is_batch_aware: bool) -> list[Reply] | None:
    """Split the Output of a batch, None where it does not answer `size` requests.

    1. An error of a handler that asked about batches is everybody's.
    2. Keys `batch_N.` tell whose an item is.
    3. Without such keys the items are in the order of the requests, if the handler asked about batches: the items of
       one that did not are one request's.
    """
    if output.stream_content is not None:
        return None
    if output.code >= 300:
        return [_plain(output, output.content) for _ in range(size)] if is_batch_aware else None
    parts = _parts(output.content, is_batch_aware)
    if parts is None or set(parts) != set(range(size)):
        return None
    replies = [_plain(output, parts[index]) for index in range(size)]
    if output.finalize_function is not None:
        replies[-1].after = output.execute_finalize
    return replies


def _parts(content: Any, is_batch_aware: bool) -> dict[int, Any] | None:
    matches = [_BATCH_KEY.fullmatch(key or "") for key in content.keys]
    if not all(matches) and not is_batch_aware:
        return None
    parts: dict[int, Any] = {}
    for position, match in enumerate(matches):
        index, key = (int(match[1]), match[2]) if match and all(matches) else (position, "data")
        parts.setdefault(index, type(content)()).add(key, content.value_at(position))
    return parts
