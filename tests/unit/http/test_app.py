"""Method and path find their route; every invocation gets an id, a line and an observation."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from serving.logs import about
from tests.unit.http.front import BODY, Front
from tests.unit.http.wsgi import ask


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    """A fresh front."""
    yield Front(tmp_path)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ping_is_empty_and_200_while_healthy_and_503_otherwise(front: Front, method: str) -> None:
    """The health check of an endpoint."""
    answer = front.ask(method, "/ping")
    assert (answer.status, answer.body) == (200, b"")

    front.is_healthy = False
    answer = front.ask(method, "/ping")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert "see the log" in answer.error


def test_the_list_is_answered_for_get_and_head(front: Front) -> None:
    """HEAD is GET without the body, which the server drops."""
    front.house.load("quick")
    get, head = front.ask("GET", "/models"), front.ask("HEAD", "/models")

    assert get.json() == {"models": [{"modelName": "quick", "modelUrl": f"{front.house.root}/quick"}]}
    assert (head.status, head.headers["Content-Length"]) == (200, get.headers["Content-Length"])


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/ping", {"GET", "HEAD"}),
        ("GET", "/invocations", {"POST"}),
        ("GET", "/models/a/invoke", {"POST"}),
        ("PUT", "/models", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("POST", "/models/a", {"DELETE", "GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/metrics", {"GET", "HEAD", "OPTIONS"}),
        ("BREW", "/ping", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_is_405_and_allow_has_all_that_work(
    front: Front, method: str, path: str, allow: set[str]
) -> None:
    """Also those that another room answers."""
    answer = front.ask(method, path)

    assert answer.status == 405
    assert set(answer.headers["Allow"].split(", ")) == allow
    assert f"does not take '{method}'" in answer.error


def test_a_model_called_invoke_is_a_model(front: Front) -> None:
    """It is loaded, described, invoked and unloaded like any other."""
    front.house.load("invoke")

    assert front.ask("GET", "/models/invoke").json()["modelName"] == "invoke"
    assert front.invoke("invoke").status == 200
    assert front.ask("DELETE", "/models/invoke").status == 200
    assert front.house.names() == []


@pytest.mark.parametrize("name", ["Zürich", "a b", "100%", "sub/dir", "a.tar.gz"])
def test_any_legal_name_is_invoked_percent_encoded_or_not(front: Front, name: str) -> None:
    """WSGI hands over bytes as latin-1; names are UTF-8."""
    front.house.load(name)

    assert front.invoke(quote(name, safe="")).status == 200
    assert front.invoke(quote(name)).status == 200


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("%ff", "is not UTF-8"), ("..", "not legal"), ("", "not legal"), ("a%00", "not legal"), ("x" * 256, "too long")],
)
def test_a_name_that_no_file_can_have_is_400(front: Front, name: str, sentence: str) -> None:
    """Before anybody looks for it."""
    answer = front.invoke(name)

    assert answer.status == 400
    assert sentence in answer.error


def test_an_id_is_kept_or_made_and_sent_back(front: Front) -> None:
    """Made ones differ."""
    ids = [front.invoke(**headers).headers["X-Request-Id"] for headers in ({"x_request_id": "mine"}, {}, {})]

    assert ids[0] == "mine"
    assert len(set(ids)) == 3


def test_every_invocation_is_a_line_and_an_observation(front: Front) -> None:
    """With path, model and what the caller said about itself; no line for polls."""
    front.invoke(x_request_id="r-1", x_amzn_sagemaker_target_model="t.tar.gz", x_amzn_sagemaker_inference_id="i-1")
    front.invoke("nowhere", x_request_id="r-2")
    front.ask("GET", "/ping")
    front.ask("GET", "/models")
    first, second = (json.loads(line) for line in front.log().splitlines())

    assert (first["status"], first["model"], first["request_id"]) == ("200", "quick", "r-1")
    assert (first["target_model"], first["inference_id"]) == ("t.tar.gz", "i-1")
    assert (second["status"], second["path"]) == ("404", "/models/nowhere/invoke")
    assert float(first["milliseconds"]) > 0
    assert (front.counter("Invocations"), front.counter("Invocation4XXErrors")) == (2, 1)


def test_lines_of_other_rooms_carry_the_request_while_it_runs(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    """And none afterwards."""
    seen: list[tuple[str, str]] = []
    caplog.set_level(logging.INFO)

    def note(_: logging.LogRecord) -> bool:
        seen.append(about.get())
        return True

    logging.getLogger("wharf.manager").addFilter(note)
    try:
        front.invoke(x_request_id="r-9")
    finally:
        logging.getLogger("wharf.manager").filters.clear()

    assert ("r-9", "quick") in seen
    assert about.get() == ("", "")


def test_a_bug_is_500_with_its_traceback_in_the_log_and_none_on_the_wire(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The body leads to the line."""
    front = Front(tmp_path, default_model=lambda: str(1 / 0))
    answer = front.ask("POST", "/invocations", BODY, x_request_id="r-5")

    assert answer.status == 500
    assert answer.error == "Internal error; the log has it under request id r-5."
    assert "event=internal_error request_id=r-5" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert front.counter("Invocation5XXErrors") == 1


