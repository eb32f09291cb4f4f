"""What models print: every line once, whole, with its model's name, and nobody but the printer waits for the reader."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Iterator

import pytest

from serving.workers.relay import Relay
from tests.waiting import until


class Pipes:
    """A relay between one worker's pipe and the log that a test reads."""

    def __init__(self, *, is_json: bool = False) -> None:
        self.source, self.printer = os.pipe()
        self.reader, self.log = os.pipe()
        os.set_blocking(self.source, False)
        os.set_blocking(self.reader, False)
        os.set_blocking(self.printer, False)
        self.relay = Relay(is_json=is_json, output_fd=self.log)
        self.relay.add(self.source, "my model", 3, 42)

    def say(self, data: bytes) -> None:
        assert os.write(self.printer, data) == len(data)
        while select.select([self.source], [], [], 0)[0]:
            self.relay.pump(self.source)

    def read(self) -> list[str]:
        data = b""
        while select.select([self.reader], [], [], 0)[0] and (part := os.read(self.reader, 1 << 20)):
            data += part
        return data.decode().splitlines()

    def texts(self) -> list[str]:
        return [line.partition(" text=")[2] for line in self.read()]

    def all_texts(self) -> list[str]:
        """Read until the relay has nothing left."""
        data = b""
        while self.relay.is_blocked:
            data += os.read(self.reader, 1 << 20)
            self.relay.flush()
        data += os.read(self.reader, 1 << 20)
        return [line.partition(" text=")[2] for line in data.decode().splitlines()]

    def close(self) -> None:
        self.relay.end(self.source)
        for number in (self.printer, self.reader, self.log):
            os.close(number)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    made.close()


@pytest.fixture
def json_pipes() -> Iterator[Pipes]:
    made = Pipes(is_json=True)
    yield made
    made.close()


def test_a_line_says_whose_it_is(pipes: Pipes) -> None:
    """In the form of every other line of the log."""
    pipes.say(b"epoch 3 done\n")
    (line,) = pipes.read()
    assert line.endswith('level=info room=wharf.model event=output model="my model" instance=3 text="epoch 3 done"')
    assert line.startswith("time=20")


def test_as_json_it_is_one_object_a_line(json_pipes: Pipes) -> None:
    """For collectors; whatever the model prints, it is one line of JSON."""
    json_pipes.say(b'{"a": 1}\n\xff\x00"\n')
    first, second = (json.loads(line) for line in json_pipes.read())
    assert (first["model"], first["instance"], first["text"]) == ("my model", "3", '{"a": 1}')
    assert second["text"] == '\ufffd\x00"'


def test_a_line_is_relayed_when_it_is_whole(pipes: Pipes) -> None:
    """Prints of half a line are put together."""
    for part in (b"ha", b"lf\nsec"):
        pipes.say(part)
    assert pipes.texts() == ["half"]
    pipes.say(b"ond\n\nlast")
    assert pipes.texts() == ["second", '""']


def test_what_looks_like_a_line_of_ours_is_none(pipes: Pipes) -> None:
    """A model cannot write a record of its own into the log."""
    pipes.say(b"x\r\ntime=now level=error room=wharf.manager\n")
    assert pipes.texts() == ["x", '"time=now level=error room=wharf.manager"']


def test_a_line_without_an_end_is_cut_and_nothing_of_it_lost(pipes: Pipes) -> None:
    """No memory grows with it."""
    for _ in range(10):
        pipes.say(b"x" * 20_000)
    pipes.say(b"y\n")
    texts = pipes.all_texts()
    assert "".join(texts) == "x" * 200_000 + "y"
    assert max(map(len, texts)) <= (64 + 16) << 10


def test_last_words_without_a_line_break_are_words(pipes: Pipes) -> None:
    """A worker that crashed has often printed no more."""
    os.write(pipes.printer, b"first\nlast wor")
    pipes.say(b"ds")
    pipes.read()
    assert pipes.relay.drain(42) == [pipes.source]
    assert pipes.texts() == ['"last words"']
    assert pipes.relay.drain(43) == []


