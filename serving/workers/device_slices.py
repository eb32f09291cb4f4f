"""Which GPUs a group of ranks runs on: the visible ones, or those chosen of them, cut into slices of one group each.

Knows CUDA_VISIBLE_DEVICES and the device files of the driver, and asks no library. On the CPU nobody makes `Slices`.
The worker backend counts with it, each `group` takes a slice and gives it back. Unverified on a machine with several
GPUs: none was at hand.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.devices import VISIBLE
from serving.errors import LoadFailedError

# Words for none: empty, -1, and what NVIDIA's container runtime sets.
_NONE = ("", "-1", "NoDevFiles", "none", "void")
# For a group that is being killed to be gone: SIGKILL takes milliseconds, a driver's cleaning up longer.
_ENDING_S = 10.0
_DEVICE_FILE = re.compile(r"nvidia(\d+)")


def visible_devices(environ: Mapping[str, str], folder: Path = Path("/dev")) -> tuple[str, ...]:
    """Return the GPUs as CUDA_VISIBLE_DEVICES names them, in its order; without it those that `folder` has."""
    told = environ.get(VISIBLE)
    if told is not None:
        names = tuple(each.strip() for each in told.split(","))
        # As CUDA: the list ends at the first that is none.
        return names[: next((at for at, name in enumerate(names) if name in _NONE), len(names))]
    found = (_DEVICE_FILE.fullmatch(each.name) for each in folder.iterdir())
    return tuple(map(str, sorted(int(each[1]) for each in found if each)))


def chosen_devices(name: str, visible: Sequence[str], numbers: Sequence[int]) -> dict[int, str]:
    """Return the names of the GPUs that model `name` chose by CUDA's numbers, in its order; all where it chose none.

    Raises `LoadFailedError` for one that is not there.
    """
    for number in numbers:
        if number >= len(visible):
            raise LoadFailedError(
                f"Model '{name}' is to use GPU {number} and {VISIBLE} shows {len(visible)}, from 0: correct its "
                "load_on_devices or device, or show it more GPUs."
            )
    return {number: visible[number] for number in numbers or range(len(visible))}


class Slices:
    """The slices of one model: `size` devices each, as many as there are devices for."""

    def __init__(self, devices: Sequence[str], size: int) -> None:
        self._came = threading.Condition()
        starts = range(0, len(devices) - size + 1, size)
        self._free = [tuple(devices[start : start + size]) for start in starts]
        self.count = len(self._free)

    def take(self) -> tuple[str, ...]:
        """Return a slice that is nobody's, or will be in a moment; raises `IndexError` for more groups than `count`."""
        with self._came:
            self._came.wait_for(lambda: self._free, _ENDING_S)
            return self._free.pop(0)

    def give_back(self, devices: tuple[str, ...]) -> None:
        """Let another group have these devices."""
        with self._came:
            self._free.append(devices)
            self._came.notify()
