"""One worker as the server sees it: what each way of failing means to a caller, and a worker that lies is ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.errors import (
    BadRequestError,
    DeadlineExceededError,
    InsufficientMemoryError,
    LoadFailedError,
    ModelFailedError,
    ServingError,
    UnavailableError,
    UnsupportedMediaTypeError,
)
from serving.workers.handler import Request
from serving.workers.instance import Instance, WorkerLostError
from serving.workers.supervisor import Supervisor, Wish
from tests.waiting import until
from tests.workers.processes import ECHO, PYTHON, Ends, is_alive, launch_of, open_files, soon, tell, worker


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    """One zygote for all."""
    made = Supervisor(("numpy",))
    made.start()
    yield made
    made.close()


@pytest.fixture
def instance(supervisor: Supervisor, tmp_path: Path) -> Iterator[Instance]:
    """A worker that does what it is told."""
    with worker(supervisor, launch_of(tmp_path)) as made:
        yield made


def load(supervisor: Supervisor, folder: Path, source: str, seconds: float = 20, **fields: Any) -> Instance:
    """Begin to load; the instance is the caller's, loaded or not."""
    instance = Instance(supervisor, launch_of(folder, source, **fields), Wish("m"), Ends())
    try:
        instance.load(soon(seconds))
    except ServingError as error:
        assert instance.process.exited.wait(1), "its process is left"
        assert instance.process.channel.fileno() == -1
        raise error from None
    return instance


# ---- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        ("raise KeyError('weights')", LoadFailedError, "failed to load: KeyError: 'weights'"),
        ("import nosuchpackage", LoadFailedError, "No module named 'nosuchpackage'"),
        ("def model_fn(folder): return 1 / 0", LoadFailedError, "ZeroDivisionError: division by zero"),
        ("raise MemoryError('20 GiB')", InsufficientMemoryError, "ran out of memory while it loaded: MemoryError"),
        ("import sys; sys.exit(3)", LoadFailedError, r"called sys.exit\(3\)"),
        ("import os; os._exit(3)", LoadFailedError, "its worker exited with status 3; see the log"),
        ("import os; os.kill(os.getpid(), 9)", LoadFailedError, "killed by signal 9"),
        ("import os; os.close(3)", LoadFailedError, "failed to load"),
        ("def nonsense(:", LoadFailedError, "SyntaxError"),
    ],
)
def test_a_failure_to_load_says_why_and_leaves_no_process(
    supervisor: Supervisor, tmp_path: Path, source: str, kind: type[ServingError], words: str
) -> None:
    """The handler's last line, or how its process ended."""
    before = open_files()
    with pytest.raises(kind, match=words):
        load(supervisor, tmp_path, source)
    assert open_files() == before


def test_a_failure_to_load_says_where_people_s_code_raised_it(supervisor: Supervisor, tmp_path: Path) -> None:
    """The innermost first, as Triton's Python backend does; nothing of ours is among it."""
    with pytest.raises(LoadFailedError) as caught:
        load(supervisor, tmp_path, "def deep():\n    return 1 / 0\ndef model_fn(folder):\n    return deep()")

    said, _, places = caught.value.said.partition("\n\nAt:\n")
    assert said == "ZeroDivisionError: division by zero"
    assert [line.rpartition("/")[2] for line in places.splitlines()] == [
        "inference.py(3): deep",
        "inference.py(5): model_fn",
    ]
    with pytest.raises(LoadFailedError) as caught:
        load(supervisor, tmp_path / "b", "import sys; sys.exit(3)")
    assert caught.value.said.startswith("The handler called sys.exit(3).")


