"""The host's ledger and those of the devices together: a load has room in all that it needs, or in none.

Says where a model could be (the device with the most room comes first) and what is missing there. Like a ledger it
evicts nobody, measures nothing and has no lock: `manager`, `room` and their neighbours call it under theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serving.devices import NOWHERE, Placement
from serving.errors import InvalidArtifactError
from serving.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Demand:
    """What a load wants: bytes of memory, and `device_bytes` on each of `devices`, for () on one that is chosen."""

    host_bytes: int
    device_bytes: int = 0
    devices: tuple[int, ...] = ()


class Books:
    """All ledgers; `devices` by CUDA's numbers, empty where no device is known."""

    def __init__(self, host: Ledger, devices: Mapping[int, Ledger] | None = None) -> None:
        self.host = host
        self.devices = dict(devices or {})

    @property
    def all(self) -> tuple[Ledger, ...]:
        """The ledgers of the devices, then the host's: who goes for a device frees memory as well."""
        return (*self.devices.values(), self.host)

    @property
    def is_over(self) -> bool:
        """Whether a correction has passed a budget."""
        if self.host.free_bytes < 0 or not self.devices:  # asked at the end of each request: no generator for nothing
            return self.host.free_bytes < 0
        return any(each.free_bytes < 0 for each in self.devices.values())

    def placements(self, demand: Demand) -> list[Placement]:
        """Return where a load can be, best first.

        1. Without bytes on a device, or where no device is known, nowhere. 2. On the devices that it names. 3. On any
        one, that with the most room first; of equals the first.
        """
        if not demand.device_bytes or not self.devices:
            return [NOWHERE]
        if demand.devices:
            return [Placement(demand.devices)]
        by_room = sorted(self.devices.items(), key=lambda entry: -entry[1].free_bytes)
        return [Placement((index,)) for index, _ in by_room]

    def wanted(self, demand: Demand, placement: Placement) -> dict[Ledger, int]:
        """Return the bytes that a load wants of each ledger when it is put there."""
        devices = {self.devices[index]: demand.device_bytes for index in placement.devices}
        return devices | {self.host: demand.host_bytes}

    def check_possible(self, name: str, demand: Demand) -> list[Placement]:
        """Return the placements that are large enough.

        Raises `InsufficientMemoryError` where none is, `InvalidArtifactError` for devices that are not there.
        """
        placements = self.placements(demand)
        for index in placements[0].devices:
            if index not in self.devices:
                raise InvalidArtifactError(
                    f"Model '{name}' is to run on device {index} and there are {sorted(self.devices)}: correct its "
                    "configuration, or CUDA_VISIBLE_DEVICES."
                )
        possible = [each for each in placements if self._is_possible(demand, each)]
        if not possible:
            largest = max(placements, key=lambda each: sum(self.devices[index].budget_bytes for index in each.devices))
            for ledger, count in self.wanted(demand, largest).items():
                ledger.check_possible(name, count)
        return possible

    def reserve(self, name: str, demand: Demand) -> Placement:
        """Reserve in all ledgers, on the device with the most room, and return where.

        Raises what `check_possible` raises and `InsufficientMemoryError` when it does not fit now; then nothing has
        changed.
        """
        possible = self.check_possible(name, demand)
        fitting = next((each for each in possible if not self.missing(demand, each)), possible[0])
        for ledger, count in self.wanted(demand, fitting).items():
            ledger.check(name, count)
        self.put(name, demand, fitting)
        return fitting

    def missing(self, demand: Demand, placement: Placement) -> dict[Ledger, int]:
        """Return the bytes that must be freed in ledgers that are short; empty when it fits now."""
        missing = {ledger: ledger.missing_bytes(count) for ledger, count in self.wanted(demand, placement).items()}
        return {ledger: count for ledger, count in missing.items() if count}

    def put(self, name: str, demand: Demand, placement: Placement) -> None:
        """Reserve in all ledgers what is known to fit."""
        for ledger, count in self.wanted(demand, placement).items():
            ledger.reserve(name, count)

    def release(self, name: str) -> None:
        """End the reservations of `name`."""
        for ledger in self.all:
            ledger.release(name)

    def _is_possible(self, demand: Demand, placement: Placement) -> bool:
        return all(count <= ledger.budget_bytes for ledger, count in self.wanted(demand, placement).items())
