"""The composition root of one server process: settings become rooms, rooms become an app.

Everything that models use is built here, in the child of `master`, after the fork. What a request does is decided in
the rooms below; how the process is started, watched and ended is the master's business.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from serving import logs, memory
from serving.catalog import Catalog
from serving.cores import CoreBudget
from serving.dev_shm import shortage_for_all
from serving.devices import DeviceMeter, find_devices, say_devices
from serving.errors import BadRequestError, ServingError
from serving.http.admin import Guard, make_admin
from serving.http.admission import Admission, Gate
from serving.http.app import App
from serving.http.bodies import Bodies
from serving.http.replies import RequestIds
from serving.http.sagemaker import InvokeSettings, SageMakerRoutes, check_name
from serving.http.tfs import TfsRoutes
from serving.http.v2 import EXTENSIONS, V2Routes
from serving.inference import Inference
from serving.journal import Journal
from serving.ledger import Ledger, format_bytes
from serving.manager import ModelManager
from serving.metrics import Gauges, Metrics
from serving.repository.source import ModelSource
from serving.repository.store import Store, UnpackLimits
from serving.repository.surroundings import Surroundings
from serving.residents import Limits
from serving.runtimes import Runtimes, with_device
from serving.scales import Scales
from serving.setting_values import Share
from serving.settings import Settings
from serving.shared_memory import Regions
from serving.statistics import Statistics
from serving.triton_metrics import triton_families
from serving.usage import Machine, Usage, pending

if TYPE_CHECKING:
    from serving.grpc.listener import Listener

log = logging.getLogger("wharf.server")

# Threads for management calls (a load and a drain hold theirs for minutes), and those that neither they nor invocations
# ever take: they answer /ping, the list and refusals while everything else is busy.
MANAGEMENT_THREADS = 64
RESERVED_THREADS = 16
SINGLE_MODEL = "model"
"""What the model of a single-model endpoint is called where nobody names it."""


class Server:
    """One server process: all rooms, wired."""

    def __init__(self, settings: Settings, journal_path: Path | None, environ: Mapping[str, str] = os.environ) -> None:
        meter = find_devices(environ)
        settings = self.settings = with_device(settings, meter)
        limits = memory.read_limits()
        self.metrics = Metrics()
        cores = CoreBudget(int(settings.cores or limits.cores))
        body_memory_bytes = _share(settings.body_memory, limits.memory_bytes)
        admission = Admission(settings.max_in_flight, settings.max_body_bytes, body_memory_bytes)
        self._single_name, single_dir = _single(settings)
        self.source = _make_source(settings, limits, environ, single_dir)
        self._runtimes = Runtimes(settings, cores, environ)
        ledger = _make_ledger(settings, limits)
        self.manager = ModelManager(
            *(self.source, self._runtimes.by_format, ledger, self.metrics),
            is_platform=settings.is_platform,
            limits=_limits(settings),
            journal=Journal(journal_path),
            scales=_make_scales(settings, meter),
        )
        usage = Usage(limits, cores, admission, settings.cache_dir, self._runtimes.outside_bytes, meter)
        self.metrics.gauges = lambda: _merge(self.manager.gauges(), usage.read())
        self._healthy = threading.Event()
        guard = Guard(None if settings.is_platform else settings.admin_token)
        self.statistics = Statistics()
        self.inference = Inference(
            self.manager,
            Catalog(self.manager, self.source, self.statistics),
            *(cores, self.statistics, settings.request_timeout_s),
            Regions(is_on=settings.shared_memory, max_bytes=body_memory_bytes),
        )
        self._runtimes.ensembles.members = self.inference
        logs.add_filter(self.inference.logging)
        machine = Machine()
        self.metrics.more = lambda: triton_families(
            self.statistics, pending(self.manager), machine.read(), meter.devices()
        )
        routes = SageMakerRoutes(
            self.manager,
            cores,
            Bodies(admission),
            self.inference,
            InvokeSettings(settings.request_timeout_s, settings.default_accept, self._own_name),
            self._default_model,
        )
        request_id = RequestIds()
        admin = make_admin(self.manager, self.metrics, guard, self._available, request_id)
        gate = Gate(MANAGEMENT_THREADS)
        v2_routes = V2Routes(self.inference, Bodies(admission), gate, guard, self._is_healthy)
        access_log = logs.AccessLog(settings.access_log, settings.log_format)
        self.app = App(
            *(routes, admin, gate, guard, request_id, self.metrics, access_log),
            self._ailment,
            {"/v2": v2_routes, "/v1": TfsRoutes(self.inference, Bodies(admission), gate, self._own_name)},
        )
        self._grpc = self._make_grpc(admission, guard)
        _warn(settings, limits, ledger)
        _say_started(settings, limits, ledger, cores)
        say_devices(meter, environ, is_wanted=settings.device == "cuda")

    def start(self) -> None:
        """Restore what a killed process had loaded; load the one model of a single-model endpoint."""
        self.manager.restore()
        if self.settings.warm_workers:
            threading.Thread(target=self._warm, name="warm-workers", daemon=True).start()
        if self.source.single_dir is None:
            self._healthy.set()
        else:
            threading.Thread(target=self._load_single, name="single-model", daemon=True).start()
        if self._grpc is not None:
            self._grpc.start()
        # What is imported now stays: collections after each unload need not walk it (torch's share follows at its
        # import).
        gc.collect()
        gc.freeze()

    def close(self) -> bool:
        """Drain and unload within the shutdown limit; return whether all of it ended."""
        self._healthy.clear()
        deadline = monotonic() + self.settings.shutdown_timeout_s
        self._runtimes.end_soon()
        is_clean = self._grpc is None or self._grpc.stop(self.settings.shutdown_timeout_s)
        is_clean = self.manager.close(max(0.0, deadline - monotonic())) and is_clean
        self._runtimes.close()
        self.source.close()
        log.info("event=stopped clean=%s", is_clean)
        self.app.flush()
        return is_clean

    def _make_grpc(self, admission: Admission, guard: Guard) -> Listener | None:
        """Build the gRPC server where a port is set; its libraries take 0.3 s and 30 MiB that others need not pay."""
        settings = self.settings
        if settings.grpc_port is None:
            return None
        from serving.grpc.calls import House
        from serving.grpc.listener import Listener
        from serving.grpc.service import Service

        house = House(
            door=admission,
            extensions=EXTENSIONS,
            authorize=lambda given: guard.check({"HTTP_AUTHORIZATION": given}),
            check_name=check_name,
            is_ready=self._is_healthy,
            observe=self.metrics.invocation,
        )
        service = Service(self.inference, house)
        return Listener(service, self._is_healthy, settings.host, settings.grpc_port, settings.max_body_bytes)

    def _ailment(self) -> str:
        """Say why nobody should send requests here: /ping is 503 then, and the platform restarts the container."""
        if not self._healthy.is_set():
            return "The model of this endpoint is not loaded (yet): see the log."
        fault = self._runtimes.torch.fault
        return f"A GPU is lost to this process ({fault}): restart the container." if fault else ""

    def _is_healthy(self) -> bool:
        return not self._ailment()

    def _warm(self) -> None:
        try:
            self.manager.prepare(self._runtimes.workers)
        except ServingError as error:  # the first model that needs it tries again, and says so to its caller
            log.error("event=not_warmed error=%r", error.message)

    def _load_single(self) -> None:
        try:
            self.manager.load(self._single_name, str(self.source.single_dir))
        except ServingError as error:
            # Restored from the journal is as good; anything else keeps /ping at 503, as an endpoint's health check
            # wants.
            if not any(name == self._single_name for name, _ in self.manager.loaded()):
                log.error("event=single_model_failed error=%r", error.message)
                return
        self._healthy.set()

    def _own_name(self, name: str) -> str:
        """Return a name as it is here: the one model of an endpoint may be called as the folder in its archive."""
        folder = self.source.single_dir
        return self._single_name if folder is not None and os.path.isdir(folder / name) else name  # noqa: PTH112

    def _default_model(self) -> str:
        if self.source.single_dir is not None and self.settings.default_model in (None, self._single_name):
            return self._single_name
        if self.settings.default_model:
            return self.settings.default_model
        names = [] if self.settings.is_platform else self.source.available()
        if len(names) != 1:
            why = (
                "in platform mode there is no default"
                if self.settings.is_platform
                else f"there are {len(names)} models"
            )
            raise BadRequestError(
                f"Which model? Send the X-Amzn-SageMaker-Target-Model header or call /models/NAME/invoke: {why}; "
                "WHARF_DEFAULT_MODEL names one."
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


def threads_of(settings: Settings) -> int:
    """Return how many request threads the HTTP server needs."""
    return settings.max_in_flight + MANAGEMENT_THREADS + RESERVED_THREADS


def _warn(settings: Settings, limits: memory.Limits, ledger: Ledger) -> None:
    """Say what the settings do that their author may not have meant."""
    if ledger.budget_bytes > limits.memory_bytes:
        log.warning(
            "event=budget_over_limit budget=%r limit=%r hint='lower WHARF_MEMORY_BUDGET: the kernel will kill first'",
            *(format_bytes(ledger.budget_bytes), format_bytes(limits.memory_bytes)),
        )
    if settings.is_platform and settings.admin_token:
        log.warning("event=setting_without_effect name=WHARF_ADMIN_TOKEN reason='the platform sends no token'")
    if not settings.model_root.is_dir():
        log.warning("event=no_model_root root=%s hint='create it or set WHARF_MODEL_ROOT'", settings.model_root)
    if shortage := shortage_for_all(os.environ, is_cpu=settings.device != "cuda"):
        log.warning("event=dev_shm_is_small reason=%r", shortage)


def _say_started(settings: Settings, limits: memory.Limits, ledger: Ledger, cores: CoreBudget) -> None:
    log.info(
        "event=started pid=%d mode=%s root=%s budget=%s limit=%s limit_source=%r cores=%d threads=%d",
        *(os.getpid(), "platform" if settings.is_platform else "standalone", settings.model_root),
        *(format_bytes(ledger.budget_bytes), format_bytes(limits.memory_bytes), limits.memory_source),
        *(cores.cores, threads_of(settings)),
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        settings.request_timeout_s,
        settings.load_timeout_s,
        settings.drain_timeout_s,
        settings.load_concurrency,
        waiters_per_load=max(1, settings.max_in_flight // 2),
    )


def _disk_budget(settings: Settings, limits: memory.Limits) -> int:
    """Return the cache's budget: on a tmpfs it is memory that no reservation knows, so a tenth of the limit at most."""
    tenth_bytes = limits.memory_bytes // 10
    if settings.disk_budget_bytes <= tenth_bytes or not memory.is_in_memory(settings.cache_dir):
        return settings.disk_budget_bytes
    log.warning(
        "event=cache_in_memory folder=%s budget=%r hint='set WHARF_CACHE_DIR to a disk to unpack larger archives'",
        *(settings.cache_dir, format_bytes(tenth_bytes)),
    )
    return tenth_bytes


