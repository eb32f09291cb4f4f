"""DJL's `model.py` as people write it: loading, warm-up, requests and errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.workers.handler import HandlerError, Reply
from tests.workers.djl_cases import LoadModel, ask, echo, load_model

__all__ = ["load_model"]

SEED = """
predictor = None

def get_model():
    degree = int(os.getenv('TENSOR_PARALLEL_DEGREE', '1'))
    def generator(data, do_sample, max_new_tokens):
        return [{'generated_text': data + '!' * degree}]
    return generator

def handle(inputs: Input) -> None:
    global predictor
    if not predictor:
        predictor = get_model()

    if inputs.is_empty():
        # Model server makes an empty call to warmup the model on startup
        return None

    data = inputs.get_as_string()
    result = predictor(data, do_sample=True, max_new_tokens=256)
    return Output().add(result)
"""


def value(reply: Reply) -> Any:
    return json.loads(bytes(reply.body))


def test_the_seed_handler_answers(load_model: LoadModel) -> None:
    """The published example's shape: warm-up on the empty call, a list of dicts as the answer."""
    reply = ask(load_model(SEED), b"hi")
    assert (reply.status, reply.headers) == (200, {})
    assert bytes(reply.body) == b'[\n  {\n    "generated_text":"hi!"\n  }\n]'


def test_the_warm_up_has_the_options_and_no_content(load_model: LoadModel, tmp_path: Path) -> None:
    """Degrees are integers, the device a string, and option.handler names the function."""
    code = """
    seen = None
    def answer(inputs):
        global seen
        if inputs.is_empty():
            seen = dict(inputs.get_properties(), name=inputs.get_function_name())
        else:
            return Output().add_as_json(seen)
    """
    options = {"model_id": "gpt", "tensor_parallel_degree": "2", "handler": "answer"}
    wanted = {**options, "tensor_parallel_degree": 2, "model_dir": str(tmp_path), "device_id": "-1", "name": "answer"}
    assert value(ask(load_model(code, **options))) == wanted


@pytest.mark.parametrize(("device", "wanted"), [("cpu", "-1"), ("cuda", "0"), ("cuda:3", "3")])
def test_the_device_is_a_string_of_its_number(load_model: LoadModel, device: str, wanted: str) -> None:
    """Handlers say `"cuda:" + device_id`."""
    assert value(ask(load_model(echo("inputs.get_property('device_id')"), device))) == wanted


@pytest.mark.parametrize(
    ("result", "status", "words"),
    [
        ("Output().error('no weights')", 424, "no weights"),
        ("Output(code=507, message='OOM')", 507, "OOM"),
        ("Output(code=300, message='later')", 300, "later"),
        ("1", 424, "Invalid output type: <class 'int'>"),
        ("1 / 0", 424, "division by zero"),
        ("exec('raise MemoryError(\"weights\")')", 507, "weights"),
    ],
)
def test_a_refused_warm_up_fails_the_load(load_model: LoadModel, result: str, status: int, words: str) -> None:
    """With the handler's own status: 507 stays 507."""
    with pytest.raises(HandlerError, match="refused to warm up") as caught:
        load_model(f"def handle(inputs):\n        return {result}\n")
    assert (caught.value.status, words in str(caught.value)) == (status, True)


def test_a_warm_up_may_answer_too(load_model: LoadModel) -> None:
    """Any status below 300 is a loaded model."""
    assert ask(load_model("def handle(inputs):\n    return Output()")).status == 200


def test_what_the_import_raises_passes(load_model: LoadModel) -> None:
    """It is the model's own failure, in its own words."""
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load_model("import no_such_module")


def test_properties_are_headers_attributes_and_our_own(load_model: LoadModel, tmp_path: Path) -> None:
    """SageMaker's spelling is restored; the id of the request is its header."""
    headers = {"X_Amzn_Sagemaker_Custom_Attributes": "k=v; k2 = v2;odd;=x", "X_Request_Id": "r1", "Accept": "a/b"}
    assert value(ask(load_model(echo("inputs.get_properties()")), b"", **headers)) == {
        "Accept": "a/b",
        "X-Request-Id": "r1",
        "X-Amzn-SageMaker-Custom-Attributes": "k=v; k2 = v2;odd;=x",
        "k": "v",
        "k2": "v2",
        "requestId": "r1",
        "handler": "handle",
        "model_dir": str(tmp_path),
        "device_id": "-1",
    }


def test_every_request_has_an_id(load_model: LoadModel) -> None:
    """A fresh one where the client sends none."""
    handler = load_model(echo("inputs.get_property('requestid')"))
    assert len({value(ask(handler)) for _ in range(3)}) == 3


