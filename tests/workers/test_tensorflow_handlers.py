"""TensorFlow Serving's container: `handler`, and the pair around a prediction."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.workers.handler import Request
from tests.workers import people
from tests.workers.people import PAIR, answer, ask, loaded

JSON = "application/json"

script = partial(people.script, dialect="tensorflow")
FIELDS = ["model_name", "model_version", "method", "rest_uri", "grpc_port", "channel", "custom_attributes"]
FIELDS += ["request_content_type", "accept_header", "content_length"]


@pytest.mark.parametrize(
    ("result", "body", "content_type"),
    [
        ("data.read(), 'text/plain'", b"hello", "text/plain"),
        ("data.read().decode(), context.accept_header", b"hello", JSON),
        ("data.read()", b"hello", JSON),
        ("{'n': len(data.read())}, 'application/json'", b'{"n": 5}', JSON),
        ("b''.join(data), 'text/plain'", b"hello", "text/plain"),
        ("data.read(2) + data.readline(), 'text/plain'", b"hello", "text/plain"),
    ],
)
def test_a_handler_reads_a_stream_and_answers(tmp_path: Path, result: str, body: bytes, content_type: str) -> None:
    """A body with its type, as bytes, text or an object; or the body alone."""
    with loaded(script(tmp_path, f"def handler(data, context):\n    return {result}\n")) as handler:
        reply = ask(handler, b"hello", content_type="text/plain")
    assert (bytes(reply.body), reply.headers["Content-Type"]) == (body, content_type)


def _context(tmp_path: Path, body: bytes = b"", **headers: str) -> dict[str, Any]:
    source = (
        "import json\ndef handler(data, context): return json.dumps([context._fields, context]), 'application/json'"
    )
    fields, values = json.loads(answer(script(tmp_path, source), body, **headers))
    assert fields == FIELDS
    return dict(zip(fields, values, strict=True))


def test_the_context_is_the_containers_named_tuple(tmp_path: Path) -> None:
    """Its ten fields in their order, with what it has without any header."""
    assert _context(tmp_path) == {
        "model_name": "m",
        "model_version": None,
        "method": None,
        "rest_uri": "http://localhost:0/v1/models/m:predict",
        "grpc_port": None,
        "channel": None,
        "custom_attributes": None,
        "request_content_type": JSON,
        "accept_header": JSON,
        "content_length": 0,
    }


def test_the_context_tells_of_the_request(tmp_path: Path) -> None:
    """Custom attributes name version and method; the path has named the model, whatever they say."""
    attributes = "tfs-model-name=other,tfs-model-version=5,tfs-method=classify,own=1"
    headers = {"content_type": "text/csv", "accept": "text/x", "x_amzn_sagemaker_custom_attributes": attributes}
    context = _context(tmp_path, b"1,2", **headers)
    assert (context["model_name"], context["model_version"], context["method"]) == ("m", "5", "classify")
    assert context["rest_uri"].endswith("/v1/models/m/versions/5:classify")
    assert context["custom_attributes"] == attributes
    assert (context["request_content_type"], context["accept_header"]) == ("text/csv", "text/x")
    assert context["content_length"] == 3


@pytest.mark.parametrize(("sent", "seen"), [("*/*", "text/csv"), ("", "text/csv"), ("a/b", "a/b")])
def test_any_accept_is_the_default_one(tmp_path: Path, sent: str, seen: str) -> None:
    """Handlers answer with the Accept as their Content-Type, and */* is none."""
    source = "def handler(data, context): return b'', context.accept_header"
    with loaded(script(tmp_path, source, default_accept="text/csv")) as handler:
        assert ask(handler, accept=sent).headers == {"Content-Type": seen}


def test_a_handler_alone_counts_where_there_is_a_pair_too(tmp_path: Path) -> None:
    """As in the container; nothing to predict is looked for."""
    assert answer(script(tmp_path, PAIR + "def handler(data, context): return 'alone'")) == "alone"


def test_a_logging_handler_is_no_handler(tmp_path: Path) -> None:
    """Scripts call theirs `handler` at the top; the pair counts."""
    source = f"import logging\nhandler = logging.NullHandler()\n{PAIR}def predict(data): return data\n"
    assert json.loads(answer(script(tmp_path, source), '{"instances": [1]}')) == {"predictions": [1]}


@pytest.mark.parametrize(
    "source", ["", "def input_handler(data, context): pass", "def output_handler(data, context): pass"]
)
def test_a_script_without_handlers_is_a_load_error(tmp_path: Path, source: str) -> None:
    """Half a pair is none."""
    with (
        pytest.raises(ValueError, match="neither handler nor the pair"),
        loaded(script(tmp_path, source)),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rest_uri", "has nothing that predicts: add a SavedModel or a .keras file"),
        ("grpc_port", "no TensorFlow Serving answers gRPC here: post to context.rest_uri"),
        ("channel", "no TensorFlow Serving answers gRPC here: post to context.rest_uri"),
    ],
)
def test_a_script_that_asks_for_what_is_not_here_is_warned_about(
    tmp_path: Path, name: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what to use instead; who asks nobody but himself is served."""
    with loaded(script(tmp_path, f"def handler(data, context): return str(context.{name})")):
        assert f"uses context.{name} and" in caplog.text
        assert said in caplog.text


def test_a_batch_is_answered_one_by_one(tmp_path: Path) -> None:
    """Each request has its own stream and context."""
    source = "def handler(data, context): return data.read() + context.request_content_type.encode()"
    with loaded(script(tmp_path, source)) as handler:
        replies = handler.call([Request(b"a", {"Content-Type": "x"}), Request(memoryview(b"b"))])
    assert [reply.body for reply in replies] == [b"ax", b"bapplication/json"]


@pytest.mark.parametrize("error", ["ValueError", "MemoryError"])
def test_what_a_handler_raises_passes_through(tmp_path: Path, error: str) -> None:
    """`main` makes a status of it."""
    with (
        loaded(script(tmp_path, f"def handler(data, context): raise {error}('no')")) as handler,
        pytest.raises((ValueError, MemoryError), match="no"),
    ):
        ask(handler)


CIFAR = """
import base64, io, json, os
import numpy as np
weights = np.load(os.path.join(os.getcwd(), "weights.npy"))
def handler(data, context):
    if context.request_content_type != "application/json":
        raise ValueError("unsupported content type " + context.request_content_type)
    pictures = np.array(json.loads(data.read().decode("utf-8")), dtype=np.float32) / 255
    scores = pictures.reshape(len(pictures), -1) @ weights
    exp = np.exp(scores)
    return json.dumps({"predictions": (exp / exp.sum(axis=1, keepdims=True)).tolist()}), context.accept_header
"""


def test_the_cifar_handler_of_the_blog_runs_with_a_stand_in_network(tmp_path: Path) -> None:
    """One picture of [1, 32, 32, 3] as JSON; the answer's ten probabilities sum to one."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "weights.npy", rng.normal(size=(3072, 10)).astype(np.float32) / 50)
    picture = rng.integers(0, 256, (1, 32, 32, 3)).tolist()
    got = json.loads(answer(script(tmp_path, CIFAR), json.dumps(picture), content_type=JSON, accept=JSON))
    (row,) = got["predictions"]
    assert len(row) == 10
    assert sum(row) == pytest.approx(1, abs=1e-3)


IMAGE_PAIR = """
import base64, json
def input_handler(data, context):
    return json.dumps({"instances": [{"b64": base64.b64encode(data.read()).decode()}]})
def output_handler(response, context):
    return response.content, context.accept_header
def predict(data): return [len(each) for each in data]
"""


def test_a_pair_may_wrap_an_image(tmp_path: Path) -> None:
    """input_handler makes one base64 instance of it, and the prediction sees its bytes."""
    body = b"\x89PNG\r\n\x1a\n\0\0\0\0"
    got = answer(script(tmp_path, IMAGE_PAIR), body, content_type="application/x-image")
    assert json.loads(got) == {"predictions": [12]}