def test_a_failure_of_an_import_says_where_it_is(supervisor: Supervisor, tmp_path: Path) -> None:
    """Without the frames of the import system."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/neighbour.py").write_text("1 / 0")
    with pytest.raises(LoadFailedError) as caught:
        load(supervisor, tmp_path, "import importlib\nimportlib.import_module('neighbour')")
    places = caught.value.said.partition("\n\nAt:\n")[2]
    assert [line.rpartition("/")[2] for line in places.splitlines()] == [
        "neighbour.py(1): <module>",
        "inference.py(3): <module>",
    ]


def test_a_load_past_its_deadline_is_ended(supervisor: Supervisor, tmp_path: Path) -> None:
    """With the setting to raise; whatever the handler waits for."""
    began = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="raise its load timeout"):
        load(supervisor, tmp_path, "import time\nwhile True: time.sleep(9)", seconds=0.3)
    assert time.monotonic() - began < 3


# ---- calls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 700_000, 6 << 20, 20 << 20])
def test_a_body_goes_there_and_back(supervisor: Supervisor, tmp_path: Path, size: int) -> None:
    """Small ones in the socket, large ones in shared memory, again and again."""
    body = os.urandom(size)
    with worker(supervisor, launch_of(tmp_path, ECHO)) as instance:
        for _ in range(3):
            (reply,) = instance.call([Request(body)], soon())
            assert reply.body == body


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("1 / 0", ModelFailedError, "Model 'm' failed: ZeroDivisionError: division by zero"),
        ("{}['x']", ModelFailedError, "KeyError: 'x'"),
        ("bytearray(1 << 60)", InsufficientMemoryError, "MemoryError"),
        ("(_ for _ in ()).throw(type('OutOfMemoryError', (RuntimeError,), {})('of the device'))", None, "device"),
        ("[].pop()", ModelFailedError, "IndexError: pop from empty list"),
        ("(_ for _ in ()).throw(ValueError('first\\nlast line'))", ModelFailedError, "last line"),
    ],
)
def test_the_handlers_exception_is_its_last_line(
    instance: Instance, code: str, kind: type[ServingError] | None, words: str
) -> None:
    """424, or 507 for typed memory errors; and the worker goes on."""
    with pytest.raises(kind or InsufficientMemoryError, match=words):
        tell(instance, code)
    assert tell(instance, "1") == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(415, UnsupportedMediaTypeError), (400, BadRequestError), (418, ModelFailedError)]
)
def test_a_status_of_the_handlers_own_is_kept(instance: Instance, status: int, kind: type[ServingError]) -> None:
    """Where we have one for it."""
    error = "__import__('serving.workers.handler').workers.handler.HandlerError"
    with pytest.raises(kind, match="mine") as caught:
        tell(instance, f"(_ for _ in ()).throw({error}('mine', {status}))")
    assert caught.value.has_run


@pytest.mark.parametrize(("code", "words"), [("os._exit(7)", "status 7"), ("os.kill(os.getpid(), 9)", "signal 9")])
def test_a_worker_that_dies_in_a_call_is_lost_within_a_second(instance: Instance, code: str, words: str) -> None:
    """503 with how it ended."""
    began = time.monotonic()
    with pytest.raises(WorkerLostError, match=f"lost its worker, which .*{words}.*try again") as caught:
        tell(instance, code)
    assert time.monotonic() - began < 1
    assert caught.value.has_run


def test_a_handler_that_says_sys_exit_is_told_so_and_gone(instance: Instance) -> None:
    """When the caller hears of it nobody else can be handed to that worker."""
    with pytest.raises(UnavailableError, match=r"called sys.exit\('enough'\)"):
        tell(instance, "sys.exit('enough')")
    assert instance.process.exited.is_set()


def test_a_worker_that_is_killed_from_outside_is_lost(instance: Instance) -> None:
    """Idle or not."""
    os.kill(instance.process.pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="signal 9"):
        tell(instance, "1")


def test_a_worker_that_hangs_is_ended_at_the_deadline(instance: Instance) -> None:
    """SIGKILL, as it may hold the interpreter's lock for ever."""
    began = time.monotonic()
    with pytest.raises(WorkerLostError, match="did not answer in time") as caught:
        tell(instance, "[time.sleep(9) for _ in range(9)]", seconds=0.3)
    assert caught.value.has_run
    assert 0.3 <= time.monotonic() - began < 2
    assert not is_alive(instance.process.pid)


def test_a_worker_that_stopped_itself_is_ended_at_the_deadline(instance: Instance) -> None:
    """SIGSTOP cannot be caught either."""
    with pytest.raises(WorkerLostError):
        tell(instance, "os.kill(os.getpid(), 19)", seconds=0.3)
    assert not is_alive(instance.process.pid)


def test_an_answer_that_is_too_large_is_the_models_failure(supervisor: Supervisor, tmp_path: Path) -> None:
    """With the setting; the worker goes on."""
    with worker(supervisor, launch_of(tmp_path, max_reply_bytes=1 << 20)) as instance:
        with pytest.raises(ModelFailedError, match=r"WHARF_MAX_REPLY_BYTES"):
            tell(instance, "'x' * (2 << 20)")
        assert tell(instance, "1") == 1


