"""Cards to take bytes of: a fake NVML's, or a real GPU's by torch; and a backend whose models hold such bytes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from serving.backends.base import Footprint, LoadedModel
from serving.backends.wrapping import WrappedModel
from serving.devices import DeviceMeter, Nvml, find_devices
from serving.errors import InsufficientMemoryError
from serving.repository.layouts import ModelSpec
from serving.residents import Limits
from serving.scales import Scales
from tests.gpu.nvml.pynvml import Library, OutOfMemoryError, make_cards, take
from tests.unit.house import PATIENT, House, TestBackend

MIB = 1 << 20
# So large that what is rounded on a real GPU (segments of 2 and 20 MiB) does not matter.
UNIT = 64 * MIB
CONTEXT = 5 * UNIT


class Cards(Protocol):
    """Some cards, each with the same room."""

    count: int

    @property
    def meter(self) -> DeviceMeter:
        """Who reads them."""

    def take(self, index: int, count: int) -> Callable[[], None]:
        """Take bytes; return what gives them back. The first bytes of a card bring a context along."""

    def headroom(self, capacity_bytes: int) -> int:
        """Return what to leave free, so that `room` is there before any context."""


class FakeCards:
    """Cards of a fake NVML. While `is_kept` is set, bytes that are given back stay until `let_go`."""

    def __init__(
        self,
        folder: Path,
        count: int = 1,
        units: int = 32,
        *,
        context_bytes: int = CONTEXT,
        reserved_bytes: int = UNIT,
        headroom_bytes: int | None = None,
    ) -> None:
        self.count = count
        self.folder = folder / "cards"
        self.meter = Nvml(_library(self.folder, [units * UNIT] * count, reserved_bytes), {})
        self._context_bytes = context_bytes
        self._headroom_bytes = units * UNIT // 4 if headroom_bytes is None else headroom_bytes
        self._lock = threading.Lock()
        self._contexts: set[int] = set()
        self.is_kept = threading.Event()
        self.was_given = threading.Event()
        self._kept: list[Path] = []

    def touch(self, index: int) -> None:
        """Make the context of a card, if there is none."""
        with self._lock:
            if index not in self._contexts:
                self._contexts.add(index)
                self._take(index, self._context_bytes)

    def take(self, index: int, count: int) -> Callable[[], None]:
        self.touch(index)
        with self._lock:
            held = self._take(index, count)
        return lambda: self._give(held)

    def headroom(self, capacity_bytes: int) -> int:
        return self._headroom_bytes

    def let_go(self) -> None:
        """Have what was kept come back, late."""
        self.is_kept.clear()
        self.reap()

    def reap(self) -> None:
        """Have what was kept until now come back; what is given from now on is kept as before."""
        while self._kept:
            self._kept.pop().unlink()

    def held_bytes(self, index: int) -> int:
        """What models and contexts hold of a card."""
        return sum(each.stat().st_size for each in (self.folder / str(index)).glob("*/*"))

    def _take(self, index: int, count: int) -> Path:
        return take(self.folder, index, count)

    def _give(self, held: Path) -> None:
        if self.is_kept.is_set():
            self._kept.append(held)
        else:
            held.unlink()
        self.was_given.set()


class RealCards:
    """One real GPU, used through torch."""

    count = 1

    def __init__(self) -> None:
        self.meter = find_devices(os.environ)

    @staticmethod
    def why_not() -> str:
        """Why there is no GPU to test on; empty where there is one."""
        meter = find_devices(os.environ)
        if meter.why_none:
            return meter.why_none
        try:
            import torch
        except ImportError:
            return "torch is not installed"
        return "" if torch.cuda.is_available() else "torch finds no CUDA"

    def take(self, index: int, count: int) -> Callable[[], None]:
        import torch

        held: list[Any] = [torch.ones(count, dtype=torch.uint8, device=f"cuda:{index}")]
        torch.cuda.synchronize(index)

        def give() -> None:
            held.clear()
            torch.cuda.empty_cache()

        return give

    def headroom(self, capacity_bytes: int) -> int:
        """Leave all but 32 units and what is in use already."""
        used_bytes = self.meter.used_bytes(0) or 0
        return max(0, capacity_bytes - used_bytes - 32 * UNIT)


class CardModel(WrappedModel):
    """A model that holds bytes of cards until it is closed."""

    def __init__(self, inner: LoadedModel, holds: list[Callable[[], None]], counted_bytes: int | None) -> None:
        super().__init__(inner)
        self._holds = holds
        self._counted_bytes = counted_bytes

    def device_bytes(self) -> int | None:
        return self._counted_bytes

    def close(self) -> None:
        super().close()
        for give in self._holds:
            give()


class CardBackend(TestBackend):
    """The fake backend, whose models also take bytes of cards: `takes` by name, `predicted` where that differs.

    `named` are models that want devices of their own choice; `is_counting` has the models say what they hold;
    `is_apart` has them be processes of their own; `at_start` are the cards whose context is made by `prepare`;
    `fails_after` models take their bytes and fail.
    """

    def __init__(self, cards: Cards) -> None:
        super().__init__()
        self._cards = cards
        self.takes: dict[str, int] = {}
        self.predicted: dict[str, int] = {}
        self.peaks: dict[str, int] = {}
        self.named: dict[str, tuple[int, ...]] = {}
        self.is_counting = False
        self.is_apart = False
        self.at_start: tuple[int, ...] = ()
        self.fails_after: set[str] = set()
        self.overflows: list[str] = []

    def prepare(self) -> bool:
        """Make contexts, once."""
        cards, self.at_start = self.at_start, ()
        for index in cards:
            self._cards.take(index, 0)
        return super().prepare() or bool(cards)

    def footprint(self, spec: ModelSpec) -> Footprint:
        said = super().footprint(spec)
        if spec.name not in self.takes:
            return said
        stays = self.predicted.get(spec.name, self.takes[spec.name])
        peak = max(stays, self.peaks.get(spec.name, 0))
        devices = self.named.get(spec.name, ())
        return Footprint(said.peak_bytes, said.resident_bytes, peak, stays, devices, self.is_apart)

    def load(self, spec: ModelSpec) -> LoadedModel:
        model = super().load(spec)
        if spec.name not in self.takes:
            return model
        holds: list[Callable[[], None]] = []
        try:
            for index in spec.placement.devices:
                holds.append(self._cards.take(index, self.takes[spec.name]))
            if spec.name in self.fails_after:
                raise InsufficientMemoryError(f"Model '{spec.name}' was told to find no more memory.")
        except OutOfMemoryError as error:  # the books promised what was not there
            self.overflows.append(str(error))
            raise InsufficientMemoryError(str(error)) from None
        finally:
            if spec.name in self.fails_after:
                for give in holds:
                    give()
        return CardModel(model, holds, self.takes[spec.name] if self.is_counting else None)


class CardHouse(House):
    """A house whose models may hold bytes of cards."""

    backend: CardBackend

    def __init__(
        self,
        folder: Path,
        cards: Cards,
        *,
        is_platform: bool = False,
        budget_bytes: int = 1 << 30,
        give_back_s: float = 5.0,
        limits: Limits = PATIENT,
    ) -> None:
        self.cards = cards
        self.scales = Scales(cards.meter, cards.headroom, give_back_s=give_back_s)
        super().__init__(
            folder,
            is_platform=is_platform,
            budget_bytes=budget_bytes,
            limits=limits,
            backend=CardBackend(cards),
            scales=self.scales,
        )

    def put(self, name: str, units: float, *devices: int, predicted: float | None = None, **config: object) -> str:
        """Write a model that takes so many units of a card, and was predicted to; return its url."""
        self.backend.takes[name] = int(units * UNIT)
        if predicted is not None:
            self.backend.predicted[name] = int(predicted * UNIT)
        if devices:
            self.backend.named[name] = devices
        return self.make(name, **config)

    def bring(self, name: str, units: float, *devices: int, predicted: float | None = None) -> None:
        """Write such a model and load it."""
        url = self.put(name, units, *devices, predicted=predicted)
        self.manager.load(name, url)

    def units(self, index: int = 0) -> dict[str, float]:
        """What is reserved on a card, in units, by model."""
        return {name: count / UNIT for name, count in self.scales.ledgers[index].reservations.items()}

    def context_units(self, index: int = 0) -> float:
        """What is taken for the context, in units."""
        values = self.scales.gauges()["DeviceContextBytes"][1]
        return values[f"cuda:{index}"] / UNIT

    def lost_units(self, index: int = 0) -> float:
        """What did not come back, in units."""
        return self.scales.gauges()["DeviceLostBytes"][1][f"cuda:{index}"] / UNIT


def _library(folder: Path, capacities: list[int], reserved_bytes: int) -> Library:
    make_cards(folder, capacities, reserved_bytes)
    return Library(folder)
