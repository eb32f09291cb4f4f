"""The SageMaker inference toolkit's contract, with scripts as people write them."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest

from serving.workers.handler import HandlerError, Launch, Request
from tests.workers.people import answer, ask, loaded, script

JSON = "application/json"

MODEL = "def model_fn(model_dir):\n    return 'model'\n"

ECHO = """
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    return f"{type(body).__name__} {content_type} {accept}"
"""

PARTS = {
    "model_fn": ("model_dir", "'model'"),
    "input_fn": ("body, content_type", "body + '|in'"),
    "predict_fn": ("data, model", "data + '|' + model"),
    "output_fn": ("prediction, accept", "prediction + '|out'"),
}


def _function(name: str, tail: str = "") -> str:
    """Return one of PARTS with more parameters; what it is given as context marks its result."""
    parameters, result = PARTS[name]
    seen = f"{result} + ('+' if type(locals().get('context')).__name__ == 'Context' else '')" if tail else result
    return f"def {name}({parameters}{tail}):\n    return {seen}\n"


@pytest.mark.parametrize("with_context", list(itertools.product([False, True], repeat=4)))
def test_each_function_may_take_the_context_and_the_others_need_not(tmp_path: Path, with_context: tuple[bool]) -> None:
    """All sixteen combinations of the four functions with and without the context."""
    tails = dict(zip(PARTS, with_context, strict=True))
    source = "".join(_function(name, ", context" if tails[name] else "") for name in PARTS)
    wanted = "x|in{input_fn}|model{model_fn}{predict_fn}|out{output_fn}"
    wanted = wanted.format(**{name: "+" if each else "" for name, each in tails.items()})
    assert answer(script(tmp_path, source), "x", content_type=JSON) == wanted


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize(
    ("tail", "gets_it"),
    [
        (", context=None", True),
        (", *, context", True),
        (", *, context=None", True),
        (", context, extra=1", True),
        (", file_name=None", False),
        (", *rest", False),
        (", **rest", False),
    ],
)
def test_the_context_goes_where_it_is_wanted(tmp_path: Path, name: str, tail: str, gets_it: bool) -> None:
    """By position or keyword, with a default or without; a default of another name, * and ** are left alone."""
    source = "".join(_function(each, tail if each == name else "") for each in PARTS)
    text = answer(script(tmp_path, source), "x", content_type=JSON)
    assert text.replace("+", "") == "x|in|model|out"
    assert text.count("+") == int(gets_it)


@pytest.mark.parametrize("parameter", ["context", "ctx", "_context", "info", "ctx=None", "_context=None"])
def test_one_parameter_more_is_the_context_whatever_its_name(tmp_path: Path, parameter: str) -> None:
    """The toolkit counts parameters; a default needs a name that speaks of a context."""
    name = parameter.partition("=")[0]
    source = MODEL + f"def transform_fn(model, body, kind, accept, {parameter}):\n    return type({name}).__name__\n"
    assert answer(script(tmp_path, source)) == "Context"


@pytest.mark.parametrize("name", ["input_fn", "predict_fn", "output_fn", "transform_fn", "model_fn"])
@pytest.mark.parametrize("parameters", ["", "a, b, c, d, e, f"])
def test_a_function_that_cannot_be_called_is_a_load_error_that_shows_it(
    tmp_path: Path, name: str, parameters: str
) -> None:
    """Too few or too many parameters are told at the load, not at the first request."""
    source = ("" if name == "model_fn" else MODEL) + f"def {name}({parameters}): pass\n"
    with (
        pytest.raises(ValueError, match=rf"{name}\({parameters}\) cannot be called as {name}\("),
        loaded(script(tmp_path, source)),
    ):
        pass


@pytest.mark.parametrize(
    "predict",
    [
        "predict_fn = functools.partial(lambda prefix, data, model: prefix + data + model, '>')",
        "predict_fn = functools.partial(lambda data, model, context: '>' + data + model, context=1)",
        "class Predict:\n    def __call__(self, data, model, context): return '>' + data + model\n"
        "predict_fn = Predict()",
        "class Predict:\n    @staticmethod\n    def run(data, model): return '>' + data + model\n"
        "predict_fn = Predict().run",
        "def timed(f):\n    @functools.wraps(f)\n    def run(*a): return f(*a)\n    return run\n"
        "@timed\ndef predict_fn(data, model, context): return '>' + data + model",
        "def timed(f):\n    def run(*a, **k): return f(*a, **k)\n    return run\n"
        "@timed\ndef predict_fn(data, model): return '>' + data + model",
        "def predict_fn(*args): return '>' + args[0] + args[1]",
        "predict_fn = lambda data, model: '>' + data + model",
        "from sibling import predict_fn",
    ],
)
def test_any_callable_is_a_function(tmp_path: Path, predict: str) -> None:
    """Partials, objects, methods, decorated functions, lambdas and imported functions."""
    source = f"import functools\n{MODEL}{predict}\ndef input_fn(body, kind): return body\n"
    launch = script(tmp_path, source + "def output_fn(prediction, accept): return prediction\n")
    (tmp_path / "code" / "sibling.py").write_text("def predict_fn(data, model): return '>' + data + model\n")
    assert answer(launch, "x", content_type=JSON) == ">xmodel"


def test_a_builtin_without_a_signature_is_called_without_the_context(tmp_path: Path) -> None:
    """Some C functions do not tell what they take."""
    source = "model_fn = str\ndef transform_fn(model, body, content_type, accept): return model\n"
    assert answer(script(tmp_path, source)) == str(tmp_path)


@pytest.mark.parametrize("other", ["input_fn", "predict_fn", "output_fn"])
def test_transform_fn_with_one_of_the_three_is_a_load_error(tmp_path: Path, other: str) -> None:
    """transform_fn stands for all three, and the message names what is there."""
    source = f"{MODEL}def transform_fn(m, b, c, a): pass\ndef {other}(x, y): pass\n"
    with (
        pytest.raises(ValueError, match=f"has transform_fn and {other}, which it stands for"),
        loaded(script(tmp_path, source)),
    ):
        pass


def test_a_name_that_is_no_function_is_a_load_error(tmp_path: Path) -> None:
    """A constant is not skipped in silence."""
    with pytest.raises(ValueError, match=r"predict_fn of '.*' is a int"), loaded(script(tmp_path, "predict_fn = 3")):
        pass


def test_none_stands_for_a_function_that_is_not_there(tmp_path: Path) -> None:
    """As in the toolkit, where `transform_fn = None` means the default."""
    source = MODEL + "transform_fn = None\ndef predict_fn(data, model): return {'got': data['a']}\n"
    assert json.loads(answer(script(tmp_path, source), '{"a": 1}', content_type=JSON)) == {"got": 1}


@pytest.mark.parametrize("tail", ["", ", context"])
def test_the_optional_functions_run_around_model_fn(tmp_path: Path, tail: str) -> None:
    """pre_model_fn gets the folder, model_warmup_fn the folder and the model, once."""
    source = f"""
    calls = []
    def pre_model_fn(model_dir{tail}): calls.append(["pre", model_dir])
    def model_fn(model_dir{tail}): calls.append(["model", model_dir]); return "m"
    def model_warmup_fn(model_dir, model{tail}): calls.append(["warm", model_dir, model])
    def transform_fn(model, body, content_type, accept{tail}): return calls
    """
    folder = str(tmp_path)
    wanted = [["pre", folder], ["model", folder], ["warm", folder, "m"]]
    assert json.loads(answer(script(tmp_path, source))) == wanted


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("application/json", "str"),
        ("text/csv", "str"),
        ("application/json; charset=utf-8", "str"),
        ("Text/CSV", "str"),
        ("text/plain", "bytes"),
        ("text/libsvm", "bytes"),
        ("application/x-image", "bytes"),
        ("application/x-npy", "bytes"),
    ],
)
def test_json_and_csv_bodies_are_text_and_all_others_bytes(tmp_path: Path, content_type: str, kind: str) -> None:
    """The toolkit's own two types; the Content-Type arrives as the client wrote it."""
    assert answer(script(tmp_path, ECHO), "1", content_type=content_type) == f"{kind} {content_type} {JSON}"