def test_a_batch_is_answered_in_order(supervisor: Supervisor, tmp_path: Path) -> None:
    """Bodies of different sizes in one message."""
    bodies = [b"a" * 100_000, b"", b"ccc"]
    with worker(supervisor, launch_of(tmp_path, ECHO, batch_size=3)) as instance:
        replies = instance.call([Request(body) for body in bodies], soon())
    assert [reply.body for reply in replies] == bodies


def test_each_answer_of_a_batch_may_be_as_large_as_one_alone(supervisor: Supervisor, tmp_path: Path) -> None:
    """Sharing a call makes no answer too large; one that is fails alone, with the setting."""
    bodies = [b"a" * 700_000, b"b" * 900_000, b"c" * (2 << 20), b"d"]
    with worker(supervisor, launch_of(tmp_path, ECHO, batch_size=4, max_reply_bytes=1 << 20)) as instance:
        first, second, third, fourth = instance.call([Request(body) for body in bodies], soon())
        assert [first.body, second.body, fourth.body] == [bodies[0], bodies[1], bodies[3]]
        assert (third.status, third.headers["Content-Type"]) == (424, "application/json")
        assert b"2097152 bytes and 1048576 are allowed (WHARF_MAX_REPLY_BYTES)" in third.body
        with pytest.raises(ModelFailedError, match=r"WHARF_MAX_REPLY_BYTES"):
            instance.call([Request(bodies[2])], soon())


def test_a_view_that_a_handler_keeps_stays_right(supervisor: Supervisor, tmp_path: Path) -> None:
    """Across later calls that use shared memory too."""
    source = """
    kept = []
    def input_fn(body, content_type): return body
    def predict_fn(data, model):
        from serving.workers import channel
        kept.append(data)
        return str([(each[0], each[-1], len(each)) for each in kept])
    def output_fn(prediction, accept): return prediction
    """
    with worker(supervisor, launch_of(tmp_path, source)) as instance:
        for number in range(1, 4):
            (reply,) = instance.call([Request(bytes([number]) * 100_000)], soon())
    assert bytes(reply.body).decode() == str([(n, n, 100_000) for n in range(1, 4)])


# ---- streams ---------------------------------------------------------------------------------------------------------

STREAM = """
import os, sys, json
def transform_fn(model, body, content_type, accept):
    count = int(body)
    def each():
        try:
            for number in range(count):
                if number == 7: raise ValueError("seven")
                if number == 8: os._exit(4)
                yield b"x" * 100_000 if number == 3 else str(number)
        finally:
            open("closed", "a").write("x")
    if count < 0:
        return json.dumps(os.path.exists("closed"))
    return each()
"""


@pytest.fixture
def streaming(supervisor: Supervisor, tmp_path: Path) -> Iterator[Instance]:
    """A worker that counts in chunks."""
    with worker(supervisor, launch_of(tmp_path, STREAM)) as made:
        yield made


def stream(instance: Instance, count: int) -> Iterator[bytes]:
    (reply,) = instance.call([Request(str(count).encode())], soon())
    assert reply.chunks is not None
    return reply.chunks


def test_chunks_come_in_order_and_end(streaming: Instance) -> None:
    """Large ones between small ones; the next call follows."""
    for _ in range(3):
        assert list(stream(streaming, 5)) == [b"0", b"1", b"2", b"x" * 100_000, b"4"]


def test_an_exception_in_a_stream_is_told_where_it_happened(streaming: Instance) -> None:
    """What came before it came; the worker goes on."""
    chunks = stream(streaming, 8)
    assert [next(chunks) for _ in range(7)][-1] == b"6"
    with pytest.raises(ModelFailedError, match="ValueError: seven"):
        next(chunks)
    assert list(stream(streaming, 2)) == [b"0", b"1"]


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closing_the_chunks_closes_the_generator(streaming: Instance, tmp_path: Path, taken: int) -> None:
    """Its `finally` runs, however much was taken; and the next call gets its own answer."""
    chunks = stream(streaming, 7)
    for _ in range(taken):
        next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    (reply,) = streaming.call([Request(b"-1")], soon())
    assert reply.body == b"true"
    assert streaming.process.exited.is_set() is False


