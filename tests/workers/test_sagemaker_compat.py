"""Scripts that import sagemaker_inference or sagemaker_containers run without them, and with them where they are."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import flask
import numpy as np
import pytest

from serving.workers.dialects import sagemaker_context as context
from serving.workers.handler import HandlerError, Reply
from tests.workers.people import answer, ask, loaded, script

ROOT = Path(__file__).parents[2]
COMPAT = ROOT / "serving" / "workers" / "compat"
NAMES = ("sagemaker_inference", "sagemaker_containers")
JSON = "application/json"
MODEL = "def model_fn(model_dir): return 'model'\n"


@pytest.fixture(autouse=True)
def compat(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The path of a worker of this dialect, and none of its modules left behind."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(COMPAT)])
    yield
    for name in [each for each in sys.modules if each.partition(".")[0] in NAMES]:
        del sys.modules[name]


def inference(name: str) -> Any:
    """Import a module of sagemaker_inference."""
    return import_module(f"sagemaker_inference.{name}")


def framework(name: str) -> Any:
    """Import a module of sagemaker_containers."""
    return import_module(f"sagemaker_containers.beta.framework.{name}")


def respond(folder: Path, returned: str, accept: str = JSON) -> Reply:
    """Return the reply to a script whose output_fn returns this."""
    imports = "import json\nfrom sagemaker_containers.beta.framework import (content_types, encoders, env, modules,\n"
    source = f"{imports}    transformer, worker)\n{MODEL}def predict_fn(data, model): return data\n"
    source += f"def output_fn(prediction, accept): return {returned}\n"
    with loaded(script(folder, source)) as handler:
        return ask(handler, "[[1, 2], [3, 4]]", content_type=JSON, accept=accept)


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("module", ["sagemaker_inference", "sagemaker_containers"])
def test_importing_a_name_costs_no_numpy(module: str) -> None:
    """A worker's import stays quick, and a foreign interpreter may lack it."""
    code = "from sagemaker_inference import content_types, decoder, encoder, default_inference_handler, errors, utils"
    if module == "sagemaker_containers":
        code = "from sagemaker_containers.beta.framework import content_types, encoders, env, modules, worker"
    code += "\nimport sys\nassert not {'numpy', 'flask', 'serving'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=COMPAT, check=True, timeout=30)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dialect", ["sagemaker", "tensorflow"])
@pytest.mark.parametrize("where", ["lib", "installed", "nowhere"])
def test_a_real_package_goes_first(tmp_path: Path, name: str, dialect: str, where: str) -> None:
    """Vendored with the model, or installed in the interpreter: ours is the last entry of the path."""
    (tmp_path / "real" / name).mkdir(parents=True)
    (tmp_path / "real" / name / "__init__.py").write_text("")
    paths = [str(tmp_path / "real")] if where == "lib" else []
    code = f"""
    import sys
    sys.path += {[str(tmp_path / "real")] if where == "installed" else []!r}
    from serving.workers.handler import Launch
    from serving.workers.process_setup import set_up
    set_up(Launch("m", {dialect!r}, {str(tmp_path)!r}, paths={paths!r}))
    import {name}
    print({name}.__file__)
    """
    ran = _python(code)
    wanted = COMPAT if where == "nowhere" else tmp_path / "real"
    assert ran == str(wanted / name / "__init__.py")


@pytest.mark.parametrize("dialect", ["sklearn", "huggingface"])
def test_dialects_without_people_s_code_have_no_compat(tmp_path: Path, dialect: str) -> None:
    """Only scripts import these names."""
    code = f"""
    from importlib.util import find_spec
    from serving.workers.handler import Launch
    from serving.workers.process_setup import set_up
    set_up(Launch("m", {dialect!r}, {str(tmp_path)!r}))
    print(find_spec("sagemaker_inference"))
    """
    assert _python(code) == "None"


