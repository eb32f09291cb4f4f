"""The process that workers are forked from: it has imported what they need, ran no operation, opened no device.

Single-threaded, which it asserts at each fork; where a library started a thread after all, workers are spawned instead,
with a log line. It forks, reaps, kills whole groups, counts processes and relays output (`relay`); it never reads a
model. When the server goes, its socket ends, and the zygote kills its children and goes too.

`supervisor` starts it and holds the other end of its channel.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import math
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from serving.logs import quoted, timestamp, write_line
from serving.workers import main as worker_main
from serving.workers.channel import Channel, ChannelError, Kind, Message
from serving.workers.process_setup import find_blas, flush_output, set_title
from serving.workers.process_tree import children, families, kill_families, kill_strays
from serving.workers.relay import Relay

# From linux/prctl.h.
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_STDERR = 2
# A worker's exit status where there was none (sysexits.h: the system said no).
_OS_ERROR = 71
# How often processes are counted: a fork bomb makes some hundred in that time on two cores.
_TICK_S = 0.2
# A worker has ended when all that it started has: SIGKILL takes milliseconds, and longer in a disk's hands.
_LOOK_AGAIN_S, _LINGER_MAX_S = 0.005, 2.0
# What runs in a foreign interpreter, or in a fresh one of ours: this package and nothing else of our environment.
_BOOT = """
import sys, types
for name, path in (("serving", sys.argv[2]), ("serving.workers", sys.argv[2] + "/workers")):
    module = types.ModuleType(name)
    module.__path__ = [path]
    sys.modules[name] = module