def test_a_generator_that_does_not_come_to_its_next_yield_costs_the_worker(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    """After two seconds: nobody else waits for it."""
    source = """
    import time
    def transform_fn(model, body, content_type, accept):
        yield "a"
        time.sleep(60)
        yield "b"
    """
    with worker(supervisor, launch_of(tmp_path, source)) as instance:
        chunks = stream(instance, 1)
        assert next(chunks) == b"a"
        chunks.close()  # type: ignore[attr-defined]
        assert instance.process.exited.is_set()


# ---- a worker that lies ----------------------------------------------------------------------------------------------

LIAR = """
import os, socket, array
from serving.workers import channel
from serving.workers.channel import Kind
import gc
link = next(each for each in gc.get_objects() if isinstance(each, channel.Channel))
def transform_fn(model, body, content_type, accept):
    global link
    exec(body.decode(), globals())
    return b"honest"
"""


@pytest.fixture
def liar(supervisor: Supervisor, tmp_path: Path) -> Iterator[Instance]:
    """A worker whose code speaks on the channel itself."""
    with worker(supervisor, launch_of(tmp_path, LIAR)) as made:
        yield made


SAYS = "link.send(Kind.REPLY, 1, {{'items': [{{'status': {}, 'headers': {}, 'at': 0, 'bytes': {}}}] * {}}})"
LIES = {
    "a reply without meta": "link.send(Kind.REPLY, 1)",
    "a reply without items": "link.send(Kind.REPLY, 1, {'items': []})",
    "two replies for one": SAYS.format(200, "{}", 0, 2),
    "items that are none": "link.send(Kind.REPLY, 1, {'items': [7]})",
    "headers that are none": SAYS.format(200, "[1]", 0, 1),
    "a status that is none": SAYS.format(42, "{}", 0, 1),
    "a status of words": SAYS.format("'ok'", "{}", 0, 1),
    "more bytes than there are": SAYS.format(200, "{}", 9, 1),
    "tensors that are none": "link.send(Kind.REPLY, 1, {'items': [{'status': 200, 'headers': {}, 'tensors': [{}]}]})",
    "an error without words": "link.send(Kind.ERROR, 1)",
    "an error of a list": "link.send(Kind.ERROR, 1, {'status': [], 'message': 1})",
    "another call's answer": "link.send(Kind.REPLY, 99, {'items': []})",
    "a chunk of nothing": "link.send(Kind.CHUNK, 1, None, [b'x'])",
    "a second READY": "link.send(Kind.READY, 1, {})",
    "files": "link.send(Kind.REPLY, 1, {'items': []}, fds=[0, 1, 2])",
    "noise": "link._socket.sendall(os.urandom(1000))",
    "half a message": "link._socket.sendall(b'\\x07'); os._exit(0)",
    "nothing": "link._socket.shutdown(2)",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_worker_that_lies_is_lost_and_ended(liar: Instance, lie: str) -> None:
    """503 within a second, no file of its left here, no process."""
    before = open_files()
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="lost its worker"):
        liar.call([Request(LIES[lie].encode())], soon(5))
    assert time.monotonic() - began < 2
    assert liar.process.exited.is_set()
    assert open_files() == before - 1  # its channel


@pytest.mark.parametrize(
    "first",
    ["Kind.READY", "Kind.READY, 0, 7", "Kind.FAILED", "Kind.FAILED, 0, {'status': 'x', 'message': ''}", "Kind.REPLY"],
)
def test_a_first_word_that_is_none_is_a_failed_load(supervisor: Supervisor, tmp_path: Path, first: str) -> None:
    """And leaves no process."""
    source = LIAR + f"link.send({first})\n"
    with pytest.raises(LoadFailedError, match="broke the protocol"):
        load(supervisor, tmp_path, source)


def test_a_worker_cannot_fill_our_table_of_files(liar: Instance) -> None:
    """Four files with each of its answers."""
    send = "for _ in '1234': link._socket.sendmsg([b''], [(1, 1, array.array('i', [0, 1, 2, 0]))])"
    before = open_files()
    for _ in range(20):
        try:
            liar.call([Request(send.encode())], soon(5))
        except UnavailableError:
            break
    assert open_files() <= before + 8


def test_stopping_ends_a_worker_that_does_not_listen(supervisor: Supervisor, tmp_path: Path) -> None:
    """After its time for a farewell."""
    with worker(supervisor, launch_of(tmp_path, PYTHON)) as instance:
        os.kill(instance.process.pid, signal.SIGSTOP)
        began = time.monotonic()
        instance.stop()
        assert time.monotonic() - began < 4.5
        until(lambda: not is_alive(instance.process.pid))
