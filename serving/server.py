"""The composition root: settings become rooms, rooms become an app, an app becomes a server with a life.

The master (Granian's or gunicorn's) has one child, the server process; it brings a dead one back and forwards signals.
Everything that models use is built in the child, after the fork. This is the one room that reads the environment and
touches signals; what a request does is decided in the rooms below.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import multiprocessing.util
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving import logs, memory
from serving.backends.base import Backend
from serving.backends.fake import FakeBackend
from serving.backends.onnx import OnnxBackend
from serving.backends.torch import TorchBackend
from serving.cores import CoreBudget
from serving.errors import BadRequestError, ServingError
from serving.http.admin import Guard, make_admin
from serving.http.admission import Admission
from serving.http.app import App
from serving.http.replies import RequestIds
from serving.http.sagemaker import InvokeSettings, SageMakerRoutes
from serving.journal import Journal, make_journal_path
from serving.ledger import Ledger, format_bytes
from serving.manager import Limits, ModelManager
from serving.metrics import Gauges, Metrics
from serving.repository.source import ModelSource
from serving.repository.store import Store, UnpackLimits
from serving.settings import Settings, Share
from serving.usage import Usage

log = logging.getLogger("wharf.server")

# Threads that admission never takes: they answer /ping, the list, DELETE and refusals while all invocations are busy.
RESERVED_THREADS = 16
# Connections that may be open; each costs some 10 KiB, and one that is not accepted hangs.
MAX_CONNECTIONS = 16_384
SINGLE_MODEL = "model"
# Both masters' own log lines go up to our handler instead of to one of theirs.
_LOGS_GO_UP: dict[str, object] = {"root": {}, "handlers": {}, "formatters": {}}


class Server:
    """One server process: all rooms, wired."""

    def __init__(self, settings: Settings, journal_path: Path | None) -> None:
        self.settings = settings
        limits = memory.read_limits()
        self.metrics = Metrics()
        cores = CoreBudget(int(settings.cores or limits.cores))
        admission = Admission(
            settings.max_in_flight, settings.max_body_bytes, _share(settings.body_memory, limits.memory_bytes)
        )
        self.source = _make_source(settings)
        backends = _make_backends(settings, cores.cores)
        ledger = _make_ledger(settings, limits)
        self.manager = ModelManager(
            self.source,
            backends,
            ledger,
            self.metrics,
            is_platform=settings.is_platform,
            limits=Limits(
                settings.request_timeout_s,
                settings.load_timeout_s,
                settings.drain_timeout_s,
                settings.load_concurrency,
            ),
            journal=Journal(journal_path),
        )
        usage = Usage(limits, cores, admission, settings.cache_dir)
        self.metrics.gauges = lambda: _merge(self.manager.gauges(), usage.read())
        self._healthy = threading.Event()
        guard = Guard(None if settings.is_platform else settings.admin_token)
        routes = SageMakerRoutes(
            self.manager,
            cores,
            admission,
            InvokeSettings(settings.request_timeout_s, settings.default_accept),
            self._default_model,
        )
        request_id = RequestIds()
        admin = make_admin(self.manager, self.metrics, guard, self._available, request_id)
        access_log = logs.AccessLog(settings.access_log, settings.log_format)
        self.app = App(routes, admin, guard, request_id, self.metrics, access_log, self._healthy.is_set)
        log.info(
            "event=started pid=%d mode=%s root=%s budget=%s limit=%s limit_source=%r cores=%d threads=%d",
            *(os.getpid(), "platform" if settings.is_platform else "standalone", settings.model_root),
            *(format_bytes(ledger.budget_bytes), format_bytes(limits.memory_bytes), limits.memory_source),
            *(cores.cores, settings.max_in_flight + RESERVED_THREADS),
        )

    def start(self) -> None:
        """Restore what a killed process had loaded; load the one model of a single-model endpoint."""
        self.manager.restore()
        if self.source.single_dir is None:
            self._healthy.set()
        else:
            threading.Thread(target=self._load_single, name="single-model", daemon=True).start()
        # What is imported now stays: collections after each unload need not walk it.
        gc.collect()
        gc.freeze()

    def close(self) -> bool:
        """Drain and unload within the shutdown limit; return whether all of it ended."""
        is_clean = self.manager.close(self.settings.shutdown_timeout_s)
        self.source.close()
        log.info("event=stopped clean=%s", is_clean)
        self.app.flush()
        return is_clean

    def _load_single(self) -> None:
        try:
            self.manager.load(SINGLE_MODEL, str(self.source.single_dir))
        except ServingError as error:
            # Restored from the journal is as good; anything else keeps /ping at 503, as an endpoint's health check
            # wants.
            if not any(name == SINGLE_MODEL for name, _ in self.manager.loaded()):
                log.error("event=single_model_failed error=%r", error.message)
                return
        self._healthy.set()

    def _default_model(self) -> str:
        if self.settings.default_model:
            return self.settings.default_model
        if self.source.single_dir is not None:
            return SINGLE_MODEL
        names = [] if self.settings.is_platform else self.source.available()
        if len(names) != 1:
            raise BadRequestError(
                "Which model? Send the X-Amzn-SageMaker-Target-Model header, call /models/NAME/invoke, or set "
                f"WHARF_DEFAULT_MODEL: there are {len(names)} models in the repository."
            )
        return names[0]

    def _available(self) -> list[dict[str, object]]:
        loaded = {name for name, _ in self.manager.loaded()}
        models: list[dict[str, object]] = []
        for name in self.source.available():
            # A name that is not UTF-8, or that went away meanwhile, does not hide the others.
            with contextlib.suppress(ServingError):
                models.append({"modelName": name, "modelUrl": self.source.find(name)[1], "loaded": name in loaded})
        return models


def _share(value: int | Share, whole_bytes: int) -> int:
    return int(value.percent / 100 * whole_bytes) if isinstance(value, Share) else value


def _make_source(settings: Settings) -> ModelSource:
    single_dir = settings.base_dir / "model"
    has_single = not settings.is_platform and _holds_something(single_dir)
    limits = UnpackLimits(settings.unpack_max_bytes, settings.unpack_max_files, settings.unpack_max_ratio)
    return ModelSource(
        settings.model_root,
        Store(settings.cache_dir, settings.disk_budget_bytes, limits),
        single_dir if has_single else None,
        allow_fake=settings.fake_backend,
    )


def _holds_something(folder: Path) -> bool:
    """Say whether there is anything in a folder; one that may not be read counts, so that its load says why not."""
    try:
        return any(folder.iterdir())
    except PermissionError:
        return True
    except OSError:
        return False


def _make_backends(settings: Settings, cores: int) -> dict[str, Backend]:
    torch_backend = TorchBackend(settings.device, cores)
    return {
        "torchscript": torch_backend,
        "torch_export": torch_backend,
        "onnx": OnnxBackend(settings.device, cores),
        "fake": FakeBackend(),
    }


def _make_ledger(settings: Settings, limits: memory.Limits) -> Ledger:
    budget_bytes = _share(settings.memory_budget, limits.memory_bytes)
    if not isinstance(settings.memory_budget, Share):
        return Ledger(budget_bytes)
    base_bytes = memory.resident_bytes() + memory.resident_bytes(os.getppid())
    return Ledger(max(0, budget_bytes - base_bytes), pays_for_runtimes=True)


def _merge(ours: Gauges, scalars: dict[str, tuple[str, float]]) -> Gauges:
    return Gauges(ours.scalars | scalars, ours.model_bytes, ours.model_in_flight)


def serve(settings: Settings) -> int:
    """Run the master until a signal; return the exit status: 0 only when everything was drained and ended by itself."""
    settings.check()
    _hold_standard_streams()
    logs.configure(settings.log_level, settings.log_format)
    if settings.grpc_port is not None:
        log.warning("event=setting_without_effect name=WHARF_GRPC_PORT reason='this version has no gRPC server'")
    on_ready = _hangup_handling()
    journal_path = make_journal_path(settings.cache_dir)
    try:
        with _hold_port(settings.host, settings.port) as holder:
            host, port = holder.getsockname()[:2]
            url = f"http://{_shown(settings.host)}:{port}"
            logs.announce(f"listening on {url} with {settings.http_server}", settings.log_format)
            run = _run_gunicorn if settings.http_server == "gunicorn" else _run_granian
            return run(settings, host, port, lambda: _start_child(settings, journal_path), on_ready)
    finally:
        if journal_path is not None:
            journal_path.unlink(missing_ok=True)


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
    memory.tune_allocator()
    logs.configure(settings.log_level, settings.log_format)
    server = Server(settings, journal_path)
    server.start()
    return server


def _shown(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104


def _hold_port(host: str, port: int) -> socket.socket:
    """Bind without listening, so that the port (0: a free one) stays ours while the server process is replaced."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # Another server of ours shares its port too, and would get half of the requests: look without sharing first.
        _bind(family, address).close()
        return _bind(family, address, is_shared=True)
    except OSError as error:
        raise BadRequestError(
            f"Port {port} of {host} cannot be bound ({error.strerror}): stop what holds it or set WHARF_PORT."
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
            codes.extend(worker.inner.exitcode for worker in workers)

        def shutdown(self, exit_code: int = 0) -> None:
            if self.interrupt_children and not self.interrupt_signal:
                log.error("event=crash_loop reason='the server process died twice within 5.5 s' hint='see above why'")
            super().shutdown(exit_code)

    def load() -> App:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the master decides what a hang-up of the terminal means
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
        blocking_threads=settings.max_in_flight + RESERVED_THREADS,
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


def _run_gunicorn(
    settings: Settings, host: str, port: int, start_child: Callable[[], Server], on_ready: Callable[[], None]
) -> int:
    from gunicorn.app.base import BaseApplication

    children: list[Server] = []  # in the child: its one server
    is_clean = multiprocessing.Value("b", False, lock=False)  # shared memory: the child sets it at its end

    def end_child(_arbiter: object, _worker: object) -> None:
        is_clean.value = all(server.close() for server in children)

    class Master(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
        def load_config(self) -> None:
            values = {
                "bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
                "workers": 1,
                "worker_class": "gthread",
                "threads": settings.max_in_flight + RESERVED_THREADS,
                "worker_connections": MAX_CONNECTIONS,
                "backlog": 4096,
                "reuse_port": True,
                "keepalive": 75,
                "graceful_timeout": int(settings.shutdown_timeout_s) + 1,
                "loglevel": "warning",
                "logconfig_dict": _LOGS_GO_UP | {"loggers": {"gunicorn.error": {"handlers": [], "propagate": True}}},
                # The optional C parser drops large keep-alive requests.
                "http_parser": "python",
                "when_ready": lambda _arbiter: on_ready(),
                "worker_exit": end_child,
            }
            for key, value in values.items():
                self.cfg.set(key, value)

        def load(self) -> App:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the master decides what a hang-up of the terminal means
            is_clean.value = False
            children.append(start_child())
            return children[0].app

    try:
        Master().run()
    except SystemExit as end:
        if end.code:
            return int(end.code)
    return 0 if is_clean.value else 1
