"""What a backend is: a brand of runtime that makes a model ready and runs it.

Backends do not know each other, nor HTTP, nor who else is loaded. `manager` calls them: `footprint` before the
reservation, `load` outside every lock, `run` from the thread of the request, `close` at the unload. A backend imports
its heavy library in `prepare`, never at module level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from serving.repository.layouts import ModelSpec
from serving.tensors import Method, Signature, Tensors
from serving.workers.handler import Reply, Request
from serving.workers.plan import Host


@dataclass(frozen=True, slots=True)
class Footprint:
    """Predicted memory of a model in bytes: while it loads (`peak_bytes`) and once it is ready (`resident_bytes`).

    The same on a device, 0 for a model that uses none. `devices` are those it must be on, by CUDA's numbers, with as
    many bytes on each; () leaves it to the house, which chooses one and says so in the `placement` of the spec. A model
    that `is_apart` has processes of its own there, whose contexts go with it.
    """

    peak_bytes: int
    resident_bytes: int
    device_peak_bytes: int = 0
    device_resident_bytes: int = 0
    devices: tuple[int, ...] = ()
    is_apart: bool = False


class LoadedModel(Protocol):
    """A model that is ready."""

    @property
    def signature(self) -> Signature:
        """Inputs and outputs, found out from the model or its configuration."""

    @property
    def threads(self) -> int:
        """CPU threads that one run uses; the core budget grants that many before `run` is called."""

    @property
    def is_outside(self) -> bool:
        """Whether it runs in processes of its own, beside the core budget: one that hangs must not hold a core."""

    @property
    def takes_bodies(self) -> bool:
        """Whether it is a `HandlerModel`, whose own code reads bodies as they come."""

    def held_bytes(self) -> int | None:
        """Return the memory that it holds outside this process; None for a model in it."""

    def device_bytes(self) -> int | None:
        """Return the memory that it holds on each device of its placement, as its allocator knows it.

        None leaves the measuring to the house, which reads the device before and after the load.
        """

    def attach(self, host: Host) -> None:
        """Take whom to ask for more memory; called once, when the model is ready."""

    def run(self, inputs: Tensors) -> Tensors:
        """Compute the outputs by name. Inputs are checked against the signature already.

        Raises `ModelFailedError` when the model fails on this input, `InsufficientMemoryError` when its allocator does.
        """

    def close(self) -> None:
        """Let go of everything, on devices too (an allocator's cache goes back to the driver).

        The manager gives the memory back to the system afterwards, and waits for a device's bytes.
        """


class HandlerModel(LoadedModel, Protocol):
    """A model that takes bodies as they come."""

    def invoke(self, request: Request, deadline: float) -> Reply:
        """Answer a request before `deadline` (of the monotonic clock).

        Raises `ModelFailedError` with the last line of the model's exception, `UnavailableError` when it is lost.
        """


def methods_of(model: LoadedModel) -> Mapping[str, Method]:
    """Return the ways in which a model can be called, by name, none for one that has only its `signature`.

    A request chooses by `about["parameters"]["signature_name"]`; one that does not gets `signature`.
    """
    found: Mapping[str, Method] = getattr(model, "methods", {})
    return found


class InProcessModel:
    """What all models that run in this process have in common."""

    is_outside = False
    takes_bodies = False

    def held_bytes(self) -> None:
        """Leave the measuring to the loader: this process grew."""

    def device_bytes(self) -> int | None:
        """Leave the measuring to the loader: the device's use grew."""
        return None

    def attach(self, host: Host) -> None:
        """Take no notice: a model in this process never grows by itself."""


class InProcessBackend:
    """What all backends that run models in this process have in common."""

    is_outside = False

    def outside_bytes(self) -> int:
        """Return 0: there is nothing outside."""
        return 0


class Backend(Protocol):
    """One brand of runtime."""

    name: str

    @property
    def is_outside(self) -> bool:
        """Whether its models load and run in processes of their own."""

    def outside_bytes(self) -> int:
        """Return what the runtime itself holds outside this process, in bytes."""

    def prepare(self) -> bool:
        """Import the runtime if it is not yet; return whether this call did (its memory is not the first model's).

        What it takes on devices meanwhile (a CUDA context made here) is the runtime's as well.

        Raises `LoadFailedError` that says what to install when the runtime is missing.
        """

    def footprint(self, spec: ModelSpec) -> Footprint:
        """Predict from the artifact alone, without importing the runtime or reading the weights."""

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Make the model ready, on the devices of `spec.placement`.

        Raises `InvalidArtifactError` for a file that is not what it claims, `LoadFailedError` for other failures,
        `InsufficientMemoryError` only for a typed memory error, never because of words in a message.
        """