def test_a_bug_in_the_list_is_500_too(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the page's token made of it."""
    monkeypatch.setattr(front.house.manager, "_by_name", None)

    assert front.ask("GET", "/models").status == 500


@pytest.mark.parametrize("token", [None, "s3cret"])
def test_the_token_closes_management_and_nothing_else(tmp_path: Path, token: str | None) -> None:
    """Ping and invocations are open; with the token everything is."""
    front = Front(tmp_path, token=token)
    closed = 200 if token is None else 401
    routes = [("GET", "/models"), ("HEAD", "/models"), ("GET", "/repository"), ("GET", "/metrics")]

    assert {front.ask(*route).status for route in routes} == {closed}
    assert front.ask("POST", "/models", b"{}").status == (400 if token is None else 401)
    assert front.ask("GET", "/models/x").status == (404 if token is None else 401)
    assert front.ask("DELETE", "/models/x").status == (404 if token is None else 401)
    assert (front.ask("GET", "/ping").status, front.invoke().status) == (200, 200)
    assert {front.ask(*route, authorization="Bearer s3cret").status for route in routes} == {200}


def test_management_calls_get_an_id_and_a_line_too(front: Front) -> None:
    """Whoever unloaded a model can be found."""
    answer = front.ask("DELETE", "/models/x", x_request_id="r-3")
    line = json.loads(front.log())

    assert answer.headers["X-Request-Id"] == "r-3"
    assert (line["status"], line["method"], line["path"], line["request_id"]) == ("404", "DELETE", "/models/x", "r-3")
    assert front.counter("Invocations") == 0


def test_past_their_cap_management_calls_are_refused_and_polls_are_not(front: Front) -> None:
    """Slow loads and drains do not take the threads of the health check; places are given back."""
    with front.gate, front.gate, front.gate, front.gate:
        refused = front.ask("GET", "/models/x")
        assert {front.ask("GET", path).status for path in ("/ping", "/models")} == {200}
        assert front.invoke().status == 200

    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert "management calls" in refused.error
    assert [front.ask("GET", "/models/x").status for _ in range(9)] == [404] * 9


def test_a_refused_list_is_a_line_and_polls_are_none(tmp_path: Path) -> None:
    """A wrong token is worth a look; every five seconds is not."""
    front = Front(tmp_path, token="t")
    front.ask("GET", "/models", authorization="Bearer t")
    assert front.log() == ""

    front.ask("GET", "/models")
    assert json.loads(front.log())["status"] == "401"


def test_everything_else_falls_through_to_flask(front: Front) -> None:
    """Unknown paths are JSON too."""
    answer = ask(front.app, "GET", "/nothing")

    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/json")
    assert "/nothing" in answer.error
