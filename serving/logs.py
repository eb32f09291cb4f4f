"""How a log line looks, and who it is about.

One line an event, `key=value` text or one JSON object by setting. `about` carries the request id and the model of the
present request into every line that is written while it runs, whatever room writes it. Access lines are gathered and
written ten times a second by one thread, so that a request never waits for a slow pipe nor gives up the interpreter
for a write.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from contextvars import ContextVar

about: ContextVar[tuple[str, str]] = ContextVar("about", default=("", ""))

# Lines wait at most this long; short enough to read along, long enough to write many in one system call.
_FLUSH_INTERVAL_S = 0.1
# What makes a value look like more than one.
_ODD = frozenset(' "=')
# Past this many unwritten lines (a reader that hangs) the oldest go; a line is at most some 8 KiB, mostly 300 bytes.
_MAX_PENDING = 20_000


class _Formatter(logging.Formatter):
    def __init__(self, *, is_json: bool) -> None:
        super().__init__()
        self._is_json = is_json

    def format(self, record: logging.LogRecord) -> str:
        request_id, model = about.get()
        fields = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "room": record.name,
            "message": record.getMessage(),
        }
        if request_id:
            fields |= {"request_id": request_id}
        if model:
            fields |= {"about_model": model}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return write_line(fields, is_json=self._is_json)


def write_line(fields: dict[str, str], *, is_json: bool) -> str:
    """Write fields as one line; the message of a text line is `key=value` already and stands unquoted."""
    if is_json:
        return json.dumps(fields)
    shown = (value if key == "message" else f"{key}={quoted(value)}" for key, value in fields.items())
    return " ".join(shown)


def quoted(value: str) -> str:
    """Return a value as it stands in a line: in quotes where it would otherwise look like more than one."""
    is_plain = value and value.isprintable() and _ODD.isdisjoint(value)
    return value if is_plain else json.dumps(value)


def timestamp(seconds: float) -> str:
    """Write seconds since 1970 as they stand in a line: UTC, to the millisecond."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}Z"


def configure(level: str, log_format: str) -> None:
    """Send every logger's lines to standard error in our form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(is_json=log_format == "json"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def add_filter(switch: logging.Filter) -> None:
    """Ask `switch` about every line before it is written."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(switch)


def announce(message: str, log_format: str) -> None:
    """Write a line that no level hides: what people look for at the start, or what their settings do not do."""
    fields = {"time": timestamp(time.time()), "level": "warning", "room": "wharf", "message": message}
    line = write_line(fields, is_json=True) if log_format == "json" else f"wharf: {message}"
    with contextlib.suppress(OSError):  # nobody reads it
        print(line, file=sys.stderr, flush=True)  # noqa: T201  unlike write, it bears a closed standard error


class AccessLog:
    """One line for each request, gathered and written by a thread of its own."""

    def __init__(self, which: str, log_format: str, fd: int = 2) -> None:
        self._least_status = {"all": 0, "errors": 400, "off": 1000}[which]
        self._is_json = log_format == "json"
        self._fd = fd
        self._pending: deque[tuple[float, tuple[object, ...]]] = deque(maxlen=_MAX_PENDING)
        self._flush_lock = threading.Lock()
        if which != "off":
            threading.Thread(target=self._run, name="access-log", daemon=True).start()
            atexit.register(self.flush)

    def write(self, status: int, *values: object) -> None:
        """Take one request: its status and what `_FIELDS` lists after it."""
        if status >= self._least_status:
            self._pending.append((time.time(), (status, *values)))

    def flush(self) -> None:
        """Write what is pending; lines of two threads come out whole and in order."""
        with self._flush_lock:
            lines = [self._line(*self._pending.popleft()) for _ in range(len(self._pending))]
            data = "".join(lines).encode()
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except OSError:  # a closed pipe takes no log; serving goes on
                return

    def _line(self, seconds: float, values: tuple[object, ...]) -> str:
        level = next((name for least, name in _LEVELS if int(str(values[0])) >= least), "info")
        fields = {"time": timestamp(seconds), "level": level, "room": "wharf.access", "event": "request"}
        fields |= {key: str(value) for key, value in zip(_FIELDS, values, strict=True) if value not in (None, "")}
        return write_line(fields, is_json=self._is_json) + "\n"

    def _run(self) -> None:
        while True:
            time.sleep(_FLUSH_INTERVAL_S)
            self.flush()


_LEVELS = ((500, "error"), (400, "warning"))
_FIELDS = ("status", "method", "path", "model", "target_model", "inference_id", "request_id", "milliseconds")
