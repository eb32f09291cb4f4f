"""Decoupled models of Triton's Python backend send instead of returning: none, one or many responses."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest

from serving.workers import answer_frames
from tests.workers.triton_models import FAILED, OK, Load, ask, error_of, executing, lines, load

__all__ = ["load"]

DECOUPLED: dict[str, Any] = {"model_transaction_policy": {"decoupled": True}}
FINAL = "flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL"
BAD = "pb_utils.InferenceResponse(error=pb_utils.TritonError('lost one'))"
# Triton's own example's shape: a thread for each request sends as many responses as the input says.
REPEAT = f"""
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            count = int(request.inputs()[0].as_numpy()[0])
            threading.Thread(target=self.answer, args=(request.get_response_sender(), count), daemon=True).start()
        return None

    def answer(self, sender, count):
        for index in range(count):
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", np.array([index], np.int32))]))
        sender.send({FINAL})
"""


def test_one_response_of_a_decoupled_model_is_a_normal_answer(load: Load) -> None:
    """A client that asks for one sees no difference."""
    (reply,) = load(REPEAT, DECOUPLED).call([ask(x=[1])])
    assert (reply.tensors, reply.chunks) == ({"y": 0}, None)


def test_several_responses_are_lines_of_json(load: Load) -> None:
    """Each is a response of the Open Inference protocol."""
    (reply,) = load(REPEAT, DECOUPLED).call([ask(x=[3])])
    assert reply.headers == {"Content-Type": "application/x-ndjson"}
    assert lines(reply) == [
        {
            "model_name": "m",
            "model_version": "1",
            "outputs": [{"name": "y", "datatype": "INT32", "shape": [1], "data": [index]}],
        }
        for index in range(3)
    ]


def test_who_asks_for_tensors_gets_frames(load: Load) -> None:
    """Alone as chunks, in a batch whole; an error is a frame too."""
    asked, again = ask(x=[3]), ask(x=[2])
    asked.about = again.about = {"stream": "tensors"}
    handler = load(REPEAT, DECOUPLED)
    (reply,) = handler.call([asked])
    assert reply.chunks is not None
    found = [list(answer_frames.read(chunk)) for chunk in reply.chunks]
    assert [tensors["y"].tolist() for ((_, tensors),) in found] == [[0], [1], [2]]
    whole = handler.call([asked, again])[1]
    assert (whole.chunks, [tensors["y"].tolist() for _, tensors in answer_frames.read(whole.body)]) == (
        None,
        [[0], [1]],
    )


@pytest.mark.parametrize(
    ("sends", "heads"),
    [
        ((OK, FINAL), [("", False)]),
        ((f"{OK}, {FINAL}",), [("", True)]),
        ((OK, f"{OK}, {FINAL}"), [("", False), ("", True)]),
        ((BAD, f"{OK}, {FINAL}"), [("lost one", False), ("", True)]),
        ((OK, f"{BAD}, {FINAL}"), [("", False), ("lost one", True)]),
    ],
)
def test_a_frame_says_whether_it_was_sent_as_the_last(load: Load, sends: tuple[str, ...], heads: list[Any]) -> None:
    """Streams tell their clients; a single response has a frame of its own for that."""
    asked = ask()
    asked.about = {"stream": "tensors"}
    sent = "; ".join(f"sender.send({each})" for each in sends)
    code = executing(f"sender = requests[0].get_response_sender(); {sent}")
    (reply,) = load(code, DECOUPLED).call([asked])
    found = [head for chunk in reply.chunks or () for head, _ in answer_frames.read(chunk)]
    assert [(head.get("error", ""), head.get("last", False)) for head in found] == heads


def test_an_exception_in_place_of_a_stream_has_its_status(load: Load) -> None:
    """It is the end."""
    asked = ask()
    asked.about = {"stream": "tensors"}
    (reply,) = load(executing("1 / 0"), DECOUPLED).call([asked])
    assert (reply.status, reply.chunks) == (424, None)


def test_no_response_is_an_empty_answer(load: Load) -> None:
    """Decoupled models may answer nothing."""
    (reply,) = load(REPEAT, DECOUPLED).call([ask(x=[0])])
    assert (reply.status, reply.body, reply.chunks) == (200, b"", None)


def test_of_a_batch_every_request_has_its_own_answers(load: Load) -> None:
    """Only one of a batch could be streamed: lines are sent whole."""
    one, three = load(REPEAT, DECOUPLED).call([ask(x=[1]), ask(x=[3])])
    assert one.tensors == {"y": 0}
    assert three.chunks is None
    assert len(bytes(three.body).splitlines()) == 3


def test_lines_come_as_they_are_sent(load: Load) -> None:
    """The third response is sent only once the second was read: execute itself may send."""
    code = f"""