def _single(settings: Settings) -> tuple[str, Path | None]:
    """Return the name and the folder of the one model of a single-model endpoint; no folder where there is none.

    The folder may be a repository of Triton's, of which the default model is meant.
    """
    folder, name = settings.base_dir / "model", settings.default_model
    if settings.is_platform or not _holds_something(folder):
        return SINGLE_MODEL, None
    if name not in (None, "..") and Path(name).name == name and (folder / name).is_dir():
        return name, folder / name
    return SINGLE_MODEL, folder


def _make_source(
    settings: Settings, limits: memory.Limits, environ: Mapping[str, str], single_dir: Path | None
) -> ModelSource:
    unpack = UnpackLimits(settings.unpack_max_bytes, settings.unpack_max_files, settings.unpack_max_ratio)
    return ModelSource(
        settings.model_root,
        Store(settings.cache_dir, _disk_budget(settings, limits), unpack),
        single_dir,
        allow_fake=settings.fake_backend,
        may_hint=settings.is_platform or settings.admin_token is None,
        may_take_files=settings.load_files,
        surroundings=Surroundings(environ, settings.device, settings.triton_backends),
    )


def _holds_something(folder: Path) -> bool:
    """Say whether there is anything in a folder; one that may not be read counts, so that its load says why not."""
    try:
        return any(folder.iterdir())
    except PermissionError:
        return True
    except OSError:
        return False


def _make_ledger(settings: Settings, limits: memory.Limits) -> Ledger:
    budget_bytes = _share(settings.memory_budget, limits.memory_bytes)
    if not isinstance(settings.memory_budget, Share):
        return Ledger(budget_bytes)
    base_bytes = memory.resident_bytes() + memory.resident_bytes(os.getppid())
    return Ledger(max(0, budget_bytes - base_bytes), pays_for_runtimes=True)


def _make_scales(settings: Settings, meter: DeviceMeter) -> Scales:
    return Scales(
        meter,
        lambda capacity_bytes: _share(settings.device_headroom, capacity_bytes),
        give_back_s=settings.device_give_back_s,
    )


def _merge(ours: Gauges, scalars: dict[str, tuple[str, float]]) -> Gauges:
    return replace(ours, scalars=ours.scalars | scalars)