def test_a_missing_content_type_is_none_and_the_body_bytes(tmp_path: Path) -> None:
    """As the toolkit has it; only the default input_fn takes it for JSON."""
    assert answer(script(tmp_path, ECHO), "1") == f"bytes None {JSON}"


def test_a_body_in_shared_memory_becomes_bytes_and_text_of_its_own(tmp_path: Path) -> None:
    """A function may keep what it is given."""
    with loaded(script(tmp_path, ECHO)) as handler:
        (reply,) = handler.call([_request(memoryview(b"xy"), "application/octet-stream")])
        assert bytes(reply.body).startswith(b"bytes ")
        (reply,) = handler.call([_request(memoryview(b"xy"), JSON)])
        assert bytes(reply.body).startswith(b"str ")


def _request(body: memoryview, content_type: str) -> Request:
    return Request(body, {"Content-Type": content_type})


def test_text_that_is_not_utf8_is_the_clients_fault(tmp_path: Path) -> None:
    """A 400 with the place, before any function runs."""
    with loaded(script(tmp_path, ECHO)) as handler, pytest.raises(HandlerError, match="byte 1") as caught:
        ask(handler, b"a\xff", content_type="text/csv")
    assert caught.value.status == 400


def test_a_batch_is_answered_one_by_one_in_order(tmp_path: Path) -> None:
    """The toolkit's functions take one body."""
    with loaded(script(tmp_path, MODEL + "def transform_fn(m, b, c, a): return b + b'!'")) as handler:
        replies = handler.call([Request(b"a"), Request(b"b")])
    assert [reply.body for reply in replies] == [b"a!", b"b!"]