go = threading.Event()
class TritonPythonModel:
    def execute(self, requests):
        sender = requests[0].get_response_sender()
        sender.send({OK})
        sender.send({OK})
        assert go.wait(15)
        sender.send({OK}, {FINAL})
"""
    (reply,) = load(code, DECOUPLED).call([ask()])
    assert reply.chunks is not None
    next(reply.chunks)
    next(reply.chunks)
    sys.modules["1.model"].go.set()
    assert len(list(reply.chunks)) == 1


def test_a_model_sees_that_its_client_left(load: Load) -> None:
    """Closing the chunks is what `main` does; is_cancelled() turns true on the sender and on the request."""
    code = f"""
left, go = threading.Event(), threading.Event()
class TritonPythonModel:
    def execute(self, requests):
        request, = requests
        sender = request.get_response_sender()
        sender.send({OK})
        sender.send({OK})
        assert not sender.is_cancelled() and go.wait(15)
        if sender.is_cancelled() and request.is_cancelled():
            left.set()
        sender.send({FINAL})
"""
    (reply,) = load(code, DECOUPLED).call([ask()])
    assert reply.chunks is not None
    reply.chunks.close()  # type: ignore[attr-defined]
    assert list(reply.chunks) == []
    model = sys.modules["1.model"]
    model.go.set()
    assert model.left.wait(15)


def test_an_error_between_responses_is_a_line(load: Load) -> None:
    """The stream goes on after it, as Triton's."""
    sends = "; ".join(f"sender.send({each})" for each in (OK, BAD, OK, FINAL))
    code = executing(f"sender = requests[0].get_response_sender(); {sends}")
    found = lines(load(code, DECOUPLED).call([ask()])[0])
    assert [*map(list, found)] == [["model_name", "model_version", "outputs"], ["error"]] + [list(found[0])]
    assert found[1] == {"error": "lost one"}


def test_the_only_response_may_be_an_error(load: Load) -> None:
    """Then it has its status."""
    error = "pb_utils.InferenceResponse(error=pb_utils.TritonError('gone', pb_utils.TritonError.NOT_FOUND))"
    code = executing(f"requests[0].get_response_sender().send({error}, {FINAL})")
    assert load(code, DECOUPLED).call([ask()])[0].status == 404


