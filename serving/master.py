"""The master: one process that owns the port and the signals, with one child that serves.

Granian's or gunicorn's own master brings a dead child back and forwards signals; what is ours here is the port that
outlives a child, the journal of one life, closed streams, hang-ups, and a true exit status. The child is `server`'s.
Called by `cli`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import multiprocessing
import multiprocessing.process
import multiprocessing.util
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from serving import logs, memory
from serving.errors import BadRequestError
from serving.http.app import App
from serving.journal import make_journal_path
from serving.server import Server, threads_of
from serving.settings import SettingError, Settings
from serving.tuning import apply, read_machine, tune

log = logging.getLogger("wharf.master")

# Connections that may be open; each costs some 10 KiB, and one that is not accepted hangs.
MAX_CONNECTIONS = 16_384
# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1
# Both masters' own log lines go up to our handler instead of to one of theirs.
_LOGS_GO_UP: dict[str, object] = {"root": {}, "handlers": {}, "formatters": {}}


def serve(settings: Settings) -> int:
    """Run the master until a signal; return the exit status: 0 only when everything was drained and ended by itself."""
    settings.check()
    _hold_standard_streams()
    logs.configure(settings.log_level, settings.log_format)
    _tune(settings)
    on_ready, pid = _hangup_handling(), os.getpid()
    journal_path = make_journal_path(settings.cache_dir)
    try:
        with _hold_port(settings.host, settings.port) as holder:
            host, port = holder.getsockname()[:2]
            _check_grpc(settings, port)
            url = f"http://{_shown(settings.host)}:{port}"
            logs.announce(f"listening on {url} with {settings.http_server}", settings.log_format)
            run = _run_gunicorn if settings.http_server == "gunicorn" else _run_granian
            return run(settings, host, port, lambda: _start_child(settings, journal_path), on_ready)
    finally:
        if journal_path is not None and os.getpid() == pid:  # gunicorn's child comes by here too, at its end
            journal_path.unlink(missing_ok=True)


def _tune(settings: Settings, environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables of the numeric libraries, before any of them is imported by a child."""
    tuning = tune(read_machine(settings.cores), environ, is_fast=settings.fast_math)
    apply(tuning, environ)
    for sentence in tuning.warnings:
        logs.announce(sentence, settings.log_format)
    shown = " ".join(f"{each.name}={each.value}" for each in tuning.choices if each.value is not None)
    log.info("event=tuned %s", shown)


