"""Bodies of classify and regress: examples become the bytes of tf.Example, outputs become results."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.codecs import tfs_examples
from serving.errors import BadRequestError
from serving.tensors import Signature, TensorSpec

EXAMPLES = Signature((TensorSpec("inputs", "BYTES", (-1,)),), (TensorSpec("classes"), TensorSpec("scores")))
REGRESSION = Signature(EXAMPLES.inputs, (TensorSpec("outputs"),))


def serialized(document: Any) -> list[bytes]:
    """Read a document's examples."""
    return tfs_examples.read_examples(json.dumps(document).encode()).serialized


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (1.5, "0a0f0a0d0a0178120812060a040000c03f"),
        ([1, True, -1], "0a170a150a017812101a0e0a0c0101ffffffffffffffffff01"),
        (["a", {"b64": "AA=="}], "0a0f0a0d0a017812080a060a01610a0100"),
        (["a", {"b64": "AA"}], "0a0f0a0d0a017812080a060a01610a0100"),
        ([], "0a070a050a01781200"),
    ],
)
def test_an_example_is_the_bytes_that_tensorflow_writes(value: Any, wire: str) -> None:
    """Written down from tf.train.Example of TensorFlow 2.21."""
    assert serialized({"examples": [{"x": value}]}) == [bytes.fromhex(wire)]


features = st.dictionaries(
    st.text(max_size=4),
    st.one_of(
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=4),
        st.lists(st.text(max_size=5), max_size=4),
        st.booleans(),
    ),
    max_size=4,
)


@settings(deadline=None)
@given(features, features)
def test_tensorflow_reads_the_examples_as_they_were(context: dict[str, Any], example: dict[str, Any]) -> None:
    """Every kind of feature; the context is in every example, whose own word counts."""
    tensorflow = pytest.importorskip("tensorflow")
    document = {"context": context, "examples": [example, {}]}
    first, second = (tensorflow.train.Example.FromString(each) for each in serialized(document))
    assert _features(first) == {name: _listed(value) for name, value in (context | example).items()}
    assert _features(second) == {name: _listed(value) for name, value in context.items()}


def _features(example: Any) -> dict[str, list[Any]]:
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found


def _listed(value: Any) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    return [each.encode() if isinstance(each, str) else each for each in values]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "key 'examples' is expected and was not found"),
        ({"examples": 3}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [3]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{}], "context": []}, "Example must be JSON object but got JSON Array"),
        ({"examples": [{"x": None}]}, "Feature: x has element with unexpected JSON type: Null"),
        ({"examples": [{"x": [[1]]}]}, "Feature: x has element with unexpected JSON type: Array"),
        ({"examples": [{"x": {"y": 1}}]}, "Feature: x has element with unexpected JSON type: Object"),
        ({"examples": [{"x": [1, 2.5]}]}, "Unexpected element type in feature: x expecting type: int64"),
        ({"examples": [{"x": ["a", 2.5]}]}, "Unexpected element type in feature: x expecting type: bytes"),
        ({"examples": [{"x": 2**63}]}, "Feature: x has uint64 element. Only int64 is supported."),
        ({"examples": [{"x": 1e39}]}, " to float without loss of precision."),
        ({"examples": [{"x": {"b64": "?"}}]}, "Unable to base64 decode"),
        ({"examples": [{}], "signature_name": 3}, "'signature_name' key must be a string value."),
    ],
)
def test_examples_that_are_none_are_told_in_tensorflow_servings_words(document: Any, said: str) -> None:
    """Clients know the sentences."""
    with pytest.raises(BadRequestError) as caught:
        serialized(document)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("method", "signature", "said"),
    [
        ("classify", Signature((TensorSpec("x", "FP32"),), ()), "No classification inputs found .* x \\(FP32\\)"),
        ("regress", Signature((TensorSpec("inputs", "FP32"),), ()), "No regression inputs found"),
        ("regress", Signature((TensorSpec("a"), TensorSpec("b")), ()), "Expected one input Tensor: .* call :predict"),
        ("classify", REGRESSION, 'contain at least one of "classes" or "scores"'),
        ("regress", EXAMPLES, "No regression outputs found in SignatureDef"),
    ],
)
def test_a_signature_that_is_not_for_examples_is_told(method: str, signature: Signature, said: str) -> None:
    """With what it takes, and what to call instead."""
    with pytest.raises(BadRequestError, match=said):
        tfs_examples.check_signature(method, signature, "m")


def test_signatures_for_examples_are_known_by_their_names() -> None:
    """Of inputs and outputs: TensorFlow 2 writes no method into them."""
    tfs_examples.check_signature("classify", EXAMPLES, "m")
    tfs_examples.check_signature("regress", REGRESSION, "m")


CLASSES = np.array([[b"a", b"b"], [b"c", b"d"]], object)
SCORES = np.array([[0.1, 0.5], [np.nan, 1]], np.float32)


@pytest.mark.parametrize(
    ("outputs", "results"),
    [
        ({"classes": CLASSES, "scores": SCORES}, '[[["a",0.1],["b",0.5]],[["c",NaN],["d",1.0]]]'),
        ({"scores": SCORES}, '[[["",0.1],["",0.5]],[["",NaN],["",1.0]]]'),
        ({"classes": CLASSES}, '[[["a",0.0],["b",0.0]],[["c",0.0],["d",0.0]]]'),
    ],
)
def test_classes_are_pairs_of_label_and_score(outputs: Any, results: str) -> None:
    """For each example; what the model does not have is empty, or 0."""
    assert tfs_examples.write_results("classify", outputs, 2).decode() == f'{{"results":{results}}}'


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_a_regression_is_a_number_an_example(shape: tuple[int, ...]) -> None:
    """In either shape that TensorFlow Serving takes."""
    outputs = {"outputs": np.array([0.1, 2], np.float32).reshape(shape)}
    assert tfs_examples.write_results("regress", outputs, 2) == b'{"results":[0.1,2.0]}'


@pytest.mark.parametrize(
    ("method", "outputs", "said"),
    [
        ("classify", {"classes": CLASSES[0]}, r"Expected Tensor shape: \[batch_size num_classes\] but got \[2\]"),
        ("classify", {"classes": SCORES}, "Expected classes Tensor of DT_STRING"),
        ("classify", {"scores": CLASSES}, "Expected scores Tensor of DT_FLOAT"),
        ("classify", {"scores": SCORES[:1]}, r"Expected scores output batch size of 2. Got: 1"),
        ("classify", {"classes": CLASSES, "scores": SCORES[:, :1]}, r"should match in dim_size\(1\). Got 2 vs. 1"),
        ("classify", {}, "neither classes nor scores"),
        ("regress", {}, "Could not find output tensor 'outputs'"),
        ("regress", {"outputs": SCORES}, r"either \[batch_size\] or \[batch_size, 1\] but got \[2, 2\]"),
        ("regress", {"outputs": SCORES[0, :1]}, "Input batch size did not match output batch size: 2 vs. 1"),
        ("regress", {"outputs": CLASSES[0]}, "Expected output Tensor of DT_FLOAT"),
    ],
)
def test_outputs_that_are_no_results_are_told(method: str, outputs: Any, said: str) -> None:
    """In TensorFlow Serving's words."""
    with pytest.raises(BadRequestError, match=said):
        tfs_examples.write_results(method, outputs, 2)