def _python(code: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def test_a_script_with_both_names_runs(tmp_path: Path) -> None:
    """The imports that are in the wild, and the toolkit's decoder and encoder in a script's own functions."""
    source = f"""
    from sagemaker_inference import content_types, decoder, default_inference_handler, encoder, errors, utils
    from sagemaker_inference import logging as sagemaker_logging
    from sagemaker_inference.errors import BaseInferenceToolkitError
    from sagemaker_containers.beta.framework import content_types as old_types, encoders, worker
    from sagemaker_containers.beta import framework
    sagemaker_logging.get_logger().info("imported")
    {MODEL.strip()}
    def input_fn(body, content_type): return decoder.decode(body, content_type)
    def predict_fn(data, model): return data * 2
    def output_fn(prediction, accept):
        assert old_types.JSON == content_types.JSON
        return encoder.encode(prediction, utils.parse_accept(accept)[0]), accept
    """
    assert answer(script(tmp_path, source), "[1, 2]", content_type=JSON, accept=JSON) == "[2, 4]"


@pytest.mark.parametrize(
    ("body", "content_type", "wanted"),
    [
        ("[[1, 2], [3, 4]]", JSON, [[1, 2], [3, 4]]),
        ('{"a": [1]}', JSON, {"a": [1]}),
        ("[1]", "application/json; charset=utf-8", [1]),
        ("1,2\n3,4\n", "text/csv", [[1, 2], [3, 4]]),
        (b"1,2", "text/csv", [1, 2]),
        (npy(np.array([1.5], "f4")), "application/x-npy", [1.5]),
    ],
)
def test_decode_makes_an_array_of_each_type(body: bytes | str, content_type: str, wanted: object) -> None:
    """An object too, as in the toolkit: an array without dimensions."""
    decoded = inference("decoder").decode(body, content_type)
    assert isinstance(decoded, np.ndarray)
    assert decoded.tolist() == wanted


def test_decode_reads_a_sparse_matrix() -> None:
    """application/x-npz is scipy's."""
    sparse = pytest.importorskip("scipy.sparse")
    stream = io.BytesIO()
    sparse.save_npz(stream, sparse.csr_matrix(np.eye(3)))
    assert inference("decoder").decode(stream.getvalue(), "application/x-npz").shape == (3, 3)


@pytest.mark.parametrize(
    ("prediction", "content_type", "wanted"),
    [
        (np.array([[1, 2]]), JSON, "[[1, 2]]"),
        ({"a": np.float32(1.5)}, JSON, '{"a": 1.5}'),
        ([1, "x"], JSON, '[1, "x"]'),
        (np.array([[1, 2], [3, 4]]), "text/csv", "1,2\n3,4\n"),
        (np.array([1, 2], "i8"), "application/x-npy", npy(np.array([1, 2], "i8"))),
    ],
)
def test_encode_writes_each_type(prediction: Any, content_type: str, wanted: bytes | str) -> None:
    """JSON and CSV are text, npy is bytes."""
    assert inference("encoder").encode(prediction, content_type) == wanted
    assert framework("encoders").encode(prediction, content_type) == wanted


@pytest.mark.parametrize("content_type", ["application/x-parquet", "text/plain", "*/*", None])
@pytest.mark.parametrize("module", ["sagemaker_inference", "sagemaker_containers"])
def test_another_type_is_the_toolkits_own_error(module: str, content_type: str | None) -> None:
    """Scripts catch UnsupportedFormatError; it names the type."""
    is_new = module == "sagemaker_inference"
    errors = inference("errors") if is_new else framework("errors")
    decode = inference("decoder").decode if is_new else framework("encoders").decode
    encode = inference("encoder").encode if is_new else framework("encoders").encode
    with pytest.raises(errors.UnsupportedFormatError) as caught:
        decode("1", content_type)
    assert str(content_type) in str(caught.value)
    with pytest.raises(errors.UnsupportedFormatError):
        encode([1], content_type)


@pytest.mark.parametrize("name", ["sagemaker_inference", "sagemaker_containers.beta.framework"])
@pytest.mark.parametrize(("side", "status"), [("decode", 415), ("encode", 406)])
def test_a_type_that_a_script_leaves_to_the_toolkit_is_415_or_406(
    tmp_path: Path, name: str, side: str, status: int
) -> None:
    """Where the script does not catch it."""
    coder = f"{side}r" if name == "sagemaker_inference" else "encoders"
    source = f"from {name} import {coder}\n{MODEL}def transform_fn(m, b, c, a): return {coder}.{side}('1', 'x/y')\n"
    with loaded(script(tmp_path, source)) as handler, pytest.raises(HandlerError, match="x/y") as caught:
        ask(handler)
    assert caught.value.status == status


def test_a_broken_body_is_400(tmp_path: Path) -> None:
    """As for the default input_fn."""
    source = f"from sagemaker_inference import decoder\n{MODEL}def transform_fn(m, b, c, a): decoder.decode(b, c)\n"
    with loaded(script(tmp_path, source)) as handler, pytest.raises(HandlerError, match="is not the") as caught:
        ask(handler, "[1", content_type=JSON)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        ("GenericInferenceToolkitError(415, 'JSON, please')", 415, "JSON, please"),
        ("GenericInferenceToolkitError(422)", 422, "Invalid Request"),
        ("BaseInferenceToolkitError(404, 'no such', 'Gone')", 404, "no such"),
    ],
)
def test_the_toolkits_errors_are_their_status(tmp_path: Path, raised: str, status: int, said: str) -> None:
    """A script's way to a status of its own."""
    source = f"from sagemaker_inference.errors import *\n{MODEL}def transform_fn(m, b, c, a): raise {raised}\n"
    with loaded(script(tmp_path, source)) as handler, pytest.raises(HandlerError, match=f"^{said}$") as caught:
        ask(handler)
    assert caught.value.status == status


