"""Triton's `reshape`: clients see one shape of a tensor, the model another.

A model whose configuration has no reshape is untouched. Free dims keep their order, so that each one of the shape to
make is the size that stands at its place in the shape that came. Whoever merges requests does so around this room.
`server` puts it around the backends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from serving.backends.base import LoadedModel
from serving.backends.wrapping import WrappedBackend, WrappedModel
from serving.errors import ModelFailedError
from serving.repository.layouts import ModelSpec
from serving.tensors import Array, Signature, Tensors, TensorSpec
from serving.workers.handler import Reply, Request

Dims = tuple[int, ...]


class ReshapedBackend(WrappedBackend):
    """A backend whose models may have reshapes."""

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Make the model ready: it is told of its own shapes alone."""
        tensors = (*(spec.inputs or ()), *(spec.outputs or ()))
        if all(each.reshape is None for each in tensors):
            return self.inner.load(spec)
        own = replace(spec, inputs=_inner_specs(spec.inputs), outputs=_inner_specs(spec.outputs))
        return ReshapedModel(spec, self.inner.load(own))


class ReshapedModel(WrappedModel):
    """A model between two shapes of its tensors."""

    def __init__(self, spec: ModelSpec, inner: LoadedModel) -> None:
        super().__init__(inner)
        self._name = spec.name
        inputs, outputs = inner.signature.inputs, inner.signature.outputs
        self._signature = Signature(_outer_specs(inputs, spec.inputs), _outer_specs(outputs, spec.outputs))
        self._inputs = {each.name: each for each in self._signature.inputs if each.reshape is not None}
        self._outputs = {each.name: each for each in self._signature.outputs if each.reshape is not None}

    @property
    def signature(self) -> Signature:
        """Inputs and outputs as clients see them."""
        return self._signature

    def run(self, inputs: Tensors) -> Tensors:
        """Compute the outputs by name; raises `ModelFailedError` for an output of another shape than is configured."""
        return self._outward(self.inner.run(self._inward(inputs)))

    def invoke(self, request: Request, deadline: float) -> Reply:
        """Answer a request before `deadline`."""
        if request.tensors is not None:
            request = replace(request, tensors=self._inward(request.tensors))
        reply = super().invoke(request, deadline)
        return reply if reply.tensors is None else replace(reply, tensors=self._outward(reply.tensors))

    def _inward(self, tensors: Tensors) -> Tensors:
        return {
            name: array.reshape(_filled(spec.reshape or (), spec.dims or (), array.shape))
            if (spec := self._inputs.get(name))
            else array
            for name, array in tensors.items()
        }

    def _outward(self, tensors: Tensors) -> Tensors:
        return {
            name: self._given(array, spec) if (spec := self._outputs.get(name)) else array
            for name, array in tensors.items()
        }

    def _given(self, array: Array, spec: TensorSpec) -> Array:
        own = spec.reshape or ()
        if len(own) != array.ndim or any(want not in (-1, got) for want, got in zip(own, array.shape, strict=True)):
            raise ModelFailedError(
                f"Model '{self._name}' gave the output '{spec.name}' of shape {list(array.shape)} and its reshape says "
                f"{list(own)}: correct its config.pbtxt."
            )
        return array.reshape(_filled(spec.dims or (), own, array.shape))


def _filled(wanted: Dims, found: Dims, shape: Dims) -> Dims:
    """Return `wanted` with its free dims, in order, as `shape` has them where `found` is free."""
    free = iter([got for dim, got in zip(found, shape, strict=True) if dim == -1])
    return tuple(next(free) if dim == -1 else dim for dim in wanted)


def _inner_specs(specs: tuple[TensorSpec, ...] | None) -> tuple[TensorSpec, ...] | None:
    if specs is None:
        return None
    return tuple(each if each.reshape is None else replace(each, dims=each.reshape, reshape=None) for each in specs)


def _outer_specs(found: Iterable[TensorSpec], configured: Iterable[TensorSpec] | None) -> tuple[TensorSpec, ...]:
    reshaped: Mapping[str, TensorSpec] = {each.name: each for each in configured or () if each.reshape is not None}
    return tuple(_outer(each, reshaped[each.name]) if each.name in reshaped else each for each in found)


def _outer(found: TensorSpec, configured: TensorSpec) -> TensorSpec:
    """Return the clients' side of `found`, with the free dims that the model itself narrowed."""
    own, dims = configured.reshape or (), configured.dims or ()
    told = own if found.dims is None else found.dims
    return replace(found, dims=_filled(dims, own, told), reshape=_filled(own, own, told))
