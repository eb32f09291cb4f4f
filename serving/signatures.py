"""Models with several signatures: one of them by its name, seen as a model of its own.

TensorFlow's SavedModels have them (`methods_of`), and a request that is for another than the default one names it in a
parameter. Every other model has the default one alone. `inference` asks here, and who describes a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from serving.backends.base import LoadedModel, methods_of
from serving.backends.wrapping import WrappedModel
from serving.errors import BadRequestError
from serving.tensors import Method, Signature
from serving.workers.handler import Reply, Request

DEFAULT = "serving_default"
"""The signature of a request that names none, as TensorFlow Serving has it."""

PARAMETER = "signature_name"
"""The parameter of a request that names another."""


def signatures_of(model: LoadedModel) -> Mapping[str, Method]:
    """Return the ways in which a model can be asked, by name: one at least."""
    return methods_of(model) or {DEFAULT: Method(model.signature)}


def signed(model: LoadedModel, name: str, signature: str) -> LoadedModel:
    """Return the model as `signature` has it, "" for the default one; raises `BadRequestError` for one that is not.

    `name` is the model's, for the error.
    """
    if signature == "":
        return model
    known = signatures_of(model)
    if signature not in known:
        raise BadRequestError(
            f"Serving signature name: \"{signature[:200]}\" not found in signature def: model '{name}' has "
            f"{', '.join(known)}."
        )
    return SignedModel(model, signature, known[signature].signature) if methods_of(model) else model


class SignedModel(WrappedModel):
    """A model by one of its signatures."""

    def __init__(self, inner: LoadedModel, name: str, signature: Signature) -> None:
        super().__init__(inner)
        self._name = name
        self._signature = signature

    @property
    def signature(self) -> Signature:
        """Inputs and outputs of that signature."""
        return self._signature

    def invoke(self, request: Request, deadline: float) -> Reply:
        """Have the model answer by this signature; such models are outside, and their workers look for its name."""
        parameters = {**request.about.get("parameters", {}), PARAMETER: self._name}
        return super().invoke(replace(request, about={**request.about, "parameters": parameters}), deadline)