def test_the_end_of_a_pipe_is_told(pipes: Pipes) -> None:
    """The last line needs no break then either."""
    number = os.dup(pipes.printer)
    pipes.say(b"bye")
    os.close(pipes.printer)
    os.close(number)
    assert not pipes.relay.pump(pipes.source)
    assert pipes.texts() == ["bye"]
    pipes.printer = os.open(os.devnull, os.O_WRONLY)


def test_a_pipe_with_nothing_in_it_is_no_end(pipes: Pipes) -> None:
    """Poll may say so a moment too late."""
    assert pipes.relay.pump(pipes.source)


def test_a_pipe_is_closed_once(pipes: Pipes) -> None:
    """Its number may be another's by then."""
    spare = os.dup(pipes.source)
    pipes.relay.end(pipes.source)
    assert pipes.relay.pipes == []
    pipes.relay.end(pipes.source)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(pipes.source)
    os.close(spare)


def test_a_reader_that_does_not_read_blocks_nobody_and_loses_nothing(pipes: Pipes) -> None:
    """What was taken waits here; what was not stays in the printer's pipe; all of it comes, once, in order."""
    wanted: list[str] = []
    while not pipes.relay.is_blocked:
        wanted.append(f"line{len(wanted)}")
        pipes.say(wanted[-1].encode() + b"\n")
    for _ in range(3):
        pipes.relay.flush()  # returns, though nobody reads
    assert pipes.all_texts() == wanted


def test_lines_are_not_cut_where_others_write_too(pipes: Pipes) -> None:
    """The server writes to the same pipe: what goes out at once ends with a line."""
    pipes.relay.say("\n".join(f"ours {n:04}" for n in range(2000)))
    pieces = []
    while select.select([pipes.reader], [], [], 0)[0]:
        pieces.append(os.read(pipes.reader, 4096))
        pipes.relay.flush()
    assert b"".join(pieces).count(b"\n") == 2000


def test_each_piece_ends_with_a_line() -> None:
    """Seen where every write is one packet."""
    import socket

    log, reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with log, reader:
        Relay(is_json=False, output_fd=log.fileno()).say("\n".join(["x" * 999] * 9))
        pieces = [reader.recv(8192) for _ in range(3)]
    assert [len(each) for each in pieces] == [4000, 4000, 1000]
    assert all(each.endswith(b"\n") for each in pieces)


def test_a_log_that_nobody_will_ever_read_is_no_reason_to_stop(pipes: Pipes) -> None:
    """A closed standard error takes no lines; the models go on."""
    os.close(pipes.reader)
    pipes.reader = os.open(os.devnull, os.O_RDONLY)
    pipes.say(b"x\n")
    assert not pipes.relay.is_blocked


def test_what_a_stray_writes_on_and_on_does_not_hold_the_relay(pipes: Pipes) -> None:
    """A worker's pipe may be in other hands when it ends: it is drained of what it can hold, not for ever."""
    reads = 0
    pump = pipes.relay.pump

    def pump_and_refill(number: int) -> bool:
        nonlocal reads
        reads += 1
        os.write(pipes.printer, b"y\n")
        return pump(number)

    pipes.relay.pump = pump_and_refill  # type: ignore[method-assign]  # a printer that is always faster
    os.write(pipes.printer, b"y\n")
    pipes.relay.drain(42)
    assert reads < 100


def test_a_model_that_prints_on_and_on_rests(pipes: Pipes) -> None:
    """The log takes a part of one core in the long run, however much there is to write; then it goes on."""
    spent = -time.process_time()
    while not pipes.relay.rest_s:
        os.write(pipes.printer, b"a line\n" * 1000)
        pipes.relay.pump(pipes.source)
        pipes.all_texts()
    spent += time.process_time()
    assert 0 < pipes.relay.rest_s < 10 * spent

    until(lambda: pipes.relay.rest_s == 0)
    pipes.say(b"the next\n")
    assert pipes.all_texts() == ['"the next"']


def test_what_people_read_is_relayed_without_a_rest(pipes: Pipes) -> None:
    """A hundred lines at once are nothing."""
    pipes.say(b"a line\n" * 100)
    assert pipes.relay.rest_s == 0