def test_a_client_cannot_pretend_a_batch_or_a_folder(load_model: LoadModel) -> None:
    """Our own properties win over headers and attributes."""
    handler = load_model(echo("[inputs.is_batch(), inputs.get_property('device_id')]"))
    assert value(ask(handler, X_Amzn_Sagemaker_Custom_Attributes="batch_size=9;device_id=7")) == [False, "-1"]


@pytest.mark.parametrize("header", ["Handler", "X_Amzn_Sagemaker_Custom_Attributes"])
def test_a_client_cannot_choose_the_function(load_model: LoadModel, header: str) -> None:
    """In the peer's words."""
    with pytest.raises(HandlerError, match="The handler can't be overridden in a request") as caught:
        ask(load_model(SEED), b"", **{header: "handler=evil"})
    assert caught.value.status == 400


def test_an_empty_body_is_content(load_model: LoadModel) -> None:
    """An item `data` of no bytes: no warm-up, an empty string, no JSON."""
    reply = ask(load_model(echo("[inputs.is_empty(), inputs.get_content().keys, inputs.get_as_string()]")))
    assert value(reply) == [False, ["data"], ""]


def test_the_query_comes_before_the_body(load_model: LoadModel) -> None:
    """Its items are strings by name; the body still is what is asked for without a key."""
    handler = load_model(echo("[inputs.get_content().keys, inputs.get_as_string('b'), inputs.get_as_string()]"))
    assert value(ask(handler, b"body", query="a=1&b=x%20y")) == [["a", "b", "data"], "x y", "body"]


def test_form_fields_are_items(load_model: LoadModel) -> None:
    """One each, urlencoded; what only claims to be a form is a body."""
    handler = load_model(echo("dict(zip(inputs.content.keys, [bytes(v).decode() for v in inputs.content.values]))"))
    form = {"Content_Type": "application/x-www-form-urlencoded; charset=UTF-8"}
    assert value(ask(handler, b"a=1&b=x+y&c=", **form)) == {"a": "1", "b": "x y", "c": ""}
    for body in (b'{"inputs": "x=y"}', b"plain"):
        assert value(ask(handler, body, **form)) == {"data": body.decode()}


def test_files_of_a_form_are_bytes(load_model: LoadModel) -> None:
    """Multipart parts come exactly as sent, line ends and all."""
    handler = load_model(echo("[[k, bytes(v).hex()] for k, v in zip(inputs.content.keys, inputs.content.values)]"))
    data = b"\x89PNG\r\n\x1a\n\r\n\xff--b\r"
    head = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n'
    body = head % b"text" + b"\r\nhi\r\n" + head % b"img" + b"Content-Type: image/png\r\n\r\n" + data + b"\r\n--b--\r\n"
    reply = ask(handler, body, Content_Type='multipart/form-data; boundary="b"')
    assert value(reply) == [["text", b"hi".hex()], ["img", data.hex()]]


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("multipart/form-data", b"", "wants a boundary"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx", "no first or no last boundary"),
        ("multipart/form-data; boundary=b", b"nothing", "no first or no last boundary"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--", "has no name"),
    ],
)
def test_a_broken_form_is_the_clients_error(load_model: LoadModel, content_type: str, body: bytes, words: str) -> None:
    """400, and what to mend."""
    with pytest.raises(HandlerError, match=words) as caught:
        ask(load_model(SEED), body, Content_Type=content_type)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("result", "status", "body"),
    [
        ("None", 204, b""),
        ("Output()", 200, b""),
        ("Output().add('a', 'x').add('b', 'data')", 200, b"b"),
        ("Output().add('a', 'x').add('b', 'y')", 200, b"a"),
        ("Output(201).add('a')", 201, b"a"),
        ("Output(204).add('a')", 204, b""),
        ("Output(code=500, message='no')", 500, b'{"code": 500, "message": "no"}'),
        ("Output(code=500).add('why')", 500, b"why"),
    ],
)
def test_what_is_returned_is_what_is_sent(load_model: LoadModel, result: str, status: int, body: bytes) -> None:
    """The item `data`, else the first; an error without a body gets its message as one."""
    reply = ask(load_model(f"def handle(inputs):\n        return None if inputs.is_empty() else {result}\n"))
    assert (reply.status, bytes(reply.body)) == (status, body)


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ("[1]", "Invalid output type: <class 'list'>"),
        ("Output(code=99)", "Invalid output code: 99"),
        ("Output().set_code('200')", "Invalid output code: '200'"),
        ("inputs.get_as_json()", "Expecting value: line 1 column 1 (char 0)"),
        ("{}['k']", "'k'"),
    ],
)
def test_a_failure_is_424_with_a_json_body(load_model: LoadModel, result: str, error: str) -> None:
    """Code, message and the exception's text."""
    reply = ask(load_model(f"def handle(inputs):\n        return None if inputs.is_empty() else {result}\n"))
    assert (reply.status, reply.headers) == (424, {"Content-Type": "application/json"})
    assert value(reply) == {"code": 424, "message": "invoke handler failure", "error": error}


