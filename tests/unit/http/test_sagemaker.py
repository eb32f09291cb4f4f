"""The hot half of the contract: list, invoke, invocations."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.errors import BadRequestError, ServingError, UnavailableError
from serving.http.sagemaker import check_name
from serving.repository.scheduling import Scheduling
from serving.statistics import ModelStatistics
from serving.workers.handler import Reply, Request
from tests.unit.house import others
from tests.unit.http.front import BODY, Front, front_of
from tests.unit.http.wsgi import Answer, call, environ_of
from tests.waiting import until


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    """A fresh front."""
    yield Front(tmp_path)


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a", "sub/a.tar.gz", "Zürich", "...", ".hidden", "x" * 255, "/".join(["y" * 200] * 5)]
)
def test_a_name_that_a_file_can_have_is_legal(name: str) -> None:
    """Also in folders."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a\n", "\ud800", "x" * 256, "ü" * 128, "a/" * 600 + "a"]
)
def test_a_name_that_no_file_can_have_is_refused_with_the_rule(name: str) -> None:
    """And repeated only in part."""
    with pytest.raises(BadRequestError, match="is not legal") as caught:
        check_name(name)

    assert len(caught.value.message) < 500


# ---- list ------------------------------------------------------------------------------------------------------------


def _names(answer: Answer) -> list[str]:
    return [each["modelName"] for each in answer.json()["models"]]


def test_pages_go_through_every_model_once(front: Front) -> None:
    """A token only when more remains."""
    for number in range(5):
        front.house.load(f"m{number}")
    first = front.ask("GET", "/models?limit=2")
    second = front.ask("GET", f"/models?limit=2&next_page_token={first.json()['nextPageToken']}")
    third = front.ask("GET", f"/models?limit=2&next_page_token={second.json()['nextPageToken']}")

    assert [_names(each) for each in (first, second, third)] == [["m0", "m1"], ["m2", "m3"], ["m4"]]
    assert "nextPageToken" not in third.json()


def test_a_page_goes_on_where_it_was_though_models_went(front: Front) -> None:
    """The token is a name, not a position."""
    for number in range(4):
        front.house.load(f"m{number}")
    token = front.ask("GET", "/models?limit=2").json()["nextPageToken"]
    for name in ("m0", "m1"):
        front.house.manager.unload(name)

    assert _names(front.ask("GET", f"/models?limit=2&next_page_token={token}")) == ["m2", "m3"]


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1.5", "%C2%B2", " "])
def test_a_limit_that_is_none_is_400(front: Front, limit: str) -> None:
    """It says what is wanted."""
    answer = front.ask("GET", f"/models?limit={limit}")

    assert answer.status == 400
    assert "from 1 to 100" in answer.error


@pytest.mark.parametrize("limit", ["", "1000", "9" * 5000])
def test_a_limit_is_capped(front: Front, limit: str) -> None:
    """Whatever its length."""
    assert front.ask("GET", f"/models?limit={limit}").status == 200


@pytest.mark.parametrize("token", ["%FF", "x", "!!!!", base64.urlsafe_b64encode(b"\xff").decode()])
def test_a_token_that_is_not_ours_is_400(front: Front, token: str) -> None:
    """Send back what was sent."""
    answer = front.ask("GET", f"/models?next_page_token={token}")

    assert answer.status == 400
    assert "unchanged" in answer.error


# ---- invocations -----------------------------------------------------------------------------------------------------


def test_invocations_go_to_the_header_or_else_to_the_default(front: Front) -> None:
    """The SDK's local mode sends the header."""
    front.house.make("Zürich", scale=10)
    header = "Zürich".encode().decode("latin-1")

    assert front.ask("POST", "/invocations", BODY).json() == {"predictions": [[4.0]]}
    chosen = front.ask("POST", "/invocations", BODY, x_amzn_sagemaker_target_model=header)
    assert chosen.json() == {"predictions": [[10.0]]}


