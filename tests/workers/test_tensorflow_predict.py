"""What stands between `input_handler` and `output_handler`: who predicts, and the form of its JSON."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.workers.dialects.tensorflow_api import METHODS, respond
from serving.workers.handler import HandlerError
from tests.workers import people
from tests.workers.people import PAIR, answer, ask, loaded

JSON = "application/json"

script = partial(people.script, dialect="tensorflow")

HALF = "def predict(data): return data / 2 + 3\n"


@pytest.mark.parametrize(
    ("body", "content_type", "wanted"),
    [
        ('{"instances": [1.0, 2.0]}', JSON, {"predictions": [3.5, 4.0]}),
        ('{"inputs": [1.0, 2.0]}', JSON, {"outputs": [3.5, 4.0]}),
        ('{"signature_name": "serving_default", "instances": [[2]]}', JSON, {"predictions": [[4.0]]}),
        ("1,2", "text/csv", {"predictions": [3.5, 4.0]}),
    ],
)
def test_the_pair_stands_around_the_scripts_own_predict(
    tmp_path: Path, body: str, content_type: str, wanted: object
) -> None:
    """The handlers of the container's documentation, in rows and in columns."""
    assert json.loads(answer(script(tmp_path, PAIR + HALF), body, content_type=content_type)) == wanted


@pytest.mark.parametrize(
    ("request_body", "seen"),
    [
        ({"instances": [{"a": 1, "b": [2]}, {"a": 3, "b": [4]}]}, "{'a': (2,), 'b': (2, 1)}"),
        ({"inputs": {"a": [1, 2], "b": [[1]]}}, "{'a': (2,), 'b': (1, 1)}"),
        ({"instances": [[1, 2]]}, "(1, 2)"),
        ({"instances": []}, "(0,)"),
        ({"instances": ["a", "b"]}, "(2,)"),
        ({"instances": [{"b64": "AAA="}]}, "(1,) b'\\x00\\x00'"),
        ({"inputs": {"b64": "AAA"}}, "() b'\\x00\\x00'"),
        ({"instances": [{"image": {"b64": "AAA="}}]}, "{'image': (1,)}"),
        ({"instances": [[{"b64": "AAA="}, {"b64": "AAE="}]]}, "(1, 2) b'\\x00\\x00'"),
    ],
)
def test_predict_is_given_arrays(tmp_path: Path, request_body: object, seen: str) -> None:
    """One, or several by name; base64 is bytes with every zero."""
    source = PAIR + (
        "def predict(data):\n"
        "    if isinstance(data, dict): return [str({k: v.shape for k, v in data.items()})]\n"
        "    return [str(data.shape) + (' ' + str(data.flat[0]) if data.dtype == object else '')]\n"
    )
    (got,) = next(iter(json.loads(answer(script(tmp_path, source), json.dumps(request_body))).values()))
    assert got == seen


@pytest.mark.parametrize(
    ("outputs", "rows", "columns"),
    [
        ("np.array([[1, 2], [3, 4]])", [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ("{'only': np.array([1, 2])}", [1, 2], [1, 2]),
        (
            "{'a': np.array([1, 2]), 'b': np.array([[3], [4]])}",
            [{"a": 1, "b": [3]}, {"a": 2, "b": [4]}],
            {"a": [1, 2], "b": [[3], [4]]},
        ),
        ("np.array([b'text', b'\\xff'], dtype=object)", ["text", {"b64": "/w=="}], ["text", {"b64": "/w=="}]),
    ],
)
def test_outputs_are_written_as_tensorflow_serving_writes_them(
    tmp_path: Path, outputs: str, rows: object, columns: object
) -> None:
    """One output loses its name; several are a row of names each, or columns; bytes are text or base64."""
    launch = script(tmp_path, f"import numpy as np\n{PAIR}def predict(data): return {outputs}\n")
    with loaded(launch) as handler:
        assert json.loads(bytes(ask(handler, '{"instances": [1]}').body)) == {"predictions": rows}
        assert json.loads(bytes(ask(handler, '{"inputs": [1]}').body)) == {"outputs": columns}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "The request to predict is wrong"),
        ("{", "The request to predict is wrong"),
        ("[1]", "The request to predict is wrong"),
        ('{"data": [1]}', "it has \\['data'\\] and either 'instances' or 'inputs' is wanted"),
        ('{"instances": [[1], [1, 2]]}', "The request to predict is wrong"),
        ('{"instances": [{"a": 1}, {"b": 1}]}', "The request to predict is wrong: 'a'"),
        ('{"instances": 3}', "The request to predict is wrong"),
        ('{"instances": [{"b64": "?"}]}', "The request to predict is wrong"),
        ('{"instances": [1], "signature_name": "other"}', "no signature 'other', only serving_default"),
    ],
)
def test_a_wrong_request_reaches_output_handler_as_a_400(tmp_path: Path, body: str, said: str) -> None:
    """As TensorFlow Serving answers it: a body with an error, which such handlers raise."""
    with loaded(script(tmp_path, PAIR + HALF)) as handler, pytest.raises(ValueError, match=said):
        ask(handler, body)


def test_what_predict_raises_passes_through(tmp_path: Path) -> None:
    """It is the model's own failure and no wrong request."""
    source = PAIR + "def predict(data): raise KeyError('inside')\n"
    with loaded(script(tmp_path, source)) as handler, pytest.raises(KeyError, match="inside"):
        ask(handler, '{"instances": [1]}')


