"""Models that are loaded and let go as one: several versions of a model, an ensemble and the members in its archive.

Each part is made ready by the backend of its own format; memory is that of all together. Requests go to the model that
the artifact is about, `version` finds the others, an ensemble has its members. The loader calls `backend_of`; runtimes
are not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from serving.backends.base import Backend, Footprint, LoadedModel
from serving.backends.ensemble import EnsembleModel
from serving.backends.wrapping import WrappedBackend, WrappedModel
from serving.repository.config_pbtxt import ENSEMBLE
from serving.repository.layouts import ModelSpec
from serving.workers.plan import Host


@dataclass(frozen=True, slots=True)
class Part:
    """A model of several that are loaded as one; `predicted_bytes` stand for one that cannot say what it holds."""

    spec: ModelSpec
    model: LoadedModel
    predicted_bytes: int

    def held_bytes(self) -> int:
        """Return what it holds, measured or else predicted."""
        held = self.model.held_bytes()
        return self.predicted_bytes if held is None else held


def backend_of(backends: Mapping[str, Backend], spec: ModelSpec) -> Backend:
    """Return what makes `spec` ready, with all its parts."""
    own = backends[spec.format]
    return CompoundBackend(own, spec, backends) if spec.parts else own


def all_of(spec: ModelSpec) -> Iterator[ModelSpec]:
    """Yield the specs of a model and of all its parts, theirs too."""
    yield spec
    for each in spec.parts:
        yield from all_of(each)


class CompoundModel(WrappedModel):
    """A model with the parts that belong to it."""

    def __init__(self, own: Part, parts: tuple[Part, ...]) -> None:
        super().__init__(own.model)
        self._own = own
        self._parts = parts

    @property
    def all_parts(self) -> tuple[Part, ...]:
        """The model itself and what belongs to it."""
        return (self._own, *self._parts)

    def version(self, version: str) -> tuple[LoadedModel, ModelSpec] | None:
        """Return another version of this model, None where there is none of that name."""
        name = self._own.spec.name
        found = (each for each in self._parts if (each.spec.name, each.spec.version) == (name, version))
        return next(((each.model, each.spec) for each in found), None)

    def held_bytes(self) -> int | None:
        """Return what all of them hold outside this process; None where none is outside."""
        if all(each.model.held_bytes() is None for each in self.all_parts):
            return None
        return sum(each.held_bytes() for each in self.all_parts)

    def device_bytes(self) -> int | None:
        """Return what all of them hold on each device; None where one cannot say."""
        held = [each.model.device_bytes() for each in self.all_parts]
        known = [each for each in held if each is not None]
        return sum(known) if len(known) == len(held) else None

    def attach(self, host: Host) -> None:
        """Take whom to ask for more memory, for all of them."""
        held: dict[int, int] = {id(each): each.held_bytes() for each in self.all_parts}
        for each in self.all_parts:
            each.model.attach(_Share(host, held, id(each)))

    def close(self) -> None:
        """Let go of everything; one that fails does not keep the others."""
        with ExitStack() as stack:
            for each in self._parts:
                stack.callback(each.model.close)
            stack.callback(self._own.model.close)


class _Share:
    """The host of one part: what it holds is a summand of what all hold."""

    def __init__(self, host: Host, held: dict[int, int], key: int) -> None:
        self._host = host
        self._held = held
        self._key = key

    def grow(self, count: int) -> bool:
        """Take `count` more bytes if there is room."""
        return self._host.grow(count)

    def correct(self, count: int) -> None:
        """Note that this part holds `count` bytes by now."""
        self._held[self._key] = count
        self._host.correct(sum(self._held.values()))

    def withdraw(self, reason: str) -> None:
        """Note that this part is beyond repair, and so the whole."""
        self._host.withdraw(reason)


class CompoundBackend(WrappedBackend):
    """The backend of one model with parts; `inner` is that of the model itself."""

    def __init__(self, inner: Backend, spec: ModelSpec, backends: Mapping[str, Backend]) -> None:
        super().__init__(inner)
        self._parts = tuple((each, backend_of(backends, each)) for each in spec.parts)

    @property
    def is_outside(self) -> bool:
        """Whether any of them runs in processes of its own."""
        return self.inner.is_outside or any(backend.is_outside for _, backend in self._parts)

    def footprint(self, spec: ModelSpec) -> Footprint:
        """Add up what all of them hold; the peak is the highest while they load one after the other.

        They share their devices: each device is taken to hold what all of them hold on one.
        """
        peak = resident = device_peak = device_resident = 0
        devices: set[int] = set()
        is_apart = True
        for each, backend in (*self._parts, (spec, self.inner)):
            one = backend.footprint(each)
            peak = max(peak, resident + one.peak_bytes)
            resident += one.resident_bytes
            device_peak = max(device_peak, device_resident + one.device_peak_bytes)
            device_resident += one.device_resident_bytes
            devices |= set(one.devices)
            is_apart &= one.is_apart or not one.device_peak_bytes
        return Footprint(peak, resident, device_peak, device_resident, tuple(sorted(devices)), is_apart)

    def load(self, spec: ModelSpec) -> CompoundModel:
        """Make all of them ready, or none; raises what the backend of one raises."""
        backends = (*(backend for _, backend in self._parts), self.inner)
        with ExitStack() as stack:
            parts = []
            for each, backend in zip((*spec.parts, spec), backends, strict=True):
                # A step that is an ensemble calls those that lie beside it, too.
                is_step = each is not spec and each.format == ENSEMBLE
                model = backend.load(replace(each, members=spec.members) if is_step else each)
                stack.callback(model.close)
                parts.append(Part(each, model, backend.footprint(each).resident_bytes))
            stack.pop_all()
        *others, own = parts
        members = {each.spec.name.rpartition("/")[2]: (each.model, each.spec) for each in others}
        for ensemble in parts:
            if isinstance(ensemble.model, EnsembleModel):
                ensemble.model.adopt(members)
        return CompoundModel(own, tuple(others))
