"""GPUs as NVML has them: which there are, what they can hold, what is in use; and where a model is put.

The one room that imports `pynvml`. Where that, the driver or every GPU is missing there are no devices, and nothing
else changes: `why_none` says why. Devices are numbered as CUDA numbers them (`cuda:0` is the first that
CUDA_VISIBLE_DEVICES shows). Decides nothing: `ledger` says what fits, `scales` what a reading means, `usage` shows it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

log = logging.getLogger("wharf.devices")

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
PROCESS_BYTES = 512 << 20
"""What a process that uses a GPU is expected to take there besides its models: 0.4 GiB and more were seen (Triton's
issues 3560, 5365, 6860, 8032)."""
# CUDA's own words for "none": empty, and what NVIDIA's container runtime sets.
_NONE = ("", "NoDevFiles", "none", "void")


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU at one moment; what its driver does not tell (on a MIG slice: utilization, power) is None.

    `index` is CUDA's; `utilization` is 0 to 1, of the time of the driver's last sample (up to 1 s).
    """

    index: int
    name: str
    uuid: str
    capacity_bytes: int
    used_bytes: int
    utilization: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    energy_joules: float | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """The devices that a model was given room on, by CUDA's numbers; none for a model on the CPU."""

    devices: tuple[int, ...] = ()

    @property
    def device(self) -> int | None:
        """The first of them, None on the CPU."""
        return self.devices[0] if self.devices else None


def named_devices(device: str) -> tuple[int, ...] | None:
    """Return the devices that `cpu`, `cuda` or `cuda:1` names: None on the CPU, () for one of the house's choice."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return None
    return (int(number),) if number else ()


NOWHERE = Placement()
"""On no device."""


class DeviceMeter(Protocol):
    """Who reads devices."""

    @property
    def why_none(self) -> str:
        """Why there are no devices; empty where there are."""

    def devices(self) -> Sequence[Device]:
        """Return all visible devices as they are now, by index."""

    def used_bytes(self, index: int, pids: Collection[int] | None = None) -> int | None:
        """Return what is in use on a device, or what these processes hold there, in bytes.

        None where that cannot be told: the device is gone, or the driver lists none of the processes (it numbers them
        outside of this container).
        """


class NoDevices:
    """The meter of a machine without GPUs."""

    def __init__(self, why: str) -> None:
        self.why_none = why

    def devices(self) -> Sequence[Device]:
        """Return none."""
        return ()

    def used_bytes(self, index: int, pids: Collection[int] | None = None) -> None:
        """Say nothing: there is no device."""


class Nvml:
    """The meter over NVML; `library` has the functions of `pynvml`."""

    def __init__(self, library: Any, environ: Mapping[str, str]) -> None:
        self._nvml = library
        handles = [library.nvmlDeviceGetHandleByIndex(number) for number in range(library.nvmlDeviceGetCount())]
        self._handles = _visible(library, handles, environ.get(VISIBLE))
        self.why_none = "" if self._handles else f"{VISIBLE} shows none of {len(handles)}"

    def devices(self) -> Sequence[Device]:
        """Return all visible devices as they are now; one that fell off the bus is left out."""
        found = []
        for index, handle in enumerate(self._handles):
            with suppress(self._nvml.NVMLError):
                found.append(self._read(index, handle))
        return found

    def used_bytes(self, index: int, pids: Collection[int] | None = None) -> int | None:
        """Return what is in use on a device, or what these processes hold there, in bytes; None if unknown."""
        try:
            if pids is None:
                return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handles[index]).used)
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handles[index])
        except self._nvml.NVMLError:
            return None
        held = [each.usedGpuMemory for each in processes if each.pid in pids]
        return None if not held or None in held else sum(held)

    def _read(self, index: int, handle: Any) -> Device:
        nvml = self._nvml
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        rates = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        return Device(
            index,
            _text(nvml.nvmlDeviceGetName(handle)),
            _text(nvml.nvmlDeviceGetUUID(handle)),
            int(memory.total),
            int(memory.used),
            None if rates is None else rates.gpu / 100,
            _thousandth(self._ask(nvml.nvmlDeviceGetPowerUsage, handle)),
            _thousandth(self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
            _thousandth(self._ask(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)),
        )

    def _ask(self, function: Any, handle: Any) -> Any:
        """Return an answer that not every device has."""
        try:
            return function(handle)
        except self._nvml.NVMLError:
            return None


def find_devices(environ: Mapping[str, str]) -> DeviceMeter:
    """Return the meter of this machine; without `pynvml`, a driver or a GPU one that has no devices and says why."""
    try:
        import pynvml
    except ImportError:
        return NoDevices("the package nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
        return Nvml(pynvml, environ)
    except pynvml.NVMLError as error:
        return NoDevices(f"NVML says: {error}")


def say_devices(meter: DeviceMeter, environ: Mapping[str, str], *, is_wanted: bool) -> None:
    """Log which devices there are, or why none; a warning where one `is_wanted`, or their numbers are not sure."""
    devices = meter.devices()
    for each in devices:
        log.info(
            "event=device index=%d name=%r uuid=%s capacity=%d used=%d",
            *(each.index, each.name, each.uuid, each.capacity_bytes, each.used_bytes),
        )
    if not devices:
        level = logging.WARNING if is_wanted else logging.DEBUG
        log.log(level, "event=no_devices reason=%r effect='device memory is in no budget'", meter.why_none)
    if len({each.name for each in devices}) > 1 and environ.get(ORDER) != "PCI_BUS_ID":
        log.warning("event=device_order_unknown hint='these cards differ: set %s=PCI_BUS_ID'", ORDER)


def _visible(library: Any, handles: Sequence[Any], wanted: str | None) -> list[Any]:
    """Return the handles that CUDA shows, in its order.

    As CUDA does (Programming Guide, "CUDA Environment Variables"): numbers, or UUIDs and beginnings of them; the first
    that leads nowhere hides itself and all after it. Numbers are PCI's here: CUDA counts so where all cards are alike,
    or CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """
    if wanted is None:
        return list(handles)
    chosen: list[Any] = []
    for word in (each.strip() for each in wanted.split(",")):
        handle = None if word in _NONE else _handle_of(library, handles, word)
        if handle is None:
            break
        chosen.append(handle)
    return chosen


def _handle_of(library: Any, handles: Sequence[Any], word: str) -> Any:
    if word.isdigit():
        return handles[int(word)] if int(word) < len(handles) else None
    if word.startswith("MIG-"):
        try:
            return library.nvmlDeviceGetHandleByUUID(word)
        except library.NVMLError:
            return None
    return next((each for each in handles if _text(library.nvmlDeviceGetUUID(each)).startswith(word)), None)


def _text(said: str | bytes) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else said


def _thousandth(value: int | None) -> float | None:
    """Return watts of milliwatts, joules of millijoules."""
    return None if value is None else value / 1000
