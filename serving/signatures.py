"""Models with several signatures, and which of them a request is for.

TensorFlow's SavedModels have them (`methods_of`); a request names another than the usual one in the parameter
`signature_name`, and its worker looks there. Every other model has the usual one alone. `inference` asks here, and who
describes a model.
"""

from __future__ import annotations

from collections.abc import Mapping

from serving.backends.base import LoadedModel, methods_of
from serving.codecs.v2 import Question
from serving.errors import BadRequestError
from serving.tensors import Method, Signature

DEFAULT = "serving_default"
"""The signature of a request that names none, as TensorFlow Serving has it."""

PARAMETER = "signature_name"


def signatures_of(model: LoadedModel) -> Mapping[str, Method]:
    """Return the ways in which a model can be asked, by name: one at least."""
    return methods_of(model) or {DEFAULT: Method(model.signature)}


def signature_of(model: LoadedModel, question: Question, name: str) -> Signature:
    """Return the inputs and outputs of the signature that a request names, the usual ones for none.

    Raises `BadRequestError` for one that the model, of the name `name`, has not.
    """
    wanted = question.parameters.get(PARAMETER)
    if wanted is None or not (methods := methods_of(model)):
        return model.signature
    if wanted not in methods:
        raise BadRequestError(
            f"Model '{name}' has no signature {str(wanted)[:80]!r}, but {sorted(methods)}: name one of those in the "
            f"parameter {PARAMETER}, or none."
        )
    return methods[str(wanted)].signature


def signed(model: LoadedModel, name: str, signature: str) -> tuple[Signature, dict[str, str]]:
    """Return the signature of that name, "" for the usual one, and the parameters by which a request asks for it.

    Raises `BadRequestError` in TensorFlow Serving's words for one that the model, of the name `name`, has not.
    """
    if signature == "":
        return model.signature, {}
    known = signatures_of(model)
    if signature not in known:
        raise BadRequestError(
            f"Serving signature name: \"{signature[:200]}\" not found in signature def: model '{name}' has "
            f"{', '.join(sorted(known))}."
        )
    return known[signature].signature, {PARAMETER: signature} if methods_of(model) else {}
