"""How many ranks a group has, and how many groups there are: devices / degree.

1. On the CPU a group is `degree` processes, `max` is one, and there is one group unless the model wants more.
2. On GPUs `max` is all of them, and all groups that there are devices for are started, as DJL does, unless the model
   wants fewer.
3. More than there are devices for is an error that says what there is.

Pure; the worker backend calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from serving.devices import VISIBLE
from serving.errors import LoadFailedError
from serving.workers.device_slices import Slices

Degree = int | Literal["max"]


@dataclass(frozen=True, slots=True)
class GroupSizes:
    """`ranks` processes a group (0: no groups, single workers), from `least` to `most` of them.

    `devices` are the GPUs of all that there may be, by CUDA's numbers, in `slices` of one group each.
    """

    ranks: int
    least: int
    most: int
    slices: Slices | None = None
    devices: tuple[int, ...] = ()


def group_sizes(
    name: str, degree: Degree, least: int | None, most: int | None, devices: Mapping[int, str] | None
) -> GroupSizes:
    """Return the sizes of model `name`; `least` and `most` are its own wishes.

    `devices` are the GPUs that it may use, their names by CUDA's numbers, None on the CPU.

    Raises `LoadFailedError` where the devices do not suffice.
    """
    if devices is None:  # 1
        first = least or 1
        return GroupSizes(1 if degree == "max" else degree, first, max(first, most or 1))
    ranks = len(devices) if degree == "max" else degree  # 2
    groups = len(devices) // ranks if ranks else 0
    wanted = max(1, least or 1)
    if groups < wanted:  # 3
        found = f"{len(devices)} ({VISIBLE}={','.join(devices.values())})" if devices else "none"
        raise LoadFailedError(
            f"Model '{name}' wants {wanted * max(1, ranks)} GPUs ({wanted} groups of tensor_parallel_degree={degree}) "
            f"and there are {found}: lower the degree or minWorkers, show it more GPUs, or set device=cpu."
        )
    most = max(wanted, min(groups, most or groups))
    numbers = tuple(devices)[: most * ranks]
    return GroupSizes(ranks, least or most, most, Slices([devices[each] for each in numbers], ranks), numbers)
