"""The server's hold on its workers' processes: starts the zygote, asks it to fork and to kill, hears who ended.

One zygote for all models, started with the first of them. When it dies its workers die with it; each is then reported
as ended, and the next spawn starts another zygote. Knows processes, not models: what a worker does is `instance`'s.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving import memory
from serving.errors import LoadFailedError, UnavailableError
from serving.logs import quoted
from serving.workers.channel import Channel, ChannelError, Kind, Message, pair
from serving.workers.process_tree import descendants, kill_families

log = logging.getLogger("wharf.workers")

# torch's import takes 1-2 s on an idle machine, ten times that on a loaded one; TensorFlow's on an emulated CPU of a
# loaded machine took 73 s.
_START_TIMEOUT_S = 180.0
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from serving.workers.zygote import main; main()"
# The end of what an import said before it ended the zygote: a crash report with its stack.
_SAID_MAX_BYTES = 16 << 10
_ROOT = str(Path(__file__).resolve().parents[2])
# Not for people's code: what opens our management routes.
_SECRETS = ("WHARF_ADMIN_TOKEN",)
# One thread until a worker says otherwise: a zygote with OpenBLAS' pool in it could not fork.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
_QUIET = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Idle threads of OpenBLAS spin for 2**26 cycles, and took 70 ms from a model's first answer; 2**4 is its least.
    "OPENBLAS_THREAD_TIMEOUT": "4",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a process is to be: `python` another interpreter (empty: ours), `processes` how many it may become."""

    name: str
    instance: int = 0
    python: str = ""
    is_spawned: bool = False
    environ: Mapping[str, str] | None = None
    processes: int = 0


class WorkerProcess:
    """One process, as the zygote tells of it. `status` is that of `subprocess`: negative for a signal."""

    def __init__(self, number: int, channel: Channel, on_exit: Callable[[], None]) -> None:
        self.number = number
        self.channel = channel
        self.pid = 0
        self.inherited_file_bytes = 0  # what its parent had mapped
        self.status: int | None = None
        self.reason = ""
        self.spawned = threading.Event()  # and its pid is known
        self.exited = threading.Event()
        self._on_exit = on_exit

    def ended(self, status: int, reason: str) -> None:
        """Note its end and tell who waits."""
        self.status, self.reason = status, reason
        self.exited.set()
        try:
            self._on_exit()
        except Exception:  # the ends of all others are told by this very thread
            log.exception("event=worker_end_not_handled pid=%d", self.pid)

    def touched_bytes(self) -> int:
        """Return what it has in memory, shared or not: a cheap figure that tells whether it grew."""
        return memory.touched_bytes(self.pid) if self.pid and not self.exited.is_set() else 0

    def held_bytes(self) -> int:
        """Return what it added to the machine's memory: private pages, its share of files that it maps, its children.

        A child counts with its share of all memory: one that serves (an engine) is a program of its own.
        """
        if not self.pid or self.exited.is_set():
            return 0
        theirs = sum(map(memory.share_bytes, descendants(self.pid)))
        return memory.own_bytes(self.pid, self.inherited_file_bytes) + theirs