def _check_grpc(settings: Settings, http_port: int) -> None:
    """Say now what the server process could only die of, again and again: no libraries, a port that is taken."""
    if settings.grpc_port is None:
        return
    missing = [name for name in ("grpc", "tritonclient") if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingError(
            f"WHARF_GRPC_PORT is set and {' and '.join(missing)} cannot be imported: install wharf's extra `triton` "
            "(grpcio, tritonclient, protobuf) or unset it."
        )
    if settings.grpc_port == http_port:
        raise SettingError(f"WHARF_GRPC_PORT is {http_port}, which is the HTTP port (WHARF_PORT): choose another.")
    _try_port(settings.host, settings.grpc_port, "WHARF_GRPC_PORT").close()


def _hold_standard_streams() -> None:
    """Open /dev/null where the standard streams were closed: a number that a socket took would get our log lines."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest free number
        os.set_inheritable(opened, True)
    os.close(opened)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _hangup_handling() -> Callable[[], None]:
    """Return what a master calls once its signals are set: a hang-up then ends it like SIGTERM, not under nohup.

    Both masters would start a second server process beside the first; settings are read once, nothing is reloaded.
    """
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def on_ready() -> None:
        handler = signal.SIG_IGN if is_ignored else lambda *_: os.kill(os.getpid(), signal.SIGTERM)
        signal.signal(signal.SIGHUP, handler)

    return on_ready


def _start_child(settings: Settings, journal_path: Path | None) -> Server:
    """Build the server in its own process, right after the fork."""
    # What a terminal or `tini -g` sends to the whole group reaches the master alone, which passes it on: Granian's
    # child hangs on a second signal while it ends (one in ten with SIGINT and then the master's SIGTERM).
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # A master that was killed takes its child along, drained: nobody else would end it, and it holds the port.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    memory.tune_allocator()
    logs.configure(settings.log_level, settings.log_format)
    server = Server(settings, journal_path)
    server.start()
    return server


def _shown(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104


def _hold_port(host: str, port: int) -> socket.socket:
    """Bind without listening, so that the port (0: a free one) stays ours while the server process is replaced."""
    # Another server of ours shares its port too, and would get half of the requests: look without sharing first.
    _try_port(host, port, "WHARF_PORT").close()
    return _try_port(host, port, "WHARF_PORT", is_shared=True)


def _try_port(host: str, port: int, setting: str, *, is_shared: bool = False) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return _bind(family, address, is_shared=is_shared)
    except OSError as error:
        raise BadRequestError(
            f"Port {port} of {host} cannot be bound ({error.strerror}): stop what holds it or set {setting}."
        ) from None


def _bind(family: int, address: Any, *, is_shared: bool = False) -> socket.socket:
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(is_shared))
        held.bind(address)
    except OSError:
        held.close()
        raise
    return held


def _run_granian(
    settings: Settings, host: str, port: int, start_child: Callable[[], Server], on_ready: Callable[[], None]
) -> int:
    from granian.constants import HTTPModes, Interfaces
    from granian.log import LogLevels
    from granian.server.mp import MPServer

    codes: list[int | None] = []

    class Master(MPServer):  # type: ignore[misc]  # Granian ships no types for it
        def _stop_workers(self) -> None:
            workers = list(self.wrks)
            super()._stop_workers()
            codes.extend(_exit_code(worker.inner) for worker in workers)

        def signal_handler_interrupt(self, *args: Any, **kwargs: Any) -> None:
            if os.getpid() != self.pid:  # a child that has no handlers of its own yet: it serves nobody either
                os._exit(0)
            super().signal_handler_interrupt(*args, **kwargs)

        def _respawn_workers(self, *args: Any, **kwargs: Any) -> None:
            super()._respawn_workers(*args, **kwargs)
            if self.interrupt_signal:  # Granian clears the event after it has looked: a signal in between is not lost
                self.main_loop_interrupt.set()

        def shutdown(self, exit_code: int = 0) -> None:
            if self.interrupt_children and not self.interrupt_signal:
                log.error("event=crash_loop reason='the server process died twice within 5.5 s' hint='see above why'")
            super().shutdown(exit_code)

    def load() -> App:
        server = start_child()
        # Runs in the child after Granian has drained its connections.
        multiprocessing.util.Finalize(None, server.close, exitpriority=100)
        return server.app

    master = Master(
        "wharf",
        address=host,
        port=port,
        interface=Interfaces.WSGI,
        workers=1,
        blocking_threads=threads_of(settings),
        backlog=4096,
        backpressure=MAX_CONNECTIONS,
        http=HTTPModes.http1,
        websockets=False,
        log_level=LogLevels.error,
        log_dictconfig=_LOGS_GO_UP | {"loggers": {"_granian": {"handlers": [], "propagate": True}}},
        respawn_failed_workers=True,
        workers_kill_timeout=int(settings.shutdown_timeout_s) + 1,
    )
    master.on_startup(on_ready)
    master.serve(target_loader=load, wrap_loader=False)
    return 0 if all(code == 0 for code in codes) else 1


def _exit_code(process: multiprocessing.process.BaseProcess) -> int | None:
    """Return a dead child's exit status; Granian's watching thread may have reaped it and not noted the status yet."""
    for _ in range(1000):
        if process.exitcode is not None:
            break
        time.sleep(0.001)
    return process.exitcode


def _run_gunicorn(
    settings: Settings, host: str, port: int, start_child: Callable[[], Server], on_ready: Callable[[], None]
) -> int:
    from gunicorn.app.base import BaseApplication

    children: list[Server] = []  # in the child: its one server
    is_clean = multiprocessing.Value("b", False, lock=False)  # shared memory: the child sets it at its end

    def take_signals(_arbiter: object) -> None:
        on_ready()
        # Ctrl-C drains as under Granian; gunicorn's own would cut the requests in flight.
        signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))

    def end_child(_arbiter: object, _worker: object) -> None:
        is_clean.value = all(server.close() for server in children)

    class Master(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
        def load_config(self) -> None:
            values = {
                "bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
                "workers": 1,
                "worker_class": "gthread",
                "threads": threads_of(settings),
                "worker_connections": MAX_CONNECTIONS,
                "backlog": 4096,
                "reuse_port": True,
                "keepalive": 75,
                "graceful_timeout": int(settings.shutdown_timeout_s) + 1,
                "loglevel": "warning",
                "logconfig_dict": _LOGS_GO_UP | {"loggers": {"gunicorn.error": {"handlers": [], "propagate": True}}},
                # The optional C parser drops large keep-alive requests.
                "http_parser": "python",
                "when_ready": take_signals,
                "worker_exit": end_child,
            }
            for key, value in values.items():
                self.cfg.set(key, value)

        def load(self) -> App:
            is_clean.value = False
            children.append(start_child())
            return children[0].app

    try:
        Master().run()
    except SystemExit as end:
        if end.code:
            return int(end.code)
    return 0 if is_clean.value else 1
