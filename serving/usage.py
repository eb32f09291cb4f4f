"""How much of the machine is in use: CPU, memory, disk and GPUs, in SageMaker's percentages and as Triton's gauges.

Reads when asked, at a scrape; keeps only the last reading of CPU time. Called by `server`, which wires it to the
metrics.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from serving.backends.base import LoadedModel
from serving.backends.compound import CompoundModel
from serving.backends.wrapping import WrappedModel
from serving.cores import CoreBudget
from serving.devices import Device, DeviceMeter, NoDevices
from serving.http.admission import Admission
from serving.manager import ModelManager
from serving.memory import Limits, resident_bytes
from serving.repository.layouts import ModelSpec


class Usage:
    """Readings for `/metrics`."""

    def __init__(  # noqa: PLR0913  the composition root is the one caller
        self,
        limits: Limits,
        cores: CoreBudget,
        admission: Admission,
        cache_dir: Path,
        outside_bytes: Callable[[], int] = lambda: 0,
        meter: DeviceMeter | None = None,
    ) -> None:
        self._limits = limits
        self._cores = cores
        self._admission = admission
        self._cache_dir = cache_dir
        self._outside_bytes = outside_bytes  # the zygote's, its workers' and tritonserver's
        self._meter = meter or NoDevices("nobody asked")
        self._lock = threading.Lock()
        self._last = (time.monotonic(), _cpu_s())

    def read(self) -> dict[str, tuple[str, float]]:
        """Return help text and value by metric name."""
        resident = resident_bytes()
        outside = self._outside_bytes()
        return {
            "CPUUtilization": ("Percent of one core since the last scrape (200 is two cores)", self._cpu_percent()),
            "MemoryUtilization": (
                "Percent of the memory limit held",
                100 * (resident + outside) / self._limits.memory_bytes,
            ),
            "DiskUtilization": ("Percent of the cache's disk in use", self._disk_percent()),
            "ResidentBytes": ("Anonymous memory of the server process", float(resident)),
            "WorkerBytes": (
                "Memory of workers, their zygote and tritonserver, shared pages counted once",
                float(outside),
            ),
            "InFlight": ("Invocations in flight", float(self._admission.in_flight)),
            "BodyBytes": ("Bytes of request bodies in flight", float(self._admission.body_bytes)),
            "Queue": ("Runs that wait for a core", float(self._cores.waiting)),
        } | _of_devices(self._meter.devices())

    def _cpu_percent(self) -> float:
        now = (time.monotonic(), _cpu_s())
        with self._lock:
            last, self._last = self._last, now
        return 100 * (now[1] - last[1]) / max(1e-6, now[0] - last[0])

    def _disk_percent(self) -> float:
        folder = next((each for each in (self._cache_dir, *self._cache_dir.parents) if each.is_dir()), Path("/"))
        usage = shutil.disk_usage(folder)
        return 100 * usage.used / max(1, usage.total)  # a tmpfs without a limit has a total of 0


def _of_devices(devices: Sequence[Device]) -> dict[str, tuple[str, float]]:
    """Return CloudWatch's two percentages, 100 for each GPU in full use; nothing where there is none to speak of.

    https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html: 0 to 100, times the number of GPUs.
    """
    found = {}
    if known := [each.utilization for each in devices if each.utilization is not None]:
        found["GPUUtilization"] = ("Percent of a GPU's time in use (200 is two GPUs)", 100 * sum(known))
    if devices:
        part = sum(each.used_bytes / max(1, each.capacity_bytes) for each in devices)
        found["GPUMemoryUtilization"] = ("Percent of a GPU's memory in use (200 is two GPUs)", 100 * part)
    return found


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system


class Machine:
    """The whole machine, as the `nv_cpu_*` gauges have it: of SageMaker's percentages, only what is ours counts."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._lock = threading.Lock()
        self._last = self._ticks()

    def read(self) -> dict[str, float]:
        """Return `utilization`, 0 to 1 since the last call, and memory in bytes; what cannot be read is not there."""
        found: dict[str, float] = {}
        with suppress(OSError, ValueError, LookupError):
            lines = (self._proc / "meminfo").read_text().splitlines()
            kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
            found["memory_total_bytes"] = kib["MemTotal"] * 1024
            found["memory_used_bytes"] = (kib["MemTotal"] - kib["MemAvailable"]) * 1024
        now = self._ticks()
        with self._lock:
            last, self._last = self._last, now
        if last and now:
            idle, all_ = now[0] - last[0], now[1] - last[1]
            found["utilization"] = min(1.0, max(0.0, 1 - idle / all_)) if all_ > 0 else 0.0
        return found

    def _ticks(self) -> tuple[int, int] | None:
        """Return the machine's idle and whole time (proc(5): the line `cpu`, user to steal)."""
        with suppress(OSError, ValueError):
            times = [int(each) for each in (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
            if len(times) > 4:
                return times[3] + times[4], sum(times)
        return None


def pending(manager: ModelManager) -> dict[tuple[str, str], int]:
    """Return how many requests wait for a run of each loaded model that has a line of its own, by name and version."""
    found: dict[tuple[str, str], int] = {}
    for resident in (manager.peek(name) for name, _ in manager.loaded()):
        model: LoadedModel | None = getattr(resident, "model", None)  # one that was unloaded meanwhile has none
        if resident is not None and resident.artifact is not None and model is not None:
            found |= _waiting(resident.artifact.spec, model)
    return found


def _waiting(spec: ModelSpec, model: LoadedModel) -> dict[tuple[str, str], int]:
    if isinstance(model, CompoundModel):
        return {key: count for each in model.all_parts for key, count in _waiting(each.spec, each.model).items()}
    while isinstance(model, WrappedModel) and not hasattr(model, "waiting"):
        model = model.inner
    return {(spec.name, spec.version): model.waiting} if hasattr(model, "waiting") else {}
