"""Where `context.rest_uri` leads: a script posts to it with the library requests, as in SageMaker's container."""

from __future__ import annotations

import json
import socket
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.workers import people
from tests.workers.people import answer, ask, loaded

script = partial(people.script, dialect="tensorflow")

# The handler of the container's documentation.
POSTS = """
import requests

def handler(data, context):
    response = requests.post(context.rest_uri, data=_process_input(data, context))
    return _process_output(response, context)

def _process_input(data, context):
    if context.request_content_type == "application/json":
        return data.read().decode("utf-8")
    raise ValueError('{{"error": "unsupported content type {}"}}'.format(context.request_content_type or "unknown"))

def _process_output(data, context):
    if data.status_code != 200:
        raise ValueError(data.content.decode("utf-8"))
    return data.content, context.accept_header
"""
HALF = "def predict(data): return data / 2 + 3\n"
TELLS = f"def handler(data, context): return context.rest_uri\n{HALF}"


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ('{"instances": [1.0, 2.0]}', {"predictions": [3.5, 4.0]}),
        ('{"inputs": [[1.0]]}', {"outputs": [[3.5]]}),
        (json.dumps({"instances": [1.0] * 50_000}), {"predictions": [3.5] * 50_000}),
    ],
)
def test_a_script_posts_to_its_own_model(tmp_path: Path, body: str, wanted: object) -> None:
    """In rows and columns, large bodies too."""
    assert json.loads(answer(script(tmp_path, POSTS + HALF), body)) == wanted


def test_one_session_may_post_many_times(tmp_path: Path) -> None:
    """A connection is kept."""
    source = POSTS.replace("requests.post", "session.post") + "session = requests.Session()\n" + HALF
    with loaded(script(tmp_path, source)) as handler:
        for number in range(20):
            reply = ask(handler, json.dumps({"instances": [number]}))
            assert json.loads(bytes(reply.body)) == {"predictions": [number / 2 + 3]}


def test_a_module_beside_the_script_may_name_the_address(tmp_path: Path) -> None:
    """The script alone does not."""
    launch = script(tmp_path, "from post import handler\n" + HALF)
    (tmp_path / "code/post.py").write_text(POSTS)
    assert json.loads(answer(launch, '{"instances": [1]}')) == {"predictions": [3.5]}


@pytest.mark.parametrize("body", ['{"instances": [[1], [1, 2]]}', "{", '{"instances": [1], "signature_name": "no"}'])
def test_a_wrong_body_is_answered_with_an_error_that_the_script_reads(tmp_path: Path, body: str) -> None:
    """The status is not 200, so this script raises what it got."""
    with loaded(script(tmp_path, POSTS + HALF)) as handler, pytest.raises(ValueError, match='"error": '):
        ask(handler, body)


def test_a_model_that_fails_is_a_500_to_the_script(tmp_path: Path) -> None:
    """With what it raised."""
    source = POSTS + "def predict(data): raise KeyError('inside')\n"
    with loaded(script(tmp_path, source)) as handler, pytest.raises(ValueError, match="KeyError: 'inside'"):
        ask(handler, '{"instances": [1]}')


def _address(handler: Any, attributes: str = "") -> str:
    return bytes(ask(handler, x_amzn_sagemaker_custom_attributes=attributes).body).decode()


def test_the_address_names_model_version_and_method(tmp_path: Path) -> None:
    """As the container makes it; the name is percent-encoded, and known so."""
    with loaded(script(tmp_path, TELLS, name="a b/c:d")) as handler:
        plain = urlsplit(_address(handler))
        chosen = urlsplit(_address(handler, "tfs-model-version=5,tfs-method=classify"))
        posted = httpx.post(plain.geturl(), json={"instances": [1]})
    assert (plain.hostname, plain.path) == ("127.0.0.1", "/v1/models/a%20b/c%3Ad:predict")
    assert chosen.path == "/v1/models/a%20b/c%3Ad/versions/5:classify"
    assert (posted.status_code, posted.json()) == (200, {"predictions": [3.5]})


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/v1/models/m", 200, "AVAILABLE"),
        ("GET", "/v1/models/m/versions/9", 404, "Could not find version 9 of model m"),
        ("GET", "/v1/models/other", 404, "Servable not found for request: Latest(other): here is m."),
        ("POST", "/v1/models/other:predict", 404, "Servable not found"),
        ("POST", "/v1/models/m", 400, "Malformed request"),
        ("GET", "/v1/models/m:predict", 400, "Malformed request"),
        ("GET", "/", 400, "Malformed request"),
    ],
)
def test_what_else_is_asked_there_is_answered_as_tensorflow_serving_would(
    tmp_path: Path, method: str, path: str, status: int, said: str
) -> None:
    """The status of the model, and errors."""
    with loaded(script(tmp_path, TELLS)) as handler:
        address = _address(handler).partition("/v1")[0]
        found = httpx.request(method, address + path, content=b"{}")
    assert (found.status_code, said in found.text) == (status, True)


def test_a_body_in_chunks_is_told_to_come_with_a_length(tmp_path: Path) -> None:
    """As of a generator."""
    with loaded(script(tmp_path, TELLS)) as handler:
        found = httpx.post(_address(handler), content=iter([b"{}"]))
    assert (found.status_code, "Content-Length" in found.text) == (411, True)


def test_nobody_listens_after_the_end_nor_for_a_script_that_does_not_ask(tmp_path: Path) -> None:
    """Port 0 refuses at once."""
    with loaded(script(tmp_path, TELLS)) as handler:
        port = urlsplit(_address(handler)).port
        assert port
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    source = f"def handler(data, context): return getattr(context, 'rest_' + 'uri')\n{HALF}"
    with loaded(script(tmp_path / "other", source)) as handler:
        assert _address(handler).startswith("http://localhost:0/v1/models/m:predict")
