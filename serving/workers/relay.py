"""What models print, line by line in our log with the model's name.

Runs in the zygote, so that a model that prints a hundred thousand lines takes no time from the server. Nothing is
dropped and nothing piles up: while our standard error does not take more (`is_blocked`), the zygote does not read the
pipes, and the models that print wait. The same holds for a model that prints so much that the log would take a core
from those who answer (`rest_s`). Never waits itself. Knows no process but its number.
"""

from __future__ import annotations

import os
import select
import time
from dataclasses import dataclass

from serving.logs import quoted, timestamp, write_line

_READ_BYTES = 16 << 10
# A line without an end is cut here: one log record of most collectors (16-256 KiB) and then some.
_LINE_MAX_BYTES = 16 << 10
# What a pipe can hold (fs.pipe-max-size), in reads, and then some: who writes on and on is not read to the end.
_DRAIN_READS = 128
# What a pipe that poll calls writable surely takes without blocking (pipe(7)).
_PIPE_BUF = 4096
# The log's part of one core in the long run: two models' requests on two cores notice none of it (tests/people).
_SHARE = 0.2
# CPU seconds that it may take at once, some two thousand lines: nothing that people read is held up.
_BURST_S = 0.01


@dataclass
class _Source:
    model: str
    instance: int
    pid: int
    rest: bytes = b""


class Relay:
    """The pipes of all workers; writes to standard error."""

    def __init__(self, *, is_json: bool, output_fd: int = 2) -> None:
        self._is_json = is_json
        self._output_fd = output_fd
        self._sources: dict[int, _Source] = {}
        self._pending = b""
        self._credit_s = _BURST_S
        self._credited_at = time.monotonic()

    @property
    def rest_s(self) -> float:
        """Seconds for which no pipe should be read, 0 mostly: what was read took too much of a core."""
        now = time.monotonic()
        self._credit_s = min(_BURST_S, self._credit_s + _SHARE * (now - self._credited_at))
        self._credited_at = now
        return max(0.0, -self._credit_s / _SHARE)

    @property
    def is_blocked(self) -> bool:
        """Whether lines wait for our standard error."""
        return bool(self._pending)

    @property
    def pipes(self) -> list[int]:
        """The reading ends."""
        return list(self._sources)

    def add(self, number: int, model: str, instance: int, pid: int) -> None:
        """Take on the reading end of a worker's output."""
        self._sources[number] = _Source(model, instance, pid)

    def pump(self, number: int) -> bool:
        """Relay what one pipe holds now; return False at its end."""
        started = time.process_time()
        try:
            return self._pump(number)
        finally:
            self._credit_s -= time.process_time() - started

    def _pump(self, number: int) -> bool:
        try:
            data = os.read(number, _READ_BYTES)
        except BlockingIOError:
            return True
        source = self._sources[number]
        *lines, source.rest = (source.rest + data).split(b"\n")
        if len(source.rest) > _LINE_MAX_BYTES or (not data and source.rest):
            lines.append(source.rest)
            source.rest = b""
        if lines:
            self._write(source, lines)
        return bool(data)

    def drain(self, pid: int) -> list[int]:
        """Relay what is left of a worker that ended; return its pipes, which a stray may still hold open."""
        numbers = [number for number, source in self._sources.items() if source.pid == pid]
        for number in numbers:
            for _ in range(_DRAIN_READS):
                if not _is_ready(number, select.POLLIN | select.POLLHUP) or not self.pump(number):
                    break
            source = self._sources[number]
            if source.rest:
                self._write(source, [source.rest])
        return numbers

    def end(self, number: int) -> None:
        """Close a pipe."""
        if self._sources.pop(number, None) is not None:
            os.close(number)

    def say(self, line: str) -> None:
        """Write a line of our own among theirs."""
        self._pending += (line + "\n").encode()
        self.flush()

    def _write(self, source: _Source, lines: list[bytes]) -> None:
        fields = {"time": timestamp(time.time()), "level": "info", "room": "wharf.model"}
        about = f"event=output model={quoted(source.model)} instance={source.instance}"
        head = " ".join(f"{key}={value}" for key, value in fields.items())
        out = []
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip("\r")
            if self._is_json:
                more = {"event": "output", "model": source.model, "instance": str(source.instance), "text": text}
                out.append(write_line(fields | more, is_json=True))
            else:
                out.append(f"{head} {about} text={quoted(text)}")
        self.say("\n".join(out))

    def flush(self) -> None:
        """Write what waits, as far as that goes without waiting; whole lines, where one piece has room for them."""
        while self._pending and _is_ready(self._output_fd, select.POLLOUT):
            count = self._pending.rfind(b"\n", 0, _PIPE_BUF) + 1 or _PIPE_BUF
            try:
                self._pending = self._pending[os.write(self._output_fd, self._pending[:count]) :]
            except BlockingIOError:
                return
            except OSError:  # a closed pipe takes no log; serving goes on
                self._pending = b""


def _is_ready(number: int, event: int) -> bool:
    """Ask poll, as select knows no number past 1,023."""
    poll = select.poll()
    poll.register(number, event)
    return bool(poll.poll(0))
