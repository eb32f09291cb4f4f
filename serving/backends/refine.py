"""What a configuration may add to a signature that the model told itself.

A configuration may narrow a free dim and leave things out; where it contradicts the model, the model is not served.
What it calls optional may be left out of a request only where the model itself agrees. The backends whose formats tell
their signatures call it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from serving.errors import BadRequestError, InvalidArtifactError
from serving.tensors import TensorSpec


def refine(
    model: str, kind: str, found: Sequence[TensorSpec], configured: Sequence[TensorSpec] | None
) -> tuple[TensorSpec, ...]:
    """Return `found` with the free dims that `configured` narrows; `kind` is "input" or "output", for messages.

    Raises `InvalidArtifactError` for a configured name that the model has not, and for another dtype or other dims.
    """
    wanted = {spec.name: spec for spec in configured or ()}
    if unknown := set(wanted) - {spec.name for spec in found}:
        raise InvalidArtifactError(
            f"Model '{model}' is configured with the {kind} '{min(unknown)}' and has {[spec.name for spec in found]}: "
            "correct the name or leave it out."
        )
    return tuple(_narrowed(model, kind, spec, wanted.get(spec.name)) for spec in found)


def check_demanded(model: str, demanded: Iterable[str], given: Collection[str]) -> None:
    """Raise `BadRequestError` for an input that the configuration calls optional and the runtime does not."""
    for name in demanded:
        if name not in given:
            raise BadRequestError(
                f"Input '{name}' of model '{model}' is optional in its configuration, and the model itself demands it: "
                "send it."
            )


def _narrowed(model: str, kind: str, found: TensorSpec, wanted: TensorSpec | None) -> TensorSpec:
    if wanted is None:
        return found
    dims, dtype = wanted.dims or found.dims, wanted.dtype or found.dtype
    if found.dims is not None and dims is not None:
        pairs = list(zip(dims, found.dims, strict=False))
        fits = len(dims) == len(found.dims) and all(-1 in pair or len(set(pair)) == 1 for pair in pairs)
        if not fits or dtype != (found.dtype or dtype):
            raise InvalidArtifactError(
                f"Model '{model}' has the {kind} '{found.name}' of {found.dtype} {list(found.dims)} and is configured "
                f"with {dtype} {list(dims)}: correct the configuration or leave it out."
            )
        dims = tuple(map(max, pairs))
    return replace(wanted, dtype=dtype, dims=dims)