class Supervisor:
    """All worker processes of this server."""

    def __init__(
        self, preload: Sequence[str], log_format: str = "text", environ: Mapping[str, str] | None = None
    ) -> None:
        self._preload = tuple(preload)
        self._log_format = log_format
        self._environ = dict(os.environ if environ is None else environ)
        self._lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._processes: dict[int, WorkerProcess] = {}
        self._channel: Channel | None = None
        self._zygote: subprocess.Popen[bytes] | None = None
        self._is_closed = False
        self.modules: frozenset[str] = frozenset()
        self._file_bytes = 0  # of the zygote

    @property
    def zygote_pid(self) -> int | None:
        """The zygote's process, None before the first start."""
        return self._zygote.pid if self._zygote else None

    def start(self) -> bool:
        """Start the zygote if none runs; return whether this call did. Raises `LoadFailedError`."""
        with self._start_lock:
            if self._is_closed:
                raise UnavailableError("The server is shutting down: send the request to another one.")
            if self._channel is not None:
                return False
            started = time.monotonic()
            channel, zygote, ready = self._start_zygote()
            self.modules = frozenset(ready["modules"])
            self._file_bytes = memory.file_bytes(self._zygote.pid) if self._zygote else 0
            self._channel = channel
            threading.Thread(target=self._listen, args=(channel, zygote), name="zygote", daemon=True).start()
            loaded = ",".join(f"{name}-{version}" for name, version in ready["preloaded"].items())
            seconds = time.monotonic() - started
            log.info("event=zygote_started pid=%d seconds=%.2f preloaded=%s", self.zygote_pid, seconds, loaded)
            return True

    def spawn(self, wish: Wish, on_exit: Callable[[], None], *, reply_max_bytes: int) -> WorkerProcess:
        """Ask for a process and return its end of the channel at once; `on_exit` is called once, from another thread.

        Raises `LoadFailedError` when no zygote can be started.
        """
        self.start()
        channel, theirs = pair(body_max_bytes=reply_max_bytes)
        process = WorkerProcess(next(self._numbers), channel, on_exit)
        process.inherited_file_bytes = self._file_bytes
        meta = {
            "name": wish.name,
            "instance": wish.instance,
            "python": wish.python or (sys.executable if wish.is_spawned else ""),
            "environ": dict(wish.environ or {}),
            "processes": wish.processes,
        }
        with theirs, self._lock:
            self._processes[process.number] = process
            try:
                if self._channel is None:
                    raise ChannelError("it ended")
                self._channel.send(Kind.SPAWN, process.number, meta, fds=[theirs.fileno()])
            except ChannelError as error:
                del self._processes[process.number]
                channel.close()
                raise LoadFailedError(f"Model '{wish.name}' gets no worker: the zygote is gone ({error}).") from None
        return process

    def kill(self, process: WorkerProcess) -> None:
        """End a process, its group and its session by SIGKILL; `process.exited` tells when that is done."""
        with self._lock:
            if self._channel is not None and not process.exited.is_set():
                try:
                    self._channel.send(Kind.KILL, process.number)
                except ChannelError:  # the zygote died, and takes it along
                    return

    def held_bytes(self) -> int:
        """Return the zygote's share of memory in bytes: what its imports cost once, for all workers."""
        return memory.share_bytes(self._zygote.pid) if self._zygote and self._zygote.poll() is None else 0

    def close(self) -> None:
        """End the zygote, and with it every worker that is left."""
        with self._start_lock:
            self._is_closed = True
            with self._lock:
                if self._channel is not None:
                    self._channel.close_for_both()
            if self._zygote is not None:
                try:
                    self._zygote.wait(5)
                except subprocess.TimeoutExpired:
                    self._zygote.kill()
                    self._zygote.wait()

    def _start_zygote(self) -> tuple[Channel, subprocess.Popen[bytes], dict[str, dict[str, str]]]:
        channel, theirs = pair()
        environ = {name: value for name, value in self._environ.items() if name not in _SECRETS}
        names = ",".join(self._preload)
        said_fd = os.memfd_create("wharf-said")  # ours too: it outlives an import that ends the zygote
        fds = [theirs.fileno(), said_fd]
        try:
            with theirs:
                self._zygote = zygote = subprocess.Popen(  # noqa: S603  our own interpreter and our own words
                    [sys.executable, "-c", _BOOT, _ROOT, *map(str, fds), self._log_format, names],
                    pass_fds=fds,
                    env=environ | _ONE_THREAD | _QUIET,
                    stdin=subprocess.DEVNULL,
                    cwd="/",
                )
            return channel, zygote, channel.receive(time.monotonic() + _START_TIMEOUT_S).meta
        except ChannelError as error:
            channel.close()
            zygote.kill()
            status = zygote.wait()
            for line in _tail(said_fd).splitlines():
                log.error("event=import_output preload=%s text=%s", names, quoted(line))
            raise LoadFailedError(
                f"The zygote that imports {names or 'nothing'}, and that workers are forked from, did not start "
                f"({error}, status {status}): see event=import_output in the log, and leave what cannot be imported "
                "out of WHARF_PRELOAD, or out of the image where that does not name it."
            ) from None
        finally:
            os.close(said_fd)

    def _listen(self, channel: Channel, zygote: subprocess.Popen[bytes]) -> None:
        try:
            while True:
                self._hear(channel.receive())
        except ChannelError as error:
            with self._lock:
                self._channel = None
                orphans, self._processes = list(self._processes.values()), {}
            channel.close()
            status = zygote.wait()  # of this one: there may be another by now
            if not self._is_closed:
                figures = (",".join(self._preload), status, len(orphans), str(error))
                log.error("event=zygote_ended preload=%s status=%s workers=%d error=%r", *figures)
            # They died with it; what they started may not have.
            kill_families([process.pid for process in orphans if process.pid])
            for process in orphans:
                process.ended(-9, "the process that it was forked from died")

    def _hear(self, message: Message) -> None:
        if message.kind is Kind.SPAWNED:
            if process := self._processes.get(message.call):
                process.pid = int(message.meta["pid"])
                process.spawned.set()
        elif message.kind is Kind.EXITED:
            with self._lock:
                process = self._processes.pop(message.call, None)
            if process is not None:
                process.ended(int(message.meta["status"]), str(message.meta["reason"]))


def _tail(number: int) -> str:
    """Return the end of an open file."""
    size = os.fstat(number).st_size
    return os.pread(number, _SAID_MAX_BYTES, max(0, size - _SAID_MAX_BYTES)).decode("utf-8", "replace")


def describe_end(status: int | None, reason: str) -> str:
    """Say how a process ended: "was killed by signal 9 (Killed)", "exited with status 3"."""
    if reason:
        return f"was ended: {reason}"
    if status is None:
        return "closed its channel"
    if status < 0:
        return f"was killed by signal {-status} ({signal.strsignal(-status)})"
    return f"exited with status {status}"
