"""The management routes: load, unload, describe, the repository, metrics, and who may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.errors import BadRequestError, UnauthorizedError
from serving.http.admin import Guard, read_load_request
from tests.unit.http.front import Front
from tests.unit.http.wsgi import environ_of


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    """A fresh front."""
    yield Front(tmp_path)


def _load(front: Front, name: str, url: str) -> tuple[int, object]:
    answer = front.ask("POST", "/models", json.dumps({"model_name": name, "url": url}).encode())
    return answer.status, answer.json()


@pytest.mark.parametrize("name", ["a", "sub/dir", "Zürich 1"])
def test_a_model_is_loaded_described_and_unloaded(front: Front, name: str) -> None:
    """The documented shapes; names may have slashes."""
    url = front.house.make(name)

    assert _load(front, name, url) == (200, {"status": f"Model '{name}' loaded."})
    assert _load(front, name, url)[0] == 409
    assert front.ask("GET", f"/models/{name}").json() == {"modelName": name, "modelUrl": url}
    assert front.ask("DELETE", f"/models/{name}").json() == {"status": f"Model '{name}' unloaded."}
    assert front.ask("DELETE", f"/models/{name}").status == 404


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b'{"model_name": "a", "url": "/x",}', "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 5000, "is not JSON"),
        (b"[]", "is a JSON list"),
        (b"null", "is a JSON NoneType"),
        (b'{"model_name": "a"}', "'url' of the load request is missing"),
        (b'{"url": "/x"}', "'model_name' of the load request is missing"),
        (b'{"model_name": "a", "url": 1}', "'url' of the load request is 1 and wants a text"),
        (b'{"model_name": "", "url": "/x"}', "is '' and wants a text"),
        (b'{"model_name": "../a", "url": "/x"}', "not legal"),
        (b'{"model_name": "a\\u0000", "url": "/x"}', "not legal"),
    ],
)
def test_a_load_request_that_is_wrong_says_what_and_what_to_send(body: bytes, sentence: str) -> None:
    """400 each, never a crash."""
    with pytest.raises(BadRequestError, match=sentence):
        read_load_request(body)


def test_a_load_request_may_say_more_than_we_read(caplog: pytest.LogCaptureFixture) -> None:
    """The platform may add fields, and DJL's register call has some: each is named in the log."""
    assert read_load_request(b'{"model_name": "a", "url": "/x", "new": {}, "batch_size": 4}') == ("a", "/x")
    assert 'model=a warning="the load request has batch_size, new, which has no effect: set it in' in caplog.text
    caplog.clear()
    read_load_request(b'{"model_name": "a", "url": "/x"}')
    assert caplog.text == ""


def test_a_long_value_is_not_repeated_whole() -> None:
    """An error does not grow with the request."""
    with pytest.raises(BadRequestError) as caught:
        read_load_request(json.dumps({"model_name": ["x" * 10_000], "url": "/x"}).encode())

    assert len(caught.value.message) < 200


def test_a_load_body_has_a_limit(front: Front) -> None:
    """A name and a path are no megabytes."""
    answer = front.ask("POST", "/models", b"x" * 70_000)

    assert answer.status == 413
    assert "65536" in answer.error


@pytest.mark.parametrize("path", ["/", "/models/", "/ping/", "/models/a/", "//models", "/models/%ff", "/x" * 200])
def test_a_path_that_is_none_is_a_4xx_in_json(front: Front, path: str) -> None:
    """Never HTML."""
    for method in ("GET", "DELETE", "POST"):
        answer = front.ask(method, path)
        assert answer.status in (400, 404, 405)
        assert answer.headers["Content-Type"] == "application/json"
        assert len(answer.error) < 300


@pytest.mark.parametrize("path", ["/models/..", "/models/a/../b", "/models/a//b", "/models/%00"])
def test_a_name_that_climbs_is_not_legal(front: Front, path: str) -> None:
    """On every route that takes one."""
    for method in ("GET", "DELETE"):
        assert front.ask(method, path).status == 400


def test_the_repository_and_the_metrics_are_shown(front: Front) -> None:
    """What could be served, and how it goes."""
    metrics = front.ask("GET", "/metrics")

    assert front.ask("GET", "/repository").json() == {"models": [{"modelName": "quick"}]}
    assert metrics.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"LoadedModelCount 0.0" in metrics.body


def test_options_tells_the_methods(front: Front) -> None:
    """Of a path that has more than one."""
    answer = front.ask("OPTIONS", "/models")

    assert answer.status == 200
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


def test_a_bug_is_500_and_none_of_it_is_on_the_wire(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the hot routes."""
    monkeypatch.setattr(front.house.manager.recall, "_by_name", None)
    answer = front.ask("GET", "/models/a")

    assert answer.status == 500
    assert "Internal error" in answer.error


@pytest.mark.parametrize(
    ("token", "header", "is_open"),
    [
        (None, "", True),
        ("", "", True),
        ("t", "Bearer t", True),
        ("t", "", False),
        ("t", "Bearer", False),
        ("t", "bearer t", False),
        ("t", "Bearer t ", False),
        ("t", "Bearer tt", False),
        ("t", "Basic t", False),
        ("ü", "Bearer \xc3\xbc", True),
        ("t", "Bearer \u20ac", False),
    ],
)
def test_the_guard_wants_exactly_the_token(token: str | None, header: str, is_open: bool) -> None:
    """Compared in constant time; headers come as latin-1."""
    environ = environ_of("GET", "/metrics", authorization=header)
    if is_open:
        Guard(token).check(environ)
        return
    with pytest.raises(UnauthorizedError) as caught:
        Guard(token).check(environ)
    assert token not in caught.value.message.split("'")
