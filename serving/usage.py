"""How much of the machine is in use: CPU, memory, disk, in SageMaker's percentages.

Reads when asked, at a scrape; keeps only the last reading of CPU time. Called by `server`, which wires it to the
metrics.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from serving.cores import CoreBudget
from serving.http.admission import Admission
from serving.memory import Limits, resident_bytes


class Usage:
    """Readings for `/metrics`."""

    def __init__(
        self,
        limits: Limits,
        cores: CoreBudget,
        admission: Admission,
        cache_dir: Path,
        outside_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        self._limits = limits
        self._cores = cores
        self._admission = admission
        self._cache_dir = cache_dir
        self._outside_bytes = outside_bytes  # the zygote's, its workers' and tritonserver's
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
        }

    def _cpu_percent(self) -> float:
        now = (time.monotonic(), _cpu_s())
        with self._lock:
            last, self._last = self._last, now
        return 100 * (now[1] - last[1]) / max(1e-6, now[0] - last[0])

    def _disk_percent(self) -> float:
        folder = next((each for each in (self._cache_dir, *self._cache_dir.parents) if each.is_dir()), Path("/"))
        usage = shutil.disk_usage(folder)
        return 100 * usage.used / max(1, usage.total)  # a tmpfs without a limit has a total of 0


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system