from serving.workers.main import main
main(int(sys.argv[1]))
"""
_PACKAGE = str(Path(__file__).resolve().parent.parent)


@dataclass
class _Child:
    number: int
    name: str
    process_limit: int
    reason: str = ""
    ended_at: float = 0.0


class Zygote:
    """The loop of the process."""

    def __init__(self, channel: Channel, *, log_format: str) -> None:
        self._channel = channel
        self._is_json = log_format == "json"
        self._children: dict[int, _Child] = {}
        self._relay = Relay(is_json=self._is_json)
        self._poll = select.poll()
        self._is_held_back = False
        self._is_blocked = False
        self._pid = os.getpid()
        self._total_processes = 0
        self._next_tick = 0.0
        self._is_ending = False  # somebody has ended and left processes behind

    def run(self) -> None:
        """Serve until the server is gone."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._poll.register(self._channel.fileno(), select.POLLIN)
        self._poll.register(wake_read, select.POLLIN)
        try:
            while True:
                self._turn(wake_read)
        except ChannelError:
            self._end_all()

    def _turn(self, wake_read: int) -> None:
        wait_s = _LOOK_AGAIN_S if self._is_ending else _TICK_S
        if self._is_held_back and not self._is_blocked:
            wait_s = min(wait_s, self._relay.rest_s)
        ready = {number for number, _ in self._poll.poll(math.ceil(wait_s * 1000) if self._children else None)}
        if self._channel.fileno() in ready:
            ready.discard(self._channel.fileno())
            while self._channel.has_input():
                self._obey(self._channel.receive())
        if wake_read in ready:
            ready.discard(wake_read)
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 4096)
        for number in () if self._is_held_back else ready - {_STDERR}:
            if not self._relay.pump(number):
                self._close_pipe(number)
        self._reap()
        if self._children and time.monotonic() > self._next_tick:
            self._next_tick = time.monotonic() + _TICK_S
            self._tick()
        self._hold_back()

    def _hold_back(self) -> None:
        """Read no pipe while nobody takes what was read or the log has had its share, and go on after that."""
        self._relay.flush()
        if self._is_blocked != self._relay.is_blocked:
            self._is_blocked = self._relay.is_blocked
            if self._is_blocked:
                self._poll.register(_STDERR, select.POLLOUT)
            else:
                self._poll.unregister(_STDERR)
        if self._is_held_back != (self._is_blocked or self._relay.rest_s > 0):
            self._is_held_back = not self._is_held_back
            for number in self._relay.pipes:
                if self._is_held_back:
                    self._poll.unregister(number)
                else:
                    self._poll.register(number, select.POLLIN)

    def _close_pipe(self, number: int) -> None:
        if not self._is_held_back:
            self._poll.unregister(number)
        self._relay.end(number)

    def _obey(self, message: Message) -> None:
        if message.kind is Kind.SPAWN:
            self._spawn(message)
        elif message.kind is Kind.KILL:
            pid = next((pid for pid, child in self._children.items() if child.number == message.call), None)
            if pid is not None:  # not reaped yet, so the number is still its own
                kill_families([pid])

    def _spawn(self, message: Message) -> None:
        wish, (channel_fd,) = message.meta, message.fds
        try:
            pid, how = self._fork(wish, channel_fd)
        except OSError as error:  # no more processes, no more files: one model's trouble, not everybody's
            meta = {"status": _OS_ERROR, "reason": f"no process could be started ({error.strerror})"}
            self._channel.send(Kind.EXITED, message.call, meta)
            return
        finally:
            os.close(channel_fd)
        self._children[pid] = _Child(message.call, wish["name"], wish["processes"])
        self._channel.send(Kind.SPAWNED, message.call, {"pid": pid, "how": how})

    def _fork(self, wish: dict[str, Any], channel_fd: int) -> tuple[int, str]:
        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208  no Path for each
        is_fork = not wish["python"] and threads == 1
        if threads != 1:
            self._say("zygote_has_threads", f"threads={threads} model={quoted(wish['name'])} consequence=spawned")
        output_read, output_write = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_born(wish, channel_fd, output_write, is_fork=is_fork)
        except OSError:
            os.close(output_read)
            raise
        finally:
            os.close(output_write)
        os.set_blocking(output_read, False)
        self._relay.add(output_read, wish["name"], wish["instance"], pid)
        if not self._is_held_back:
            self._poll.register(output_read, select.POLLIN)
        return pid, "forked" if is_fork else "spawned"

    def _be_born(self, wish: dict[str, Any], channel_fd: int, output_fd: int, *, is_fork: bool) -> NoReturn:
        """Become the worker; nothing of the zygote's loop runs in it any more."""
        try:
            os.setsid()
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._pid:  # the zygote died before that
                os._exit(0)
            signal.set_wakeup_fd(-1)
            for stop in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
                signal.signal(stop, signal.SIG_DFL)
            for number, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output_fd), (2, output_fd)):
                os.dup2(source, number)
            channel_fd = _keep_only(channel_fd)
            if is_fork:
                worker_main.main(channel_fd)
            _execute(wish["python"] or sys.executable, channel_fd, wish["environ"])
        except BaseException as error:
            os.write(2, f"worker not started: {type(error).__name__}: {error}\n".encode())
        finally:  # nothing may return into the zygote's stack
            os._exit(70)  # sysexits.h: internal software error

    def _reap(self) -> None:
        """Note which workers ended, and reap what they left."""
        self._is_ending = False
        for pid in list(self._children):
            # It stays unreaped until all that it started is gone: its number is nobody else's so long.
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                self._end(pid)
        for pid in set(children()).difference(self._children):
            os.waitpid(pid, os.WNOHANG)

    def _end(self, pid: int) -> None:
        child = self._children[pid]
        child.ended_at = child.ended_at or time.monotonic()
        left = kill_families([pid]) + kill_strays(self._children)
        if left and time.monotonic() < child.ended_at + _LINGER_MAX_S:
            self._is_ending = True
            return
        del self._children[pid]
        _, status = os.waitpid(pid, 0)
        for number in self._relay.drain(pid):
            self._close_pipe(number)
        meta = {"status": os.waitstatus_to_exitcode(status), "reason": child.reason}
        self._channel.send(Kind.EXITED, child.number, meta)

    def _end_all(self) -> None:
        """Leave nobody behind: the server is gone."""
        until = time.monotonic() + _LINGER_MAX_S
        while kill_families(self._children) + kill_strays(self._children) and time.monotonic() < until:
            time.sleep(_LOOK_AGAIN_S)

    def _tick(self) -> None:
        kill_strays(self._children)
        # One cheap figure for the whole machine says whether anybody needs to be counted.
        total = int(Path("/proc/loadavg").read_text().split()[3].split("/")[1])
        least = min((child.process_limit for child in self._children.values() if child.process_limit), default=0)
        if least and total > self._total_processes + least // 4:
            self._total_processes = total
            self._refuse_bombs()
        self._total_processes = min(self._total_processes, total) or total

    def _refuse_bombs(self) -> None:
        for pid, family in families(self._children).items():
            child, count = self._children[pid], sum(family.values())
            if child.process_limit and count > child.process_limit:
                child.reason = f"it had {count} processes and threads and {child.process_limit} are allowed"
                figures = f"processes={count} limit={child.process_limit}"
                self._say("too_many_processes", f"model={quoted(child.name)} {figures}")
                kill_families([pid])

    def _say(self, event: str, rest: str) -> None:
        fields = {"time": timestamp(time.time()), "level": "warning", "room": "wharf.zygote"}
        self._relay.say(write_line(fields | {"message": f"event={event} {rest}"}, is_json=self._is_json))


