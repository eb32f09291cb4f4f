"""Whether a request in Triton's language fits a model, and which outputs it gets: checks with Triton's texts.

Clients know these sentences, so they are Triton's to the letter as far as they were observed. Pure functions of a
question, a signature and a spec; `inference` calls them.
"""

from __future__ import annotations

from collections.abc import Collection

from serving.codecs import v2
from serving.codecs.v2 import Question
from serving.errors import BadRequestError
from serving.repository.layouts import ModelSpec
from serving.tensors import Array, Signature, Tensors, TensorSpec

# The texts that follow a mismatch of shapes, as Triton has them.
_BATCH_NOTE = (
    " NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


def fit(question: Question, signature: Signature, spec: ModelSpec) -> tuple[Tensors, int]:
    """Return the inputs in the model's order, and how many rows they are; raise with Triton's texts.

    1. A name that the model has not, of an input or of an output. 2. One that is missing. 3. The datatype.
    4. The shape. 5. The batch.
    """
    about = f"[request id: {question.id or '<id_unknown>'}] "
    # A model that tells nothing of its inputs takes what comes; its own code says what is wrong.
    known = {each.name: each for each in signature.inputs if each.dtype is not None or each.dims is not None}
    for name in question.inputs:
        if known and name not in known:
            raise BadRequestError(f"unexpected inference input '{name}' for model '{spec.name}'")
    if any(each.dtype is not None for each in signature.outputs):
        _refuse_outputs(question, {each.name for each in signature.outputs}, spec.name)
    optional = _optional(spec)
    missing = [name for name in known if name not in question.inputs and name not in optional]
    if missing:
        raise BadRequestError(
            f"{about}expected {len(known)} inputs but got {len(question.inputs)} inputs for model '{spec.name}'. "
            f"Got input(s) {list(question.inputs)}, but missing required input(s) {missing}. Please provide all "
            "required input(s)."
        )
    most = spec.scheduling.max_batch_size if spec.scheduling else 0
    sent = [name for name in known or question.inputs if name in question.inputs]
    for name in filter(known.get, sent):
        _check(about, spec.name, known[name], question.inputs[name], note=_BATCH_NOTE if most else "")
    tensors = {name: question.inputs[name][1] for name in sent}
    rows = _batch(about, tensors, spec.name, most) if most else 1
    return tensors, max(1, rows)


def _refuse_outputs(question: Question, known: Collection[str], model: str) -> None:
    for want in question.outputs:
        if want.name not in known:
            raise BadRequestError(f"unexpected inference output '{want.name}' for model '{model}'")


def _optional(spec: ModelSpec) -> set[str]:
    return {each["name"] for each in (spec.triton or {}).get("input", ()) if each.get("optional")}


def _batch(about: str, tensors: Tensors, model: str, most: int) -> int:
    rows = rows_of(tensors)
    if rows > most:
        raise BadRequestError(f"{about}inference request batch-size must be <= {most} for '{model}'")
    for name, array in tensors.items():
        if array.shape[:1] != (rows,):
            raise BadRequestError(f"{about}input '{name}' batch size does not match other inputs for '{model}'")
    return rows


def _check(about: str, model: str, wanted: TensorSpec, found: tuple[str, Array], note: str) -> None:
    datatype, array = found
    if wanted.dtype not in (None, datatype):
        raise BadRequestError(
            f"{about}inference input '{wanted.name}' data-type is '{datatype}', but model '{model}' expects "
            f"'{wanted.dtype}'"
        )
    if wanted.dims is not None and not _fits(wanted.dims, array):
        raise BadRequestError(
            f"{about}unexpected shape for input '{wanted.name}' for model '{model}'. Expected {_shape(wanted.dims)}, "
            f"got {_shape(array.shape)}.{note}"
        )


def _fits(dims: tuple[int, ...], array: Array) -> bool:
    return len(dims) == array.ndim and all(want in (-1, got) for want, got in zip(dims, array.shape, strict=True))


def _shape(dims: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, dims)) + "]"


def rows_of(tensors: Tensors) -> int:
    """Return the length of the first tensor's first dimension, 1 where there is none."""
    first = next(iter(tensors.values()), None)
    return int(first.shape[0]) if first is not None and first.ndim else 1


def choose(outputs: Tensors, question: Question, spec: ModelSpec, signature: Signature) -> Tensors:
    """Return the outputs that were asked for, in that order; classes in their place where those were asked for."""
    if not question.outputs:
        return outputs
    _refuse_outputs(question, outputs, spec.name)
    chosen: Tensors = {}
    for want in question.outputs:
        array = outputs[want.name]
        if want.classes:
            labels = next((getattr(s, "labels", None) for s in signature.outputs if s.name == want.name), None)
            has_batch = spec.scheduling.max_batch_size > 0 if spec.scheduling else signature.is_batched
            array = v2.classified(array, want.classes, labels, has_batch=has_batch)
        chosen[want.name] = array
    return chosen
