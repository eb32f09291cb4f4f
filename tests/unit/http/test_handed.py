"""Requests handed to people's code and what comes back: headers, statuses, and chunks through both real servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving.http.handed import Stream, headers_of, request_of
from serving.workers.handler import Reply
from tests.server import RunningServer
from tests.unit.http.wsgi import environ_of
from tests.waiting import until

# ---- the request -----------------------------------------------------------------------------------------------------


def test_a_handler_gets_every_header_the_body_and_the_query() -> None:
    """Names in Title-Case, as WSGI can tell them; what is no header is not there."""
    environ = environ_of(
        "POST", "/models/m/invoke?a=1&b=2", b"body", content_type="text/csv", x_amzn_sagemaker_custom_attributes="c=d"
    )
    request = request_of(environ, b"body")
    assert (request.body, request.query, request.tensors) == (b"body", "a=1&b=2", None)
    assert request.headers == {
        "Content-Type": "text/csv",
        "Content-Length": "4",
        "X-Amzn-Sagemaker-Custom-Attributes": "c=d",
    }


def test_headers_that_were_not_sent_are_not_there() -> None:
    """A server may give an empty CONTENT_TYPE."""
    environ = environ_of("POST", "/invocations") | {"CONTENT_TYPE": "", "CONTENT_LENGTH": ""}
    assert request_of(environ, b"").headers == {}


# ---- the headers of a reply ------------------------------------------------------------------------------------------


def test_a_handlers_headers_go_out_as_they_are() -> None:
    """Any legal name and value, custom attributes among them."""
    headers = {"Content-Type": "text/plain; charset=utf-8", "X-Amzn-SageMaker-Custom-Attributes": "a=b", "x_y.z~": ""}
    assert headers_of(Reply(headers=headers)) == list(headers.items())


@pytest.mark.parametrize(
    "name", ["Content-Length", "transfer-encoding", "CONNECTION", "Keep-Alive", "Upgrade", "Trailer", "TE"]
)
def test_the_framing_is_not_theirs(name: str) -> None:
    """A length that is wrong would be the next reply's beginning."""
    assert headers_of(Reply(headers={name: "5", "X": "1"})) == [("X", "1")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "a\r\nSet-Cookie: b"),
        ("X", "a\nb"),
        ("X", "a\0b"),
        ("X", "ü"),
        ("X\r\nY", "a"),
        ("X Y", "a"),
        ("X:", "a"),
        ("", "a"),
        ("Ü", "a"),
        ("X\n", "a"),
    ],
)
def test_what_no_header_can_be_is_left_out_and_logged(name: str, value: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody writes a second reply into the first."""
    assert headers_of(Reply(headers={name: value, "Good": "1"})) == [("Good", "1")]
    assert "event=header_dropped" in caplog.text


# ---- a stream --------------------------------------------------------------------------------------------------------


def watched(chunks: Iterator[bytes]) -> tuple[Stream, list[str]]:
    """A stream, and what was done at its end."""
    done: list[str] = []
    stream = Stream(chunks, lambda: done.append("first"))
    stream.when_over(lambda: done.append("second"))
    return stream, done


def counted(closed: list[str], fails: bool = False) -> Iterator[bytes]:
    try:
        yield b"a"
        if fails:
            raise ValueError("no more")
        yield b"b"
    finally:
        closed.append("closed")


def test_a_stream_ends_once() -> None:
    """At its last chunk; the server's close comes after it."""
    closed: list[str] = []
    stream, done = watched(counted(closed))
    assert list(stream) == [b"a", b"b"]
    stream.close()
    assert (done, closed) == (["first", "second"], ["closed"])


def test_a_stream_that_is_closed_early_closes_its_generator() -> None:
    """The client left."""
    closed: list[str] = []
    stream, done = watched(counted(closed))
    next(stream)
    assert done == []
    stream.close()
    assert (done, closed) == (["first", "second"], ["closed"])


def test_a_stream_that_fails_gives_everything_back(caplog: pytest.LogCaptureFixture) -> None:
    """And raises, so that the server breaks the connection instead of ending the reply as if it were whole."""
    closed: list[str] = []
    stream, done = watched(counted(closed, fails=True))
    next(stream)
    with pytest.raises(ValueError, match="no more"):
        next(stream)
    assert (done, closed) == (["first", "second"], ["closed"])
    assert "event=stream_failed" in caplog.text


def test_chunks_that_cannot_be_closed_are_let_go() -> None:
    """An iterator need not be a generator; and one that fails at its close holds nobody's place."""

    class Stubborn:
        def __iter__(self) -> Stubborn:
            return self

        def __next__(self) -> bytes:
            return b"x"

        def close(self) -> None:
            raise RuntimeError("not me")

    for chunks in (iter([b"a"]), Stubborn()):
        stream, done = watched(chunks)
        next(stream)
        stream.close()
        assert done == ["first", "second"]


# ---- through real servers --------------------------------------------------------------------------------------------

SCRIPT = """
import os, time
HERE = os.environ["TEST_FOLDER"]
def wait_for(name):
    while not os.path.exists(os.path.join(HERE, name)):
        time.sleep(0.002)
def note(name):
    open(os.path.join(HERE, name), "w").close()
def model_fn(folder):
    return None
def transform_fn(model, body, content_type, accept, context):
    word = body.decode()
    if word == "status":
        context.set_response_status(201)
        context.set_response_header(0, "X-Mine", "yes")
        context.set_response_header(0, "X-Amzn-SageMaker-Custom-Attributes", "trace=1")
        context.set_response_header(0, "Content-Length", "1")
        return "created", "text/x-mine"
    if word == "error":
        raise ValueError("this input is wrong")
    if word == "die":
        os._exit(3)
    return each(word)
def each(word):
    try:
        for number in range(3):
            yield f"chunk{number};"
            if word.startswith("fail"):
                raise ValueError("in the middle")
            wait_for(f"{word}{number}")
        if word.startswith("many"):
            while True:
                yield "x" * 70_000
    finally:
        note(f"{word}-closed")
"""
Place = tuple[RunningServer, Path]


@pytest.fixture(scope="module", params=["granian", "gunicorn"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server with the model, and the folder where it meets the test."""
    folder = tmp_path_factory.mktemp(request.param)
    code = folder / "models/m/code"
    code.mkdir(parents=True)
    (code / "inference.py").write_text(SCRIPT)
    env = {"WHARF_HTTP_SERVER": request.param, "WHARF_PRELOAD": "numpy", "TEST_FOLDER": str(folder)}
    with RunningServer(folder / "models", folder / "log", env) as server:
        yield server, folder


def post(server: RunningServer, word: str) -> httpx.Response:
    return server.client.post("/models/m/invoke", content=word)


def in_flight(server: RunningServer) -> str:
    return next(line for line in server.client.get("/metrics").text.splitlines() if line.startswith("InFlight "))


def test_chunks_arrive_as_they_are_yielded(place: Place) -> None:
    """Each before the next is made; the whole is whole."""
    server, folder = place
    got = ""
    with server.client.stream("POST", "/models/m/invoke", content="one") as reply:
        assert reply.status_code == 200
        assert "content-length" not in reply.headers
        texts = reply.iter_text()
        for number in range(3):
            while f"chunk{number};" not in got:
                got += next(texts)
            assert f"chunk{number + 1};" not in got
            (folder / f"one{number}").touch()
        got += "".join(texts)
    assert got == "chunk0;chunk1;chunk2;"
    assert (folder / "one-closed").exists()
    until(lambda: in_flight(server) == "InFlight 0.0")


@pytest.mark.parametrize("word", ["left", "many"])
def test_a_client_that_leaves_stops_the_generator(place: Place, word: str) -> None:
    """Its `finally` runs, its worker serves the next, its place is free; between two chunks, or in a flood of them."""
    server, folder = place
    with server.client.stream("POST", "/models/m/invoke", content=word) as reply:
        assert next(reply.iter_text()).startswith("chunk0;")
        for number in range(3):
            if word == "many":
                (folder / f"many{number}").touch()
    for number in range(3):  # the generator comes to its next yield
        (folder / f"{word}{number}").touch()
    until((folder / f"{word}-closed").exists)
    until(lambda: in_flight(server) == "InFlight 0.0")
    assert post(server, "status").status_code == 201


def test_a_stream_that_fails_is_broken_off(place: Place) -> None:
    """Where the HTTP server can: a client must not take half an answer for one."""
    server, folder = place
    if folder.name.startswith("granian"):  # it has no way to break a reply off: the log alone tells
        assert post(server, "fail").text == "chunk0;"
    else:
        with pytest.raises(httpx.TransportError):
            post(server, "fail")
    until((folder / "fail-closed").exists)
    until(lambda: "in the middle" in server.log())
    assert post(server, "status").status_code == 201


def test_an_unload_waits_for_a_stream(place: Place) -> None:
    """The model is in use until its last chunk."""
    server, folder = place
    with server.client.stream("POST", "/models/m/invoke", content="busy") as reply:
        texts = reply.iter_text()
        assert next(texts) == "chunk0;"
        gone: list[int] = []
        thread = threading.Thread(target=lambda: gone.append(httpx.delete(f"{server.url}/models/m").status_code))
        thread.start()
        (folder / "busy0").touch()
        assert next(texts) == "chunk1;"
        assert gone == []
        for number in (1, 2):
            (folder / f"busy{number}").touch()
        assert "".join(texts) == "chunk2;"
    thread.join(10)
    assert gone == [200]


def test_a_handlers_status_headers_and_type_go_out(place: Place) -> None:
    """But not the length that it made up."""
    reply = post(place[0], "status")
    assert (reply.status_code, reply.text) == (201, "created")
    assert reply.headers["content-type"] == "text/x-mine"
    assert reply.headers["x-mine"] == "yes"
    assert reply.headers["x-amzn-sagemaker-custom-attributes"] == "trace=1"
    assert reply.headers["content-length"] == "7"
    assert reply.headers["x-request-id"]


def test_a_handlers_exception_is_424_and_a_death_503(place: Place) -> None:
    """Each with its reason; the health check and the next request know nothing of it."""
    server, _ = place
    wrong = post(server, "error")
    assert (wrong.status_code, "ValueError: this input is wrong" in wrong.json()["error"]) == (424, True)
    lost = post(server, "die")
    assert (lost.status_code, "exited with status 3" in lost.json()["error"]) == (503, True)
    assert lost.headers["retry-after"] == "1"
    assert server.client.get("/ping").status_code == 200
    assert post(server, "status").status_code == 201