def test_an_exception_of_a_decoupled_model_is_the_answer(load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    """In Triton's words for the client; its traceback for the log."""
    (reply,) = load(executing("1 / 0"), DECOUPLED).call([ask()])
    assert reply.status == 424
    assert error_of(reply).startswith(f"{FAILED}ZeroDivisionError: division by zero\n\nAt:\n  ")
    assert "Traceback" in capfd.readouterr().err


def test_an_exception_after_responses_is_the_last_line(load: Load) -> None:
    """What was sent before it stays."""
    code = (
        f"sender = requests[0].get_response_sender(); sender.send({OK}); sender.send({OK}); raise MemoryError('full')"
    )
    *_, last = lines(load(executing(code), DECOUPLED).call([ask()])[0])
    assert last["error"].startswith(f"{FAILED}MemoryError: full\n")


@pytest.mark.parametrize(
    ("body", "status", "fault"),
    [
        ("raise MemoryError()", 507, "MemoryError"),
        ("return []", 424, "'m_0' is using the decoupled mode and the execute function must return None."),
        ("pass", 424, "let go of a request without an answer"),
        ("requests[0].get_response_sender()", 424, "TRITONSERVER_RESPONSE_COMPLETE_FINAL"),
    ],
)
def test_a_decoupled_model_that_answers_nothing_keeps_nobody_waiting(
    load: Load, body: str, status: int, fault: str
) -> None:
    """Neither one that forgets its request."""
    (reply,) = load(executing(body), DECOUPLED).call([ask()])
    assert reply.status == status
    assert fault in error_of(reply)


def test_sys_exit_of_a_decoupled_model_ends_the_worker(load: Load) -> None:
    """It is raised where `main` sees it, although another thread said it."""
    with pytest.raises(SystemExit):
        load(executing("raise SystemExit(3)"), DECOUPLED).call([ask()])


@pytest.mark.parametrize("count", [1, 2])
def test_a_sender_that_is_forgotten_after_an_answer_ends_it(load: Load, count: int) -> None:
    """The flag was wanted, the answer is there all the same."""
    sends = "; ".join([f"sender.send({OK})"] * count)
    (reply,) = load(executing(f"sender = requests[0].get_response_sender(); {sends}"), DECOUPLED).call([ask()])
    assert reply.tensors == {"y": 0.0} if count == 1 else len(lines(reply)) == 2


def test_a_coroutine_may_send(load: Load) -> None:
    """`async def execute` of decoupled models, as those that stream from an engine."""
    body = f"""
import asyncio
sender = requests[0].get_response_sender()
sender.send({OK})
await asyncio.sleep(0)
sender.send({OK}, {FINAL})
"""
    (reply,) = load(executing(body, "async def"), DECOUPLED).call([ask()])
    assert len(lines(reply)) == 2


def test_calls_of_a_decoupled_model_do_not_overlap(load: Load) -> None:
    """The next execute waits for the last one's return, which may come after its answer."""
    code = f"""
import itertools
class TritonPythonModel:
    busy, calls = threading.Lock(), itertools.count()
    def execute(self, requests):
        assert self.busy.acquire(blocking=False)
        requests[0].get_response_sender().send({OK}, {FINAL})
        sum(range(100_000))
        self.busy.release()
"""
    handler = load(code, DECOUPLED)
    for _ in range(5):
        assert handler.call([ask()])[0].status == 200


def test_a_normal_model_may_answer_by_its_sender(load: Load) -> None:
    """None stands for a request whose sender was taken; the others are returned."""
    code = f"requests[0].get_response_sender().send({OK}, {FINAL}); return [None, {OK}]"
    assert [reply.tensors for reply in load(executing(code)).call([ask(), ask()])] == [{"y": 0.0}] * 2


def test_values_that_json_has_not_are_null_or_base64(load: Load) -> None:
    """As in every answer of ours."""
    body = f"""
y = pb_utils.Tensor("y", np.array([1, np.nan, np.inf], np.float16))
z = pb_utils.Tensor("z", np.array([b"a", bytes([255])], object))
sender = requests[0].get_response_sender()
sender.send({OK})
sender.send(pb_utils.InferenceResponse([y, z], parameters={{"a": 1}}), {FINAL})
"""
    _, found = lines(load(executing(body), DECOUPLED).call([ask()])[0])
    assert found["parameters"] == {"a": 1}
    assert [each["datatype"] for each in found["outputs"]] == ["FP16", "BYTES"]
    assert [each["data"] for each in found["outputs"]] == [[1, None, None], ["a", {"b64": "/w=="}]]


def test_a_decoupled_model_keeps_no_worker_from_ending(load: Load) -> None:
    """Threads of a call are daemons."""
    load(REPEAT, DECOUPLED).call([ask(x=[1])])
    assert all(each.daemon for each in threading.enumerate() if each is not threading.main_thread())


def test_a_model_that_sends_faster_than_anybody_reads_waits(load: Load) -> None:
    """Its responses would be memory without end; once the client has left it waits for nothing."""
    code = f"""
sent, done = [], threading.Event()
class TritonPythonModel:
    def execute(self, requests):
        sender = requests[0].get_response_sender()
        for number in range(500):
            sender.send({OK})
            sent.append(number)
        sender.send({FINAL})
        done.set()
"""
    (reply,) = load(code, DECOUPLED).call([ask()])
    assert reply.chunks is not None
    first = [next(reply.chunks) for _ in range(100)]
    model = sys.modules["1.model"]
    assert len(first) == 100
    assert len(model.sent) < 200
    reply.chunks.close()  # type: ignore[attr-defined]
    assert model.done.wait(15)
