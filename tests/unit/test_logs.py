"""How a log line looks, who it is about, and that nobody waits for it."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator

import pytest

from serving import logs
from serving.logs import AccessLog, about, announce, configure, write_line
from tests.unit.house import others
from tests.waiting import until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Ends to read and to write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


REQUEST = ("POST", "/models/a b/invoke", "a b", None, "", "r-1", 1.5)


def test_a_text_line_is_key_value_and_quotes_what_needs_it() -> None:
    """The message is key=value already."""
    line = write_line(
        {"time": "t", "message": "event=x a=1", "path": "/a b", "empty": "", "quote": 'a"b'}, is_json=False
    )

    assert line == 'time=t event=x a=1 path="/a b" empty="" quote="a\\"b"'


@pytest.mark.parametrize("value", ["a\nb", "a\x1b[31mb", "\x85", "a\u2028b", "x=1 y=2"])
def test_no_value_can_forge_a_line_or_a_field(value: str) -> None:
    """Control characters and spaces are escaped in either form."""
    text, as_json = (write_line({"path": value}, is_json=is_json) for is_json in (False, True))

    assert len(text.splitlines()) == len(as_json.splitlines()) == 1
    assert text.startswith('path="')
    assert json.loads(as_json) == {"path": value}


def test_a_line_carries_level_room_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    """And nobody, while there is no request."""
    configure("info", "text")
    logging.getLogger("wharf.x").warning("event=%s", "happened")
    logging.getLogger("wharf.x").debug("event=hidden")

    written = capsys.readouterr().err

    assert written.endswith("level=warning room=wharf.x event=happened\n")
    assert "request_id" not in written


@pytest.mark.parametrize("form", ["text", "json"])
def test_every_line_of_a_request_says_whose_it_is(capsys: pytest.CaptureFixture[str], form: str) -> None:
    """Whatever room writes it."""
    configure("info", form)
    token = about.set(("r-7", "/models/a/invoke"))
    logging.getLogger("wharf.manager").info("event=loaded model=a")
    about.reset(token)
    line = capsys.readouterr().err

    if form == "json":
        fields = json.loads(line)
        assert (fields["request_id"], fields["about_model"]) == ("r-7", "/models/a/invoke")
    else:
        assert "event=loaded model=a request_id=r-7 about_model=/models/a/invoke" in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_is_one_line(capsys: pytest.CaptureFixture[str], form: str) -> None:
    """A collector never tears it apart."""
    configure("info", form)
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        logging.getLogger("wharf.x").exception("event=crashed")

    line = capsys.readouterr().err

    assert line.count("\n") == 1
    assert "RuntimeError: two" in line
    assert form == "text" or "Traceback" in json.loads(line)["traceback"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_announcement_is_written_whatever_the_level(capsys: pytest.CaptureFixture[str], form: str) -> None:
    """People and tools read the address from it."""
    configure("critical", form)
    announce("listening on http://x:1 with granian", form)

    line = capsys.readouterr().err

    message = json.loads(line)["message"] if form == "json" else line
    assert "listening on http://x:1 " in message


class _Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stderr", [None, _Gone()], ids=["closed", "broken pipe"])
def test_an_announcement_that_nobody_can_read_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO | None
) -> None:
    """A server without a terminal still serves."""
    monkeypatch.setattr(sys, "stderr", stderr)
    announce("x", "text")


@pytest.mark.parametrize(("which", "statuses"), [("all", [200, 404, 503]), ("errors", [404, 503]), ("off", [])])
def test_the_setting_decides_which_requests_get_a_line(which: str, statuses: list[int], pipe: tuple[int, int]) -> None:
    """All, those that failed, or none."""
    access = AccessLog(which, "json", pipe[1])
    for status in (200, 404, 503):
        access.write(status, *REQUEST)
    access.flush()
    os.close(pipe[1])

    lines = os.read(pipe[0], 10_000).decode().splitlines()
    assert [json.loads(line)["status"] for line in lines] == [str(status) for status in statuses]


def test_an_access_line_has_what_is_known_and_no_more(pipe: tuple[int, int]) -> None:
    """Model and request id, not the headers that were not sent."""
    access = AccessLog("all", "text", pipe[1])
    access.write(200, *REQUEST)
    access.flush()
    line = os.read(pipe[0], 10_000).decode()

    assert "event=request status=200 method=POST" in line
    assert 'path="/models/a b/invoke" model="a b" request_id=r-1 milliseconds=1.5\n' in line
    assert "target_model" not in line


def test_lines_are_written_by_themselves_soon(pipe: tuple[int, int]) -> None:
    """Nobody has to ask for them."""
    os.set_blocking(pipe[0], False)
    access = AccessLog("all", "text", pipe[1])
    access.write(200, *REQUEST)
    until(lambda: not access._pending)

    os.set_blocking(pipe[0], True)
    assert b"status=200" in os.read(pipe[0], 10_000)


def test_a_reader_that_went_away_stops_nobody(pipe: tuple[int, int]) -> None:
    """Serving goes on without a log."""
    os.close(pipe[0])
    access = AccessLog("all", "text", pipe[1])
    access.write(200, *REQUEST)
    access.flush()

    assert not access._pending


def test_a_reader_that_hangs_costs_a_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest lines go."""
    monkeypatch.setattr(logs, "_MAX_PENDING", 10)
    access = AccessLog("all", "text", -1)
    with access._flush_lock:
        for number in range(100):
            access.write(200, "GET", f"/{number}", None, None, None, "r", 0)

        assert len(access._pending) == 10
        assert access._pending[0][1][2] == "/90"


def test_many_threads_may_write_and_flush(pipe: tuple[int, int]) -> None:
    """No line is lost, doubled or torn, and nobody fails at the end."""
    access = AccessLog("all", "json", pipe[1])

    def work(_: int) -> None:
        for _ in range(20):
            access.write(200, *REQUEST)
            access.flush()

    with others() as pool:
        list(pool.map(work, range(8)))
    access.flush()
    os.close(pipe[1])
    with os.fdopen(os.dup(pipe[0]), "rb") as reader:
        lines = reader.read().splitlines()

    assert len(lines) == 160
    assert {json.loads(line)["request_id"] for line in lines} == {"r-1"}
