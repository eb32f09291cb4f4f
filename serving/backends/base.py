"""What a backend is: a brand of runtime that makes a model ready and runs it.

Backends do not know each other, nor HTTP, nor who else is loaded. `manager` calls them: `footprint` before the
reservation, `load` outside every lock, `run` from the thread of the request, `close` at the unload. A backend imports
its heavy library in `prepare`, never at module level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from serving.repository.layouts import ModelSpec
from serving.tensors import Signature, Tensors


@dataclass(frozen=True, slots=True)
class Footprint:
    """Predicted memory of a model in bytes: while it loads (`peak_bytes`) and once it is ready (`resident_bytes`)."""

    peak_bytes: int
    resident_bytes: int


class LoadedModel(Protocol):
    """A model that is ready."""

    @property
    def signature(self) -> Signature:
        """Inputs and outputs, found out from the model or its configuration."""

    @property
    def threads(self) -> int:
        """CPU threads that one run uses; the core budget grants that many before `run` is called."""

    def run(self, inputs: Tensors) -> Tensors:
        """Compute the outputs by name. Inputs are checked against the signature already.

        Raises `ModelFailedError` when the model fails on this input, `InsufficientMemoryError` when its allocator does.
        """

    def close(self) -> None:
        """Let go of everything; the manager gives the memory back to the system afterwards."""


class Backend(Protocol):
    """One brand of runtime."""

    name: str

    def prepare(self) -> bool:
        """Import the runtime if it is not yet; return whether this call did (its memory is not the first model's).

        Raises `LoadFailedError` that says what to install when the runtime is missing.
        """

    def footprint(self, spec: ModelSpec) -> Footprint:
        """Predict from the artifact alone, without importing the runtime or reading the weights."""

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Make the model ready.

        Raises `InvalidArtifactError` for a file that is not what it claims, `LoadFailedError` for other failures,
        `InsufficientMemoryError` only for a typed memory error, never because of words in a message.
        """