@pytest.mark.parametrize(
    "raised",
    [
        "MemoryError('big')",
        "type('OutOfMemoryError', (RuntimeError,), {})('big')",
        "RuntimeError('CUDA error: out of memory')",
        "ValueError('No available memory for the cache blocks')",
    ],
)
def test_memory_is_507(load_model: LoadModel, raised: str) -> None:
    """By the class's name or the peer's words."""
    reply = ask(load_model(f"def handle(inputs):\n    if not inputs.is_empty():\n        raise {raised}"))
    assert reply.status == 507


def test_the_traceback_goes_to_the_log(load_model: LoadModel, capsys: pytest.CaptureFixture[str]) -> None:
    """The client sees the text alone."""
    ask(load_model("def handle(inputs):\n    if not inputs.is_empty():\n        raise ValueError('why')"))
    assert "in handle\n    raise ValueError('why')" in capsys.readouterr().err


def test_properties_become_headers(load_model: LoadModel) -> None:
    """As text, Content-Type in one spelling; what would break the reply's frame is left out."""
    code = """
    def handle(inputs):
        out = Output().add_property("content-type", "text/csv").add_property("X-N", 3)
        out.add_property("X-L", "a\\r\\nb: c")
        return out.add_property("Content-Length", 9).add_property("bad name", 1).add_property("X-U", "\\u20ac")
    """
    assert ask(load_model(code)).headers == {"Content-Type": "text/csv", "X-N": "3", "X-L": "a  b: c", "X-U": "?"}


def test_siblings_are_imported_and_files_opened(load_model: LoadModel, tmp_path: Path) -> None:
    """From the model's folder, as the worker sets it."""
    (tmp_path / "sibling.py").write_text("from pathlib import Path\nWORD = Path('word.txt').read_text()")
    (tmp_path / "word.txt").write_text("hi")
    assert value(ask(load_model("from sibling import WORD\n" + "def handle(i):\n    return Output().add([WORD])"))) == [
        "hi"
    ]


def test_our_interface_is_there_whatever_a_model_brings(load_model: LoadModel, tmp_path: Path) -> None:
    """A djl_python in the model's folder is not ours to trust."""
    (tmp_path / "djl_python.py").write_text("Input = Output = None")
    assert ask(load_model(SEED), b"hi").status == 200


def test_a_package_may_be_the_handler(load_model: LoadModel, tmp_path: Path) -> None:
    """Its own modules are imported relative to it."""
    (tmp_path / "sibling").mkdir()
    (tmp_path / "sibling/word.py").write_text("WORD = 'hi'")
    code = "from .word import WORD\ndef handle(i):\n    return Output().add(WORD)"
    assert bytes(ask(load_model(code, file="sibling/__init__.py")).body) == b"hi"


def test_two_models_of_one_file_name_do_not_meet(load_model: LoadModel) -> None:
    """A name that is taken is left alone; classes stay where pickles look for them."""
    code = "class Net:\n    pass\ndef handle(i):\n    return Output().add([Net.__module__, {}])"
    first, second = load_model(code.format(1)), load_model(code.format(2))
    assert (value(ask(first)), value(ask(second))) == (["model", 1], ["djl_handler_model", 2])


def test_a_handler_may_be_called_like_a_standard_module(load_model: LoadModel) -> None:
    """The standard one stays."""
    handler = load_model("def handle(i):\n    return Output().add(__name__)", file="json.py")
    assert bytes(ask(handler).body) == b"djl_handler_json"
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("code", "options", "words"),
    [
        ("", {}, "no .*model.py: add it, or set option.entryPoint"),
        ("def run(i): ...", {}, "no function 'handle' .*run.*: add handle"),
        ("def handle(i): ...", {"handler": "other"}, "no function 'other'"),
        ("", {"entryPoint": "djl_python.tensorrt_llm"}, "'djl_python.tensorrt_llm', which is not here"),
    ],
)
def test_a_missing_handler_says_what_to_add(
    load_model: LoadModel, code: str, options: dict[str, str], words: str
) -> None:
    """File, function or built-in, by name."""
    with pytest.raises(HandlerError, match=words):
        load_model(code, **options)


def test_an_import_that_fails_inside_a_named_module_passes(load_model: LoadModel, tmp_path: Path) -> None:
    """It is not that module that is missing."""
    (tmp_path / "sibling.py").write_text("import no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load_model(entryPoint="sibling")