def test_the_generic_error_says_itself_twice() -> None:
    """Status, message and phrase, as its readers expect."""
    assert inference("errors").GenericInferenceToolkitError(500, "bad").args == (500, "bad", "bad")


def test_the_default_handler_reads_and_writes_and_asks_for_the_rest() -> None:
    """People derive from it and give default_model_fn and default_predict_fn."""
    handler = inference("default_inference_handler").DefaultInferenceHandler()
    assert handler.default_input_fn("[1]", JSON).tolist() == [1]
    assert handler.default_output_fn([1], "x/y, text/csv") == ("1\n", "text/csv")
    with pytest.raises(inference("errors").UnsupportedFormatError):
        handler.default_output_fn([1], "x/y")
    with pytest.raises(NotImplementedError, match="model_fn loads the model in '/m'"):
        handler.default_model_fn("/m")
    with pytest.raises(NotImplementedError, match="predict_fn asks the str"):
        handler.default_predict_fn(1, "model")


def test_the_small_helpers_do_what_their_names_say(tmp_path: Path) -> None:
    """Files, headers, Accept."""
    utils = inference("utils")
    utils.write_file(str(tmp_path / "a"), "text")
    assert utils.read_file(str(tmp_path / "a"), "rb") == b"text"
    for spelling in ("Content-Type", "content-type", "ContentType", "contentType"):
        assert utils.retrieve_content_type_header({"Accept": "x", spelling: JSON}) == JSON
    assert utils.retrieve_content_type_header({"Accept": "x"}) is None
    assert utils.parse_accept("text/csv, application/json") == ["text/csv", JSON]
    assert utils.remove_crlf("a\r\nb") == "a  b"


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("1,2", [1.0, 2.0]),
        ("1,2\n3,4", [[1.0, 2.0], [3.0, 4.0]]),
        (b"1,2", [1.0, 2.0]),
        ('"a, b",2', ["a, b", "2"]),
    ],
)
def test_the_older_toolkit_knows_quotes_and_makes_all_of_a_table_numbers_or_none(body: Any, wanted: object) -> None:
    """FP64, or the text of every cell."""
    assert framework("encoders").decode(body, "text/csv").tolist() == wanted


def test_the_older_toolkits_functions_are_there_one_by_one() -> None:
    """Scripts call them by name, with a dtype too; CSV has quotes where a cell needs them."""
    encoders = framework("encoders")
    assert encoders.json_to_numpy("[1]", dtype="f4").dtype == np.float32
    assert encoders.csv_to_numpy("1,2", dtype="i8").tolist() == [1, 2]
    assert encoders.npy_to_numpy(encoders.array_to_npy([1])).tolist() == [1]
    assert json.loads(encoders.array_to_json(np.array([1]))) == [1]
    assert encoders.array_to_csv([["a, b", "c"]]) == '"a, b",c\n'
    assert encoders.array_to_csv([1, 2]) == "1\n2\n"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("csv_to_numpy('a,b', dtype='f8')", "not all f8"),
        ("csv_to_numpy('1,2\\n3', dtype='f8')", "no table"),
        ("array_to_csv(1)", r"shape \(\)"),
    ],
)
def test_csv_that_is_no_table_is_a_client_error(call: str, said: str) -> None:
    """The older toolkit's own, which its scripts catch."""
    with pytest.raises(framework("errors").ClientError, match=said):
        eval(f"encoders.{call}", {"encoders": framework("encoders")})


