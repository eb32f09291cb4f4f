"""The methods of TensorFlow Serving's API, whatever route they came by: predict, classify, regress.

Reads a body, asks a model for an answer and writes it. How the model is found and held is the caller's: `tfs` has it by
the path, `tfs_container` has it in hand.
"""

from __future__ import annotations

from collections.abc import Callable

from serving.codecs import json, tfs, tfs_examples
from serving.codecs.v2 import Question
from serving.inference import Answer, Reader
from serving.tensors import Signature, Tensors

METHODS = ("predict", "classify", "regress")

Ask = Callable[[str, Reader], Answer]
"""Has a model answer by the signature of that name."""


def run(method: str, body: bytes, model: str, ask: Ask) -> bytes:
    """Return the body that answers `body`; raises `BadRequestError` in TensorFlow Serving's words, and what `ask` does.

    `method` is one of METHODS, `model` the model's name.
    """
    if method == "predict":
        asked = tfs.read_predict(body)
        answer = ask(asked.signature, reader(asked))
        return tfs.write_predict(answer.outputs, asked.form)
    examples = tfs_examples.read_examples(body)

    def read(signature: Signature) -> Question:
        tfs_examples.check_signature(method, signature, model)
        return _question(examples.tensors)

    return tfs_examples.write_results(method, ask(examples.signature, read).outputs, len(examples.serialized))


def reader(asked: tfs.Prediction) -> Reader:
    """Return what makes a question of a request to predict."""
    return lambda signature: _question(tfs.tensors(asked, signature))


def _question(tensors: Tensors) -> Question:
    return Question(inputs={name: (json.datatype_of(array), array) for name, array in tensors.items()})
