"""Answers of the Open Inference protocol: written, classified."""

from __future__ import annotations

import json

import numpy as np
import pytest

from serving.codecs import v2
from serving.codecs.v2 import Question, Wanted
from serving.errors import BadRequestError
from serving.tensors import Array


def texts(*elements: bytes) -> Array:
    """A BYTES array of one dimension."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


# ---- writing ---------------------------------------------------------------------------------------------------------

HEAD = {"model_name": "m", "model_version": "1"}


def test_an_answer_in_json_has_tritons_keys_in_tritons_order() -> None:
    """Clients compare whole texts."""
    body, header = v2.write(HEAD, {"y": np.array([[1.5]], np.float32)}, Question())

    assert header is None
    assert body == (
        b'{"model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1,1],"data":[1.5]}]}'
    )


def test_binary_outputs_follow_the_json() -> None:
    """Mixed, each as it was asked for; an empty one has a size, too."""
    question = Question(outputs=[Wanted("a", True), Wanted("b"), Wanted("c", True)])
    outputs = {"a": np.array([1], np.int16), "b": texts(b"x"), "c": np.empty((0, 2), np.float32)}
    body, header = v2.write(HEAD, outputs, question)
    document = json.loads(body[:header])

    assert body[header:] == b"\x01\x00"
    assert [each.get("parameters") for each in document["outputs"]] == [
        {"binary_data_size": 2},
        None,
        {"binary_data_size": 0},
    ]
    assert [each.get("data") for each in document["outputs"]] == [None, ["x"], None]


def test_binary_outputs_that_are_all_empty_leave_json() -> None:
    """Nothing follows it, so that nobody needs its length."""
    body, header = v2.write(HEAD, {"a": np.empty((0, 2), np.float32)}, Question(is_binary=True))

    assert header is None
    assert json.loads(body)["outputs"][0]["parameters"] == {"binary_data_size": 0}


# ---- classification --------------------------------------------------------------------------------------------------


def test_the_best_classes_come_first_with_their_labels() -> None:
    """One row each where there is a batch, else one for all."""
    scores = np.array([[0.5, 30, 1], [2, 1, 0]], np.float32)

    assert v2.classified(scores, 2, ("a", "b"), has_batch=True).tolist() == [
        [b"30.000000:1:b", b"1.000000:2"],
        [b"2.000000:0:a", b"1.000000:1:b"],
    ]
    assert v2.classified(scores, 1, None, has_batch=False).tolist() == [b"30.000000:1"]
    ranks = np.array([3, 2**60 + 1])
    assert v2.classified(ranks, 2, ("a",), has_batch=False).tolist() == [b"1152921504606846977:1", b"3:0:a"]


def test_classes_of_odd_outputs_are_no_accident() -> None:
    """Empty ones, scalars, and those that have no order."""
    assert v2.classified(np.empty((0, 4)), 2, None, has_batch=True).shape == (0, 2)
    assert v2.classified(np.array(3.0), 2, None, has_batch=True).tolist() == [b"3.000000:0"]
    with pytest.raises(BadRequestError, match="unsupported type 'BYTES'"):
        v2.classified(texts(b"a"), 1, None, has_batch=False)
    with pytest.raises(BadRequestError, match="unsupported type 'BOOL'"):
        v2.classified(np.array([True]), 1, None, has_batch=False)
