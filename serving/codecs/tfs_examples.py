"""Bodies of TensorFlow Serving's classify and regress APIs: examples in, as a SavedModel takes them, results out.

    {"signature_name"?, "context"?: {feature: value}, "examples": [{feature: value | [value, ...]}, ...]}
    -> {"results": [[[label, score], ...], ...]}  or  {"results": [number, ...]}

A model for examples takes each as the bytes of a `tf.Example`, which `tf_example` writes. The context's bytes go before
those of every example, which merges the two (a protobuf's rule). Sentences are TensorFlow Serving's (its
util/json_tensor.cc, classifier.cc and regressor.cc). Called by `http/tfs_methods`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from serving.codecs import tfs
from serving.codecs.tf_example import example_bytes, shown
from serving.errors import BadRequestError
from serving.tensors import Array, Signature, Tensors

INPUTS, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"


@dataclass(frozen=True, slots=True)
class Examples:
    """A request to classify or regress: the signature's name and each example as the bytes of a `tf.Example`."""

    signature: str
    serialized: list[bytes]

    @property
    def tensors(self) -> Tensors:
        """What the model takes: one input of all the examples."""
        array = np.empty(len(self.serialized), object)
        array[:] = self.serialized
        return {INPUTS: array}


def read_examples(body: bytes) -> Examples:
    """Read a request to classify or regress; raises `BadRequestError` in TensorFlow Serving's words."""
    document = tfs.load(body)
    name = tfs.signature_name(document)
    context = example_bytes(document["context"]) if "context" in document else b""
    if "examples" not in document:
        raise BadRequestError(
            f"JSON Value: {shown(document)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if isinstance(examples, np.ndarray):
        examples = examples.tolist()
    if not isinstance(examples, list):
        raise BadRequestError(f"JSON Value: {shown(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise BadRequestError(f"JSON Value: {shown(document)} 'examples' value is an empty array")
    return Examples(name, [context + example_bytes(each) for each in examples])


# ---- signatures and answers ------------------------------------------------------------------------------------------


def check_signature(method: str, signature: Signature, model: str) -> None:
    """Raise `BadRequestError` for a signature that is not one to `classify` or `regress` by examples."""
    kind = "classification" if method == "classify" else "regression"
    advice = f"model '{model}' takes {_told(signature)}, not tf.Examples: call :predict, or name a signature that does."
    if len(signature.inputs) != 1:
        raise BadRequestError(f"Expected one input Tensor: {advice}")
    if signature.inputs[0].name != INPUTS or signature.inputs[0].dtype not in ("BYTES", None):
        raise BadRequestError(f"No {kind} inputs found in SignatureDef: {advice}")
    names = {each.name for each in signature.outputs}
    if method == "classify" and not names & {CLASSES, SCORES}:
        raise BadRequestError(
            f'Expected classification signature outputs to contain at least one of "{CLASSES}" or "{SCORES}". '
            f"Signature was: {sorted(names)}: call :predict, or name a signature that has them."
        )
    if method == "regress" and OUTPUTS not in names:
        raise BadRequestError(
            f"No regression outputs found in SignatureDef: {sorted(names)} has no '{OUTPUTS}': call :predict, or name "
            "a signature that has it."
        )


def _told(signature: Signature) -> str:
    return ", ".join(f"{each.name} ({each.dtype or 'any type'})" for each in signature.inputs) or "no inputs"


def write_results(method: str, outputs: Mapping[str, Array], count: int) -> bytes:
    """Write what a model said of `count` examples; raises `BadRequestError` for outputs that are no such answer."""
    return _write_classes(outputs, count) if method == "classify" else _write_numbers(outputs, count)


def _write_classes(outputs: Mapping[str, Array], count: int) -> bytes:
    classes, scores = outputs.get(CLASSES), outputs.get(SCORES)
    for name, kind, array in ((CLASSES, "OSU", classes), (SCORES, "f", scores)):
        if array is None:
            continue
        if array.ndim != 2:
            raise BadRequestError(
                f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)} ({name})"
            )
        if array.dtype.kind not in kind:
            wanted = "DT_STRING" if name == CLASSES else "DT_FLOAT"
            raise BadRequestError(f"Expected {name} Tensor of {wanted}. Got: {array.dtype}")
        if array.shape[0] != count:
            raise BadRequestError(f"Expected {name} output batch size of {count}. Got: {array.shape[0]}")
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise BadRequestError(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    filled = scores if scores is not None else classes
    if filled is None:
        raise BadRequestError(f"The model answered neither {CLASSES} nor {SCORES}.")
    labels = np.full(filled.shape, "", object) if classes is None else classes
    numbers = np.zeros(filled.shape, np.float32) if scores is None else scores
    # The numbers as arrays of one: they are written as short as a float32 is, and not as the double it becomes.
    results = [[list(pair) for pair in zip(*row, strict=True)] for row in zip(labels, numbers, strict=True)]
    return tfs.dump({"results": results}, {SCORES: numbers})


def _write_numbers(outputs: Mapping[str, Array], count: int) -> bytes:
    array = outputs.get(OUTPUTS)
    if array is None:
        raise BadRequestError(f"Could not find output tensor '{OUTPUTS}'")
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise BadRequestError(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(array.shape)}"
        )
    if array.shape[0] != count:
        raise BadRequestError(f"Input batch size did not match output batch size: {count} vs. {array.shape[0]}")
    if array.dtype.kind != "f":
        raise BadRequestError(f"Expected output Tensor of DT_FLOAT.  Got: {array.dtype}")
    flat = array.reshape(count)
    return tfs.dump({"results": flat}, {OUTPUTS: flat})
