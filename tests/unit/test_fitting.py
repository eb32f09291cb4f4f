"""Whether a request fits a model: Triton's sentences, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.codecs.packed import Unread
from serving.codecs.v2 import Question, Wanted
from serving.errors import BadRequestError
from serving.fitting import choose, fit, rows_of
from serving.repository.layouts import ModelSpec
from serving.repository.scheduling import Scheduling
from serving.tensors import Signature, TensorSpec

NAMES = ("INPUT0", "INPUT1")
ADD_SUB = Signature(
    tuple(TensorSpec(name, "FP32", (-1, 16)) for name in NAMES), (TensorSpec("OUTPUT0", "FP32", (-1, 16)),)
)
OPEN = Signature((TensorSpec("input__0"),), (TensorSpec("output__0"),))
ID = "[request id: <id_unknown>] "


def spec(most: int = 8, **changes: Any) -> ModelSpec:
    """A model as config.pbtxt describes it."""
    scheduling = Scheduling(max_batch_size=most) if most else None
    return ModelSpec("add_sub", "worker", Path("model.py"), 1, scheduling=scheduling, **changes)


def question(*rows: int, datatype: str = "FP32", width: int = 16) -> Question:
    """Inputs of so many rows each."""
    pairs = zip(NAMES, rows, strict=False)
    return Question(inputs={name: (datatype, np.zeros((count, width), np.float32)) for name, count in pairs})


def refusal(asked: Question, most: int = 8, signature: Signature = ADD_SUB) -> str:
    """The sentence of a refusal."""
    with pytest.raises(BadRequestError) as caught:
        fit(asked, signature, spec(most))
    return caught.value.text


def test_a_request_that_fits_comes_in_the_models_order_with_its_rows() -> None:
    """Without batches every request is one."""
    asked = question(3, 3)
    asked.inputs = dict(reversed(asked.inputs.items()))
    tensors, rows = fit(asked, ADD_SUB, spec())

    assert (list(tensors), rows) == (list(NAMES), 3)
    assert fit(question(3, 3), ADD_SUB, spec(0))[1] == 1


def test_a_missing_input_is_told_in_tritons_words() -> None:
    """What came, what did not."""
    assert refusal(question(1)) == (
        f"{ID}expected 2 inputs but got 1 inputs for model 'add_sub'. Got input(s) ['INPUT0'], but missing required "
        "input(s) ['INPUT1']. Please provide all required input(s)."
    )


def test_an_optional_input_may_be_missing() -> None:
    """config.pbtxt says which."""
    triton = {"input": [{"name": "INPUT0"}, {"name": "INPUT1", "optional": True}]}

    assert list(fit(question(1), ADD_SUB, spec(triton=triton))[0]) == ["INPUT0"]


def test_a_wrong_shape_is_told_in_tritons_words() -> None:
    """With the note about batches only where there are some."""
    assert refusal(question(1, 1, width=15)).startswith(
        f"{ID}unexpected shape for input 'INPUT0' for model 'add_sub'. Expected [-1,16], got [1,15]. NOTE: Setting a "
        "non-zero max_batch_size"
    )
    assert refusal(question(1, 1, width=15), most=0).endswith("Expected [-1,16], got [1,15]. ")


def test_a_wrong_datatype_is_told_in_tritons_words() -> None:
    """Both types."""
    assert refusal(question(1, 1, datatype="INT32")) == (
        f"{ID}inference input 'INPUT0' data-type is 'INT32', but model 'add_sub' expects 'FP32'"
    )


def test_a_batch_that_is_too_big_or_uneven_is_refused() -> None:
    """Triton's words again."""
    assert refusal(question(9, 9)) == f"{ID}inference request batch-size must be <= 8 for 'add_sub'"
    assert refusal(question(2, 3)) == f"{ID}input 'INPUT0' batch size does not match other inputs for 'add_sub'"
    asked = question(1, 1)
    asked.inputs["INPUT0"] = ("FP32", np.zeros((), np.float32))
    assert refusal(asked) == f"{ID}input 'INPUT0' has no shape but model requires batch dimension for 'add_sub'"


