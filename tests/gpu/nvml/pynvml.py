"""A small real implementation of what is used of `pynvml`: its cards are folders, its bytes sparse files.

A card has a `card.json` (name, uuid, total, and what the driver keeps for itself) and a folder for each process that
holds bytes there, named by its pid. So several processes share the meter, as they share a GPU. Put in front of the real
module by PYTHONPATH, it finds its cards in FAKE_NVML; `Library` is the same for tests in this process.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_NUMBERS = itertools.count()
NVML_ERROR_NOT_FOUND, NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_GPU_IS_LOST = 6, 3, 9, 15


class NVMLError(Exception):
    """What NVML refuses, by number."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return {3: "Not Supported", 6: "Not Found", 9: "Driver Not Loaded", 15: "GPU is lost"}[self.value]


class OutOfMemoryError(Exception):
    """A card has not as many bytes: what CUDA would say."""


def make_cards(folder: Path, capacities: Sequence[int], reserved_bytes: int = 0, **more: Any) -> None:
    """Write cards of so many bytes; `more` replaces what a card says of itself."""
    for number, total in enumerate(capacities):
        card = folder / str(number)
        card.mkdir(parents=True)
        about = {"name": "Fake T4", "uuid": f"GPU-{number}000-fake", "total": total, "reserved": reserved_bytes}
        (card / "card.json").write_text(json.dumps(about | {"gpu": 25, "power": 30_000} | more))


def take(folder: Path, number: int, count: int, pid: int | None = None) -> Path:
    """Take bytes of a card; return what holds them: a file, to be unlinked. Raises `OutOfMemoryError`."""
    library = Library(folder)
    memory = library.nvmlDeviceGetMemoryInfo(folder / str(number))
    if count > memory.free:
        raise OutOfMemoryError(f"card {number} has {memory.free} bytes free of {memory.total}, wanted: {count}")
    held = folder / str(number) / str(pid or os.getpid()) / str(next(_NUMBERS))
    held.parent.mkdir(exist_ok=True)
    held.touch()
    os.truncate(held, count)
    return held


class Library:
    """The functions, over the cards of a folder."""

    NVMLError = NVMLError

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def nvmlInit(self) -> None:
        if not self._folder.is_dir():
            raise NVMLError(NVML_ERROR_DRIVER_NOT_LOADED)

    def nvmlShutdown(self) -> None:
        """Nothing is open."""

    def nvmlDeviceGetCount(self) -> int:
        return sum(1 for _ in self._folder.glob("*/card.json"))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Path:
        return self._folder / str(index)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Path:
        for card in self._folder.iterdir():
            if self.nvmlDeviceGetUUID(card) == uuid:
                return card
        raise NVMLError(NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetName(self, handle: Path) -> str:
        return str(_about(handle)["name"])

    def nvmlDeviceGetUUID(self, handle: Path) -> str:
        return str(_about(handle)["uuid"])

    def nvmlDeviceGetMemoryInfo(self, handle: Path) -> SimpleNamespace:
        about = _about(handle)
        used = about["reserved"] + sum(_held(handle).values())
        return SimpleNamespace(total=about["total"], used=used, free=about["total"] - used)

    def nvmlDeviceGetUtilizationRates(self, handle: Path) -> SimpleNamespace:
        return SimpleNamespace(gpu=_known(handle, "gpu"), memory=0)

    def nvmlDeviceGetPowerUsage(self, handle: Path) -> int:
        return _known(handle, "power")

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Path) -> int:
        return _known(handle, "limit")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Path) -> int:
        return _known(handle, "energy")

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Path) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=count) for pid, count in _held(handle).items() if count]


def _about(handle: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((handle / "card.json").read_text()))
    except OSError:
        raise NVMLError(NVML_ERROR_GPU_IS_LOST) from None


def _known(handle: Path, key: str) -> int:
    about = _about(handle)
    if key not in about:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    return int(about[key])


def _held(handle: Path) -> dict[int, int]:
    found = {}
    for process in handle.iterdir():
        if process.is_dir() and Path("/proc", process.name).exists():  # a driver takes back what the dead had
            found[int(process.name)] = sum(_size(each) for each in process.iterdir())
    return found


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # given back at this moment
        return 0


def _of_environment(name: str) -> Any:
    def call(*given: Any) -> Any:
        return getattr(Library(Path(os.environ["FAKE_NVML"])), name)(*given)

    return call


globals().update({name: _of_environment(name) for name in dir(Library) if name.startswith("nvml")})
