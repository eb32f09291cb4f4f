"""A backend and a model around another: everything is passed on, for those who change one thing at this seam.

`reshaped`, `warmed`, `queued`, `batched` and `grouped` derive from these. Nothing here acts by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from serving.backends.base import Backend, Footprint, HandlerModel, LoadedModel, methods_of
from serving.repository.layouts import ModelSpec
from serving.tensors import Method, Signature, Tensors
from serving.workers.handler import Reply, Request
from serving.workers.plan import Host


class WrappedBackend:
    """Passes all calls on to `inner`."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.name = inner.name

    @property
    def is_outside(self) -> bool:
        """Whether the models run in processes of their own."""
        return self.inner.is_outside

    def outside_bytes(self) -> int:
        """Return what the runtime holds outside this process, in bytes."""
        return self.inner.outside_bytes()

    def prepare(self) -> bool:
        """Import the runtime if it is not yet; return whether this call did."""
        return self.inner.prepare()

    def footprint(self, spec: ModelSpec) -> Footprint:
        """Predict from the artifact alone."""
        return self.inner.footprint(spec)

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Make the model ready."""
        return self.inner.load(spec)


class WrappedModel:
    """Passes all calls on to `inner`."""

    def __init__(self, inner: LoadedModel) -> None:
        self.inner = inner

    @property
    def signature(self) -> Signature:
        """Inputs and outputs."""
        return self.inner.signature

    @property
    def methods(self) -> Mapping[str, Method]:
        """The ways in which it can be called, by name."""
        return methods_of(self.inner)

    @property
    def threads(self) -> int:
        """CPU threads that one run uses."""
        return self.inner.threads

    @property
    def is_outside(self) -> bool:
        """Whether it runs in processes of its own."""
        return self.inner.is_outside

    @property
    def takes_bodies(self) -> bool:
        """Whether its own code reads bodies as they come."""
        return self.inner.takes_bodies

    def held_bytes(self) -> int | None:
        """Return the memory that it holds outside this process."""
        return self.inner.held_bytes()

    def device_bytes(self) -> int | None:
        """Return the memory that it holds on each of its devices."""
        return self.inner.device_bytes()

    def attach(self, host: Host) -> None:
        """Take whom to ask for more memory."""
        self.inner.attach(host)

    def run(self, inputs: Tensors) -> Tensors:
        """Compute the outputs by name."""
        return self.inner.run(inputs)

    def invoke(self, request: Request, deadline: float) -> Reply:
        """Answer a request before `deadline`; only where `inner` is a `HandlerModel`."""
        return cast("HandlerModel", self.inner).invoke(request, deadline)

    def close(self) -> None:
        """Let go of everything."""
        self.inner.close()