@pytest.mark.parametrize(("header", "status"), [("\xff", 404), ("../x", 400), ("nowhere", 404)])
def test_a_header_that_names_no_model_says_so(front: Front, header: str, status: int) -> None:
    """400 for what is no name, 404 for what is nobody's."""
    assert front.ask("POST", "/invocations", BODY, x_amzn_sagemaker_target_model=header).status == status


def test_the_path_decides_whatever_the_header_says(front: Front) -> None:
    """On model routes it is only logged."""
    assert front.invoke(x_amzn_sagemaker_target_model="nowhere").status == 200


# ---- bodies ----------------------------------------------------------------------------------------------------------


def _send(front: Front, body: object, **changes: Any) -> Answer:
    environ = environ_of("POST", "/models/quick/invoke", content_type="application/json")
    environ |= {"wsgi.input": body} | changes
    return call(front.app, {key: value for key, value in environ.items() if value is not None})


def test_a_body_without_a_length_is_read_to_its_end(front: Front) -> None:
    """Chunked: the server ends the stream."""
    assert _send(front, io.BytesIO(BODY), HTTP_TRANSFER_ENCODING="chunked").status == 200


def test_a_chunked_body_over_the_limit_is_413(front: Front) -> None:
    """One byte past the limit is enough to know."""
    stream = io.BytesIO(b"x" * 2000)
    answer = _send(front, stream, HTTP_TRANSFER_ENCODING="chunked")

    assert (answer.status, stream.tell()) == (413, 1001)


def test_a_declared_body_over_the_limit_is_413_and_swallowed(front: Front) -> None:
    """Never in one piece, but to the end: unread input would reset the connection, and the client lose the answer."""
    stream = io.BytesIO(b"x" * 2000)
    answer = _send(front, stream, CONTENT_LENGTH="2000")

    assert (answer.status, stream.tell()) == (413, 2000)


def test_gunicorn_is_freed_of_a_refused_body(front: Front) -> None:
    """It would reset the connection."""
    import socket

    client, server = socket.socketpair()
    stream = io.BytesIO(b"x" * 2000)
    with client, server:
        changes = {"CONTENT_LENGTH": "2000", "SERVER_SOFTWARE": "gunicorn/27", "gunicorn.socket": server}
        answer = _send(front, stream, **changes)

    assert (answer.status, stream.tell()) == (413, 2000)


@pytest.mark.parametrize("length", ["50", "x", "-1", "1e3", "\u00b2"])
def test_a_length_that_is_not_the_bodys_is_400(front: Front, length: str) -> None:
    """A body that was cut is not served."""
    assert _send(front, io.BytesIO(BODY), CONTENT_LENGTH=length).status == 400


def test_without_a_length_or_chunks_there_is_no_body(front: Front) -> None:
    """HTTP/1.0, or a plain WSGI server that does not end its stream."""
    answer = _send(front, io.BytesIO(BODY), **{"wsgi.input_terminated": None})

    assert answer.status == 400
    assert "empty" in answer.error