@pytest.mark.parametrize(
    ("method", "body", "said"),
    [
        ("classify", '{"examples": [{"x": 1}]}', "only the method predict is answered"),
        ("regress", '{"instances": [1]}', "a list of 'examples' is wanted"),
        ("regress", '{"examples": [{"x": null}]}', "Feature: x has element with unexpected JSON type: Null"),
    ],
)
def test_a_script_s_own_model_takes_no_examples(tmp_path: Path, method: str, body: str, said: str) -> None:
    """The response says so, as TensorFlow Serving's would."""
    headers = {"x_amzn_sagemaker_custom_attributes": f"tfs-method={method}"}
    with loaded(script(tmp_path, PAIR + HALF)) as handler, pytest.raises(ValueError, match=said):
        ask(handler, body, **headers)


def test_a_method_that_is_none_is_refused(tmp_path: Path) -> None:
    """A 400 that names it, before input_handler runs."""
    headers = {"x_amzn_sagemaker_custom_attributes": "tfs-method=explain"}
    with (
        loaded(script(tmp_path, PAIR + HALF)) as handler,
        pytest.raises(HandlerError, match="tfs-method is 'explain': send predict, classify, regress") as caught,
    ):
        ask(handler, '{"instances": [1]}', **headers)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("read", "seen"),
    [
        ("response.json()['predictions']", [3.5]),
        ("response.text", '{"predictions": [3.5]}'),
        ("[response.ok, response.status_code]", [True, 200]),
        ("response.headers['Content-Type']", JSON),
        ("response.raise_for_status()", None),
    ],
)
def test_output_handler_reads_what_requests_has(tmp_path: Path, read: str, seen: object) -> None:
    """The attributes of a response that handlers in the wild use; input_handler may return the dict itself."""
    source = f"""
import json
def input_handler(data, context): return {{"instances": [1]}}
def output_handler(response, context): return json.dumps({read}), "text/plain"
{HALF}"""
    assert json.loads(answer(script(tmp_path, source))) == seen


def test_raise_for_status_raises_for_a_wrong_request(tmp_path: Path) -> None:
    """With the status and the body."""
    source = """
    def input_handler(data, context): return "{"
    def output_handler(response, context): response.raise_for_status()
    def predict(data): return data
    """
    with loaded(script(tmp_path, source)) as handler, pytest.raises(RuntimeError, match="400: .*wrong"):
        ask(handler)


@pytest.mark.parametrize("model", ["lambda data: data / 2 + 3", "type('M', (), {'predict': lambda s, d: d / 2 + 3})()"])
def test_the_pair_stands_around_a_model_of_model_fn(tmp_path: Path, model: str) -> None:
    """It is called, or predicts."""
    launch = script(tmp_path, f"{PAIR}def model_fn(model_dir): return {model}\n")
    assert json.loads(answer(launch, '{"instances": [1.0]}')) == {"predictions": [3.5]}


def test_a_pair_with_nothing_to_predict_is_a_load_error_that_says_what_to_add(tmp_path: Path) -> None:
    """A SavedModel, a Keras file, predict or model_fn."""
    with pytest.raises(ValueError, match=r"add a SavedModel or a .keras file, or give the script predict"):
        answer(script(tmp_path, PAIR))


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ("{'a': np.zeros(2), 'b': np.float32(1)}", "Tensor name: b has no shape information"),
        ("{'a': np.zeros(2), 'b': np.zeros(3)}", "Tensor name: b has inconsistent batch size: 3 expecting: 2"),
    ],
)
def test_outputs_that_are_no_rows_are_told_where_rows_are_asked_for(tmp_path: Path, outputs: str, said: str) -> None:
    """Columns hold them."""
    launch = script(tmp_path, f"import numpy as np\n{PAIR}def predict(data): return {outputs}\n")
    with loaded(launch) as handler:
        with pytest.raises(ValueError, match=said):
            ask(handler, '{"instances": [1]}')
        assert ask(handler, '{"inputs": [1]}').status == 200


def test_an_output_that_ends_in_bytes_is_base64(tmp_path: Path) -> None:
    """As TensorFlow Serving writes it, text or not."""
    outputs = "{'said_bytes': np.array([[b'a', b'b']], object), 'n': np.array([1])}"
    launch = script(tmp_path, f"import numpy as np\n{PAIR}def predict(data): return {outputs}\n")
    got = json.loads(answer(launch, '{"instances": [1]}'))
    assert got == {"predictions": [{"said_bytes": [{"b64": "YQ=="}, {"b64": "Yg=="}], "n": 1}]}


leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just({"b64": "AAA="}))
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abx"), inner, max_size=3)),
    max_leaves=10,
)
keys = st.sampled_from(["instances", "inputs", "examples", "context", "signature_name"])


@given(st.one_of(values, st.dictionaries(keys, values)), st.sampled_from(METHODS), st.booleans())
def test_any_request_is_answered_or_refused(document: Any, method: str, as_text: bool) -> None:
    """Never anything but 200 and 400, whatever a script posts."""
    said = respond(json.dumps(document) if as_text else document, method, "", lambda asked: asked.data)
    assert (said.status_code, said.ok) in ((200, True), (400, False))
    assert said.json().keys() <= {"predictions", "outputs", "results", "error"}


@pytest.mark.parametrize("name", ["1/saved_model.pb", "model.keras", "model.h5"])
def test_a_tensorflow_model_without_tensorflow_is_a_load_error(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says who needs it and what to do."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(HandlerError, match=r"needs the Python module 'tensorflow' .*requirements.txt"):
        answer(script(tmp_path, PAIR))