@pytest.mark.parametrize("error", ["KeyError('k')", "MemoryError('big')", "SystemExit(3)"])
def test_what_a_function_raises_passes_through(tmp_path: Path, error: str) -> None:
    """`main` makes a status of it: 424, 507, or the end of the process."""
    wanted = {"K": KeyError, "M": MemoryError, "S": SystemExit}[error[0]]
    source = f"{MODEL}def transform_fn(m, b, c, a): raise {error}\n"
    with loaded(script(tmp_path, source)) as handler, pytest.raises(wanted):
        ask(handler)


def test_an_error_of_the_toolkits_own_tree_keeps_its_status(tmp_path: Path) -> None:
    """Scripts raise the installed toolkit's errors for a status of their choice."""
    source = f"""
class BaseInferenceToolkitError(Exception):
    def __init__(self, status_code, message, phrase):
        self.status_code, self.message, self.phrase = status_code, message, phrase
class GenericInferenceToolkitError(BaseInferenceToolkitError): pass
{MODEL}
def transform_fn(m, b, c, a): raise GenericInferenceToolkitError(422, "too odd", "Odd")
"""
    with loaded(script(tmp_path, source)) as handler, pytest.raises(HandlerError, match="too odd") as caught:
        ask(handler)
    assert caught.value.status == 422


def test_the_script_is_imported_as_a_module_of_its_name(tmp_path: Path) -> None:
    """Siblings import it and are imported; pickles find its classes; its main block does not run."""
    source = """
    import sibling
    class Net: pass
    def model_fn(model_dir): return Net()
    def transform_fn(model, body, content_type, accept):
        import pickle
        copy = pickle.loads(pickle.dumps(model))
        return f"{__name__} {type(copy).__module__} {sibling.script().Net is Net}"
    if __name__ == "__main__":
        raise RuntimeError("ran as a program")
    """
    launch = script(tmp_path, source, file_name="train_and_serve.py")
    (tmp_path / "code" / "sibling.py").write_text("def script():\n    import train_and_serve as t\n    return t\n")
    assert answer(launch) == "train_and_serve train_and_serve True"


def test_a_script_called_like_a_loaded_module_does_not_replace_it(tmp_path: Path) -> None:
    """SAGEMAKER_PROGRAM=json.py must not become everyone's json."""
    launch = script(tmp_path, MODEL + "def transform_fn(m, b, c, a): return __name__", file_name="json.py")
    assert answer(launch) == "script_json"
    assert sys.modules["json"] is json


def test_a_script_that_fails_to_import_leaves_no_half_module(tmp_path: Path) -> None:
    """Its own error passes through."""
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"), loaded(script(tmp_path, "import no_such_thing")):
        pass
    assert "inference" not in sys.modules


def test_a_script_that_is_no_python_source_says_so(tmp_path: Path) -> None:
    """SAGEMAKER_PROGRAM may name anything."""
    with (
        pytest.raises(ValueError, match=r"is no Python source: name a file that ends in \.py"),
        loaded(script(tmp_path, "", file_name="run.sh")),
    ):
        pass


def test_a_script_that_only_imports_its_handler_is_tensorflow_servings(tmp_path: Path) -> None:
    """What the text of a file does not tell, a star import, its import does."""
    launch = script(tmp_path, "from shared import *\n")
    (tmp_path / "code" / "shared.py").write_text("def handler(data, context): return data.read(), 'text/plain'\n")
    assert answer(launch, "hello") == "hello"


CIFAR = """
import json, os
import numpy as np
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
def model_fn(model_dir):
    return np.load(os.path.join(model_dir, "weights.npy"))
def input_fn(request_body, request_content_type):
    if request_content_type == "application/json":
        return np.array(json.loads(request_body), dtype=np.float32) / 255
    raise ValueError("Unsupported content type: " + request_content_type)
def predict_fn(input_object, model):
    scores = input_object.reshape(len(input_object), -1) @ model
    return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
def output_fn(prediction, accept):
    return json.dumps({"predictions": prediction.tolist(), "label": CLASSES[int(prediction[0].argmax())]})
"""


@pytest.mark.parametrize("is_default", [False, True])
def test_the_cifar_script_of_the_blog_runs_with_a_stand_in_network(tmp_path: Path, is_default: bool) -> None:
    """One picture of [1, 32, 32, 3] as JSON, the answer's probabilities sum to one; also with the default functions."""
    import numpy as np

    np.save(tmp_path / "weights.npy", np.random.default_rng(0).normal(size=(3072, 10)).astype(np.float32) / 50)
    source = CIFAR
    if is_default:
        start, end = source.index("def input_fn"), source.index("def predict_fn")
        source = source[:start] + source[end : source.index("def output_fn")]
    picture = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3))
    launch = script(tmp_path, source)
    got = json.loads(answer(launch, json.dumps(picture.tolist()), content_type=JSON, accept=JSON))
    (row,) = got if is_default else got["predictions"]
    assert sum(row) == pytest.approx(1, abs=1e-3)


def test_a_launch_without_a_script_is_all_defaults(tmp_path: Path) -> None:
    """Then the folder must have a TorchScript file, and the message says so."""
    launch = Launch(name="m", dialect="sagemaker", folder=str(tmp_path))
    with pytest.raises(ValueError, match="has 0 TorchScript files"), loaded(launch):
        pass