@pytest.mark.parametrize("fault", [ValueError("bad chunk"), ConnectionResetError(), EOFError()])
@pytest.mark.parametrize("length", [None, "20"])
def test_a_body_that_cannot_be_read_is_the_clients_fault(
    front: Front, fault: Exception, length: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """400 and no traceback: gunicorn raises its own errors for a broken chunk."""

    class Broken:
        def read(self, count: int) -> bytes:
            raise fault

    answer = _send(front, Broken(), CONTENT_LENGTH=length, HTTP_TRANSFER_ENCODING=None if length else "chunked")

    assert answer.status == 400
    assert type(fault).__name__ in answer.error
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("where", ["read", "run"])
def test_a_request_that_takes_the_last_memory_is_507(front: Front, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed, wherever it was raised; the next request is served."""

    class Greedy:
        def read(self, count: int) -> bytes:
            raise MemoryError

    def run(_: object) -> None:
        raise MemoryError

    if where == "run":
        with front.house.manager.ready("quick") as resident:
            monkeypatch.setattr(resident.model, "run", run)
    answer = _send(front, Greedy() if where == "read" else io.BytesIO(BODY), CONTENT_LENGTH=str(len(BODY)))

    assert answer.status == 507
    assert "ran out of memory on this request" in answer.error
    assert front.admission.in_flight == front.house.in_flight("quick") == 0


# ---- the way through -------------------------------------------------------------------------------------------------


def test_an_answer_has_its_type_and_gives_back_what_it_held(front: Front) -> None:
    """Lease, cores, admission."""
    answer = front.invoke()

    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert (front.admission.in_flight, front.house.in_flight("quick"), front.cores._free) == (0, 0, 2)


@pytest.mark.parametrize("accept", ["", "*/*"])
def test_without_a_wish_the_default_type_comes_back(tmp_path: Path, accept: str) -> None:
    """A setting decides."""
    front = Front(tmp_path, accept="text/csv")

    assert front.invoke(accept=accept).headers["Content-Type"].startswith("text/csv")
    assert front.invoke(accept="application/json").headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(("headers", "status"), [({"content_type": "image/png"}, 415), ({"accept": "image/png"}, 406)])
def test_a_type_that_nobody_speaks_is_refused(front: Front, headers: dict[str, str], status: int) -> None:
    """In or out; nothing stays held."""
    assert front.invoke(**headers).status == status
    assert (front.admission.in_flight, front.house.in_flight("quick")) == (0, 0)


def test_custom_attributes_come_back_only_if_sent_and_bounded(front: Front) -> None:
    """The platform takes 1,024 characters."""
    header = "X-Amzn-SageMaker-Custom-Attributes"

    assert header not in front.invoke().headers
    assert front.invoke(x_amzn_sagemaker_custom_attributes="a" * 2000).headers[header] == "a" * 1024
    assert header not in front.invoke("nowhere", x_amzn_sagemaker_custom_attributes="a").headers


def test_hits_and_misses_and_the_models_own_time_are_observed(front: Front) -> None:
    """First a miss, then hits."""
    for _ in range(3):
        front.invoke()
    front.invoke("nowhere")

    assert (front.counter("ModelCacheMiss"), front.counter("ModelCacheHit")) == (1, 2)
    assert b"ModelLatency_count 3.0" in front.house.metrics.render()


def test_past_the_cap_a_request_is_refused_at_once(tmp_path: Path) -> None:
    """503 with Retry-After while the one that got in is served."""
    front = front_of(tmp_path / "f", max_in_flight=1)
    front.house.make("slow")
    gate = front.house.backend.hold("slow")
    with others() as pool:
        slow = pool.submit(front.invoke, "slow")
        assert gate.reached.wait(5)
        refused = front.invoke()
        assert (front.ask("GET", "/ping").status, front.ask("GET", "/models").status) == (200, 200)
        gate.go()
        assert slow.result(5).status == 200
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert front.counter("Refused") == 1


def test_a_run_that_finds_no_core_in_time_is_503(front: Front) -> None:
    """The lease on the model is given back."""
    with front.cores.lease(2, 1), others() as pool:
        waiting = pool.submit(front.invoke)
        until(lambda: front.cores.waiting == 1)
        assert waiting.result(5).status == 503
    assert front.house.in_flight("quick") == 0


def test_a_model_with_a_batcher_answers_as_the_others_do(front: Front) -> None:
    """Many at once, each its own rows; loading, errors of the request and unloading are the same."""
    front.house.make("batched")
    front.house.backend.schedulers["batched"] = (Scheduling(4, True, max_queue_delay_us=500), front.cores)

    with others() as pool:
        bodies = [b'{"instances": [[%d.0]]}' % number for number in range(8)]
        answers = list(pool.map(lambda body: front.ask("POST", "/models/batched/invoke", body), bodies))
    assert [each.json()["predictions"] for each in answers] == [[[4.0 * number]] for number in range(8)]

    refused = front.ask("POST", "/models/batched/invoke", b'{"instances": [[1], [1], [1], [1], [1]]}')
    assert (refused.status, "batch-size must be <= 4" in refused.json()["error"]) == (400, True)
    assert front.ask("DELETE", "/models/batched").status == 200
    assert front.house.backend.closed == ["batched"]


def counted(front: Front, name: str) -> tuple[int, int, int, int]:
    """What V2's statistics tell of a model: answered, failed, inferences, executions."""
    (found,) = front.inference.statistics.known(name) or [ModelStatistics(name, "1")]
    durations = found.durations
    assert durations["queue"].count == durations["compute_infer"].count == durations["success"].count
    return durations["success"].count, durations["fail"].count, found.inferences, found.executions


def test_invocations_count_in_the_statistics_of_v2(front: Front) -> None:
    """An answer and a failure of the model do; a body that is none of its requests and one of V2 only there do not."""
    for body in (b'{"instances": [[1.0], [2.0]]}', BODY, b"{", b'{"inputs": 7}'):
        front.ask("POST", "/models/quick/invoke", body)
    assert counted(front, "quick") == (2, 0, 2, 2)
    (found,) = front.inference.statistics.known("quick")
    assert list(found.batches) == [1]
    assert found.durations["success"].ns > found.durations["compute_infer"].ns > 0
    open_ = {"id": "1", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}
    assert front.ask("POST", "/models/quick/invoke", json.dumps(open_).encode()).status == 200
    assert counted(front, "quick") == (3, 0, 3, 3)

    front.house.make("bad", fail_run="no")
    assert front.invoke("bad").status == 424
    assert counted(front, "bad") == (0, 1, 0, 0)


def test_rows_of_a_batch_are_inferences_each(front: Front) -> None:
    """Where config.pbtxt has a batch dimension; what never got a core was rejected."""
    front.house.make("batched")
    front.house.backend.schedulers["batched"] = (Scheduling(4, True), front.cores)
    front.ask("POST", "/models/batched/invoke", b'{"instances": [[1], [2], [3]]}')
    assert counted(front, "batched") == (1, 0, 1, 1)
    with front.house.manager.ready("batched") as resident:
        assert resident.artifact is not None
        resident.artifact = replace(resident.artifact, spec=replace(resident.artifact.spec, scheduling=Scheduling(4)))
    front.ask("POST", "/models/batched/invoke", b'{"instances": [[1], [2], [3]]}')
    assert counted(front, "batched") == (2, 0, 4, 2)
    with front.cores.lease(2, 1):
        assert front.invoke("quick").status == 503
    (found,) = front.inference.statistics.known("quick")
    assert (found.rejected, found.durations["fail"].count) == (1, 0)


def test_replies_of_peoples_own_code_count_by_their_status(front: Front) -> None:
    """What it refuses is a failure."""
    statuses = iter((200, 415, 200))
    front.house.backend.outside["own"] = lambda request: Reply(b"done", next(statuses))
    front.house.make("own")
    assert [front.invoke("own").status for _ in range(3)] == [200, 415, 200]
    assert counted(front, "own") == (2, 1, 2, 2)


def test_a_request_that_peoples_own_code_had_is_its_failure(front: Front) -> None:
    """Though it is the worker that died on it, or the handler that refused it; one that found no room was rejected."""
    front.house.make("own")
    for kind, has_run in itertools.product((BadRequestError, UnavailableError), (True, False)):
        error = kind("no")
        error.has_run = has_run
        front.house.backend.outside["own"] = _raising(error)
        assert front.invoke("own").status == kind.status
    (found,) = front.inference.statistics.known("own")
    assert (found.durations["fail"].count, found.rejected) == (2, 1)


def _raising(error: ServingError) -> Callable[[Request], Reply]:
    def answer(_: Request) -> Reply:
        raise error

    return answer


@pytest.mark.parametrize(("config", "status"), [({"fail_run": "no"}, 424), ({"fail_load": "no"}, 500)])
def test_a_models_own_failures_have_their_statuses(front: Front, config: dict[str, object], status: int) -> None:
    """424 for a run, 500 for a load."""
    front.house.make("bad", **config)

    assert front.invoke("bad").status == status
    assert front.admission.in_flight == 0
