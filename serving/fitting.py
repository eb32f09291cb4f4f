"""Whether a request in Triton's language fits a model, and which outputs it gets: checks with Triton's texts.

Clients know these sentences, so they are Triton's to the letter as far as they were observed. Pure functions of a
question, a signature and a spec; `inference` calls them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from serving.codecs import v2
from serving.codecs.packed import shown
from serving.codecs.v2 import Question
from serving.errors import BadRequestError
from serving.repository.layouts import ModelSpec
from serving.tensors import DTYPES, Array, Signature, Tensors, TensorSpec

# The texts that follow a mismatch of shapes, as Triton has them.
_BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


def fit(question: Question, signature: Signature, spec: ModelSpec) -> tuple[Tensors, int]:
    """Return the inputs in the model's order, and how many rows they are; raise with Triton's texts.

    In Triton's order: 1. an output that the model has not; 2. too few inputs; 3. one that it has not; 4. one that is
    missing; 5. the batch; of each input 6. the datatype, 7. the shape, 8. the bytes.
    """
    # A model that tells nothing of its inputs takes what comes; its own code says what is wrong.
    known = {each.name: each for each in signature.inputs if each.dtype is not None or each.dims is not None}
    if question.outputs and _tells_outputs(signature):
        _refuse_outputs(question, {each.name for each in signature.outputs}, spec.name)
    if question.inputs.keys() != known.keys():
        _check_names(question, known, spec)
    most = spec.scheduling.max_batch_size if spec.scheduling else 0
    about, rows = question.about, 1
    if most:
        shapes = {name: tensor.shape for name, (_, tensor) in question.inputs.items()}
        rows = _rows(about, shapes, spec.name, most)
    tensors = {}
    for name in known or question.inputs:
        if name not in question.inputs:  # an optional one
            continue
        if name in known:
            datatype, tensor = question.inputs[name]
            _check(about, spec.name, known[name], datatype, tensor.shape, _BATCH_NOTE if most else "")
        tensors[name] = question.array(name, spec.name)
    return tensors, max(1, rows)


def _check_names(question: Question, known: Mapping[str, TensorSpec], spec: ModelSpec) -> None:
    optional = _optional(spec)
    required = sum(name not in optional for name in known)
    missing = [name for name in known if name not in question.inputs and name not in optional]
    if len(question.inputs) >= required:
        for name in question.inputs:
            if known and name not in known:
                raise BadRequestError(f"unexpected inference input '{name}' for model '{spec.name}'")
    if missing:
        wanted = f"{len(known)} inputs"
        if required < len(known):
            wanted = f"number of inputs between {required} and {len(known)}"
        raise BadRequestError(
            f"{question.about}expected {wanted} but got {len(question.inputs)} inputs for model '{spec.name}'. "
            f"Got input(s) {_listed(question.inputs)}, but missing required input(s) {_listed(missing)}. Please "
            "provide all required input(s)."
        )


def _listed(names: Iterable[str]) -> str:
    return "[" + ",".join(f"'{name}'" for name in names) + "]"


def _tells_outputs(signature: Signature) -> bool:
    return any(each.dtype is not None for each in signature.outputs)


def _refuse_outputs(question: Question, known: Collection[str], model: str) -> None:
    for want in question.outputs:
        if want.name not in known:
            raise BadRequestError(f"unexpected inference output '{want.name}' for model '{model}'")


def _optional(spec: ModelSpec) -> set[str]:
    return {each["name"] for each in (spec.triton or {}).get("input", ()) if each.get("optional")}


def _rows(about: str, shapes: Mapping[str, tuple[int, ...]], model: str, most: int) -> int:
    """Return how many rows all inputs have; the last is looked at first, as Triton's table mostly hands them out."""
    rows: int | None = None
    for name, shape in reversed(list(shapes.items())):
        if not shape:
            raise BadRequestError(
                f"{about}input '{name}' has no shape but model requires batch dimension for '{model}'"
            )
        if rows not in (None, shape[0]):
            raise BadRequestError(f"{about}input '{name}' batch size does not match other inputs for '{model}'")
        rows = shape[0]
    if rows is not None and rows > most:
        raise BadRequestError(f"{about}inference request batch-size must be <= {most} for '{model}'")
    return 1 if rows is None else rows


def _check(  # noqa: PLR0913  two descriptions of one tensor
    about: str, model: str, wanted: TensorSpec, datatype: str, shape: tuple[int, ...], note: str
) -> None:
    if wanted.dtype not in (None, datatype):
        raise BadRequestError(
            f"{about}inference input '{wanted.name}' data-type is '{datatype if datatype in DTYPES else '<invalid>'}', "
            f"but model '{model}' expects '{wanted.dtype}'"
        )
    if wanted.dims is not None and not _fits(wanted.dims, shape):
        raise BadRequestError(
            f"{about}unexpected shape for input '{wanted.name}' for model '{model}'. Expected {shown(wanted.dims)}, "
            f"got {shown(shape)}. {note}"
        )


def _fits(dims: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(dims) == len(shape) and all(want in (-1, got) for want, got in zip(dims, shape, strict=True))


def rows_of(tensors: Tensors) -> int:
    """Return the length of the first tensor's first dimension, 1 where there is none."""
    first = next(iter(tensors.values()), None)
    return int(first.shape[0]) if first is not None and first.ndim else 1


def choose(outputs: Tensors, question: Question, spec: ModelSpec, signature: Signature) -> Tensors:
    """Return the outputs that were asked for, in the model's order; classes in their place where those were asked for.

    What a model has and did not answer with is left out, as Triton does.
    """
    if not question.outputs:
        return outputs
    if not _tells_outputs(signature):
        _refuse_outputs(question, outputs, spec.name)
    wanted = {each.name: each.classes for each in question.outputs}
    chosen = {name: array for name, array in outputs.items() if name in wanted}
    for name, array in chosen.items():
        if wanted[name]:
            chosen[name] = _classified(name, array, wanted[name], spec, signature)
    return chosen


def _classified(name: str, array: Array, classes: int, spec: ModelSpec, signature: Signature) -> Array:
    labels = next((getattr(each, "labels", None) for each in signature.outputs if each.name == name), None)
    has_batch = spec.scheduling.max_batch_size > 0 if spec.scheduling else signature.is_batched
    return v2.classified(array, classes, labels, has_batch=has_batch)