def test_the_rest_of_the_framework_answers_what_serving_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment's settings, and the functions that scripts fall back to."""
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "serve_me.py")
    monkeypatch.chdir(tmp_path)
    settings = framework("env").ServingEnv()
    assert (settings.module_name, settings.default_accept, settings.model_dir) == ("serve_me", JSON, str(tmp_path))
    transformer = framework("transformer")
    assert transformer.default_input_fn("[1]", JSON).tolist() == [1]
    assert transformer.default_output_fn([1], "text/csv").get_data() == b"1\n"


@pytest.mark.parametrize(
    ("returned", "accept", "body", "content_type", "status"),
    [
        ("worker.Response(encoders.encode(prediction, accept), mimetype=accept)", JSON, b"[[1, 2], [3, 4]]", JSON, 200),
        (
            "worker.Response(encoders.encode(prediction, accept), mimetype=accept)",
            "text/csv",
            b"1,2\n3,4\n",
            "text/csv; charset=utf-8",
            200,
        ),
        ("worker.Response(json.dumps({'a': 1}))", "text/csv", b'{"a": 1}', JSON, 200),
        ("worker.Response(b'no', status=422, mimetype='x/y')", JSON, b"no", "x/y", 422),
        ("worker.Response('gone', status='410 Gone', headers={'content-type': 'x/z'})", JSON, b"gone", "x/z", 410),
        ("worker.Response(['a', b'b'])", JSON, b"ab", JSON, 200),
        ("worker.Response(status=204)", JSON, b"", JSON, 204),
        ("(worker.Response('x', mimetype='x/y'), accept)", JSON, b"x", "x/y", 200),
        ("transformer.default_output_fn(prediction, accept)", JSON, b"[[1, 2], [3, 4]]", JSON, 200),
    ],
)
def test_a_response_is_the_answer(
    tmp_path: Path, returned: str, accept: str, body: bytes, content_type: str, status: int
) -> None:
    """Its body, type and status, as people build it."""
    reply = respond(tmp_path, returned, accept)
    assert (bytes(reply.body), reply.headers["Content-Type"], reply.status) == (body, content_type, status)


def test_the_ignored_accept_of_a_response_warns_and_the_type_is_json(tmp_path: Path) -> None:
    """`Response(body, accept)` is in many scripts; the toolkit ignores it, with this warning."""
    with pytest.warns(DeprecationWarning, match="give it as mimetype"):
        reply = respond(tmp_path, "worker.Response(encoders.encode(prediction, accept), accept)", "text/csv")
    assert (reply.body, reply.headers["Content-Type"]) == (b"1,2\n3,4\n", JSON)


def test_a_responses_headers_travel(tmp_path: Path) -> None:
    """All but those that the server knows better."""
    reply = respond(tmp_path, "worker.Response('x', headers=[('X-Seen', '1'), ('Content-Length', '99')])")
    assert reply.headers == {"X-Seen": "1", "Content-Type": JSON}


def test_a_response_of_pieces_is_streamed(tmp_path: Path) -> None:
    """An iterator goes out as it yields."""
    reply = respond(tmp_path, "worker.Response(iter(['a', b'b']), mimetype='text/plain')")
    assert reply.chunks is not None
    assert list(reply.chunks) == [b"a", b"b"]


def test_a_script_may_look_at_its_response_and_change_it() -> None:
    """The attributes of Flask's that scripts and their tests use."""
    response = framework("worker").Response("a", mimetype="text/csv")
    assert (response.data, response.get_data(as_text=True), response.mimetype) == (b"a", "a", "text/csv")
    response.data, response.status_code, response.content_type = "b", 299, "x/y"
    assert (response.data, response.status, response.mimetype) == (b"b", "299 UNKNOWN", "x/y")


@pytest.mark.parametrize(("pieces", "is_stream"), [("ab", False), (iter(["a", "b"]), True)])
def test_flasks_own_response_is_an_answer_too(pieces: Any, is_stream: bool) -> None:
    """The real toolkit's is one, where a model brings it."""
    response = flask.Response(pieces, status=201, mimetype="text/csv", headers={"X-Seen": "1"})
    reply = context.reply(response, JSON, context.Exchange({}))
    body = b"".join(reply.chunks) if reply.chunks is not None else reply.body
    assert (reply.chunks is not None) is is_stream
    assert (body, reply.status, reply.headers["X-Seen"]) == (b"ab", 201, "1")
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"