def _keep_only(channel_fd: int) -> int:
    """Close every file of the zygote's but the standard three and the channel; return the channel's number, 3."""
    if channel_fd != 3:
        os.dup2(channel_fd, 3)
    os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return 3


def _execute(python: str, channel_fd: int, environ: dict[str, str]) -> NoReturn:
    os.set_inheritable(channel_fd, True)
    os.execve(python, [python, "-c", _BOOT, str(channel_fd), _PACKAGE], os.environ | environ)  # noqa: S606  no shell wanted


def preload(names: Sequence[str], said_fd: int, *, is_json: bool = False) -> dict[str, str]:
    """Import what is installed of `names`; return the versions of what was imported, and print what failed.

    What they write meanwhile goes to the file `said_fd`: `supervisor` finds it there if an import ends this process.
    """
    found = {}
    for name in names:
        try:
            with _said_by(name, said_fd, is_json=is_json):
                module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not name.startswith(str(error.name)):
                os.write(2, f"preload of {name} failed: {error}\n".encode())
        except Exception as error:  # a broken library is no reason to serve nothing
            os.write(2, f"preload of {name} failed: {type(error).__name__}: {error}\n".encode())
        else:
            found[name] = str(getattr(module, "__version__", ""))
    return found


@contextlib.contextmanager
def _said_by(name: str, said_fd: int, *, is_json: bool) -> Iterator[None]:
    """Make lines of the log of what a library writes to its standard error while it is imported (TensorFlow does)."""
    stderr = os.dup(_STDERR)
    os.dup2(said_fd, _STDERR)
    try:
        yield
    finally:
        flush_output()
        os.dup2(stderr, _STDERR)
        os.close(stderr)
        text = os.pread(said_fd, os.fstat(said_fd).st_size, 0)
        os.truncate(said_fd, 0)
        os.lseek(said_fd, 0, os.SEEK_SET)
        for line in text.decode("utf-8", "replace").splitlines():
            fields = {"time": timestamp(time.time()), "level": "info", "room": "wharf.zygote"}
            said = fields | {"message": f"event=import_output module={name} text={quoted(line)}"}
            os.write(_STDERR, (write_line(said, is_json=is_json) + "\n").encode())


def main() -> None:
    """Run as `python -c ... FD SAID_FD FORMAT NAMES`."""
    number, said_fd, log_format, names = sys.argv[1:5]
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)  # a terminal's whole group gets them; the server decides when we end
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # each worker's output is one; 1,024 is the usual limit
    set_title("wharf zygote")
    channel = Channel(socket.socket(fileno=int(number)))
    loaded = preload([name for name in names.split(",") if name], int(said_fd), is_json=log_format == "json")
    os.close(int(said_fd))
    flush_output()  # what a library printed at its import, each worker would print again
    find_blas()
    # Forked pages stay shared only while no collection writes into their headers.
    gc.collect()
    gc.freeze()
    gc.disable()
    channel.send(
        Kind.READY, 0, {"preloaded": loaded, "modules": sorted({name.partition(".")[0] for name in sys.modules})}
    )
    Zygote(channel, log_format=log_format).run()