def test_a_rank_without_the_batch_is_another_batch() -> None:
    """16 rows beside one: Triton looks at the batch before it looks at shapes."""
    asked = question(1, 1)
    asked.inputs["INPUT0"] = ("FP32", np.zeros(16, np.float32))
    assert refusal(asked) == f"{ID}input 'INPUT0' batch size does not match other inputs for 'add_sub'"


def test_bytes_are_read_once_datatype_and_shape_are_right() -> None:
    """What is wrong with them is told last, with the model's name."""
    asked = question(1, 1)
    data = memoryview(np.arange(16, dtype=np.float32).tobytes())
    asked.inputs["INPUT0"] = ("FP32", Unread("INPUT0", "FP32", (1, 16), data))
    assert fit(asked, ADD_SUB, spec())[0]["INPUT0"].tolist() == [list(range(16))]
    asked.inputs["INPUT0"] = ("FP32", Unread("INPUT0", "FP32", (1, 16), data[:32]))
    said = "input byte size mismatch for input 'INPUT0' for model 'add_sub'. Expected 64, got 32"
    assert refusal(asked) == ID + said
    asked.inputs["INPUT0"] = ("FP31", Unread("INPUT0", "FP31", (1, 16), data[:32]))
    assert refusal(asked) == (
        f"{ID}inference input 'INPUT0' data-type is '<invalid>', but model 'add_sub' expects 'FP32'"
    )


def test_a_model_with_optional_inputs_says_how_many_it_takes() -> None:
    """Between those that it wants and all of them."""
    triton = {"input": [{"name": "INPUT0"}, {"name": "INPUT1", "optional": True}]}
    with pytest.raises(BadRequestError) as caught:
        fit(Question(), ADD_SUB, spec(triton=triton))
    assert caught.value.text == (
        f"{ID}expected number of inputs between 1 and 2 but got 0 inputs for model 'add_sub'. Got input(s) [], but "
        "missing required input(s) ['INPUT0']. Please provide all required input(s)."
    )


def test_unknown_names_are_refused_before_anything_runs() -> None:
    """Inputs and outputs."""
    asked = question(1, 1)
    asked.outputs = [Wanted("ZZ")]
    assert refusal(asked) == "unexpected inference output 'ZZ' for model 'add_sub'"
    asked.outputs = []
    asked.inputs["X"] = asked.inputs.pop("INPUT0")
    assert refusal(asked) == "unexpected inference input 'X' for model 'add_sub'"
    del asked.inputs["INPUT1"]
    assert "Got input(s) ['X'], but missing required input(s) ['INPUT0','INPUT1']" in refusal(asked)


def test_a_request_with_an_id_is_told_so() -> None:
    """Clients find their own."""
    asked = question(1)
    asked.id = "17"

    assert refusal(asked).startswith("[request id: 17] ")


def test_a_model_that_tells_nothing_takes_what_comes() -> None:
    """TorchScript without a configuration."""
    asked = Question(inputs={"any": ("INT8", np.zeros((), np.int8))}, outputs=[Wanted("later")])

    assert list(fit(asked, OPEN, spec(0))[0]) == ["any"]


def test_a_scalar_is_one_row() -> None:
    """And nothing is one, too."""
    assert (rows_of({"x": np.zeros(())}), rows_of({})) == (1, 1)


def test_outputs_are_chosen_in_the_order_of_the_model() -> None:
    """All of them when nothing was said; classes in their place."""
    outputs = {"a": np.array([[1.0, 3.0]]), "b": np.array([[2.0]])}
    asked = Question(outputs=[Wanted("b"), Wanted("a", classes=1)])

    assert choose(outputs, Question(), spec(), OPEN) is outputs
    chosen = choose(outputs, asked, spec(), OPEN)
    assert list(chosen) == ["a", "b"]
    assert chosen["a"].tolist() == [[b"3.000000:1"]]
    assert choose(outputs, asked, spec(0), OPEN)["a"].tolist() == [b"3.000000:1"]
    with pytest.raises(BadRequestError, match="unexpected inference output 'c' for model 'add_sub'"):
        choose(outputs, Question(outputs=[Wanted("c")]), spec(), OPEN)
    assert choose(outputs, Question(outputs=[Wanted("OUTPUT0")]), spec(), ADD_SUB) == {}  # it did not answer with it
