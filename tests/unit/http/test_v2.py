"""The V2 routes: each with its status and its words, and Triton's bodies on SageMaker's routes."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.codecs.v2 import HEADER_LENGTH, VENDOR
from serving.errors import UnavailableError
from serving.http.handed import Stream
from serving.http.replies import Headers
from serving.workers import answer_frames
from serving.workers.handler import Reply
from tests.unit.http.front import Front, front_of
from tests.unit.http.wsgi import Answer, environ_of

X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
FLOATS = np.array([1, 2], "<f4").tobytes()


def body_of(**document: Any) -> bytes:
    """A request of one input, unless it says otherwise."""
    return json.dumps({"inputs": [X]} | document).encode()


def binary_of(data: bytes = FLOATS, **document: Any) -> tuple[bytes, int]:
    """A request of one binary input, and the size of its JSON."""
    item = {key: X[key] for key in ("name", "datatype", "shape")} | {"parameters": {"binary_data_size": len(data)}}
    head = body_of(inputs=[item], **document)
    return head + data, len(head)


@pytest.fixture
def front(tmp_path: Path) -> Front:
    """A fresh front with room for a few kilobytes."""
    return Front(tmp_path, max_body_bytes=100_000)


def post(front: Front, route: str, body: bytes = b"", **headers: str) -> Answer:
    """POST below /v2."""
    return front.ask("POST", f"/v2/{route}", body, **headers)


def get(front: Front, route: str = "") -> Answer:
    """GET below /v2."""
    return front.ask("GET", f"/v2{route}")


# ---- the server ------------------------------------------------------------------------------------------------------


def test_health_is_a_status_and_nothing_else(front: Front) -> None:
    """Ready is 400 while the server is not; it lives all the same."""
    assert [
        (get(front, f"/health/{what}").status, get(front, f"/health/{what}").body) for what in ("live", "ready")
    ] == [
        (200, b""),
        (200, b""),
    ]
    front.is_healthy = False
    assert (get(front, "/health/ready").status, get(front, "/health/ready").body) == (400, b"")
    assert get(front, "/health/live").status == 200


def test_the_server_says_what_it_speaks(front: Front) -> None:
    """Clients look for the extensions that they use."""
    found = get(front).json()

    assert found["name"] == "wharf"
    assert {"binary_tensor_data", "classification", "statistics", "model_repository"} <= set(found["extensions"])


@pytest.mark.parametrize(
    ("method", "route", "status", "error"),
    [
        ("GET", "/nope", 404, "Not Found"),
        ("POST", "/nope", 404, "Not Found"),
        ("GET", "/models", 404, "Not Found"),
        ("GET", "/models/config", 404, "Not Found"),
        ("GET", "/", 404, "Not Found"),
        ("GET", "//models/quick", 404, "Not Found"),
        ("GET", "/models/quick/", 404, "Not Found"),
        ("GET", "/models/quick/versions", 404, "Not Found"),
        ("GET", "/models/quick/versions/x", 404, "Not Found"),
        ("GET", "/models/quick/versions/x/config", 404, "Not Found"),
        ("POST", "/models/quick/versions/x/infer", 404, "Not Found"),
        ("GET", "/some/base/v2/health/live", 404, "Not Found"),
        ("POST", "/repository", 404, "Not Found"),
        ("POST", "/repository/models/load", 404, "Not Found"),
        ("POST", "/repository/models/quick/nope", 404, "Not Found"),
        ("POST", "", 405, "Method Not Allowed"),
        ("POST", "/health/live", 405, "Method Not Allowed"),
        ("GET", "/models/quick/infer", 405, "Method Not Allowed"),
        ("POST", "/models/quick", 405, "Method Not Allowed"),
        ("GET", "/repository/index", 405, "Method Not Allowed"),
        ("POST", "/repository/own/models/quick/load", 501, "'repository_name' specification is not supported"),
        ("POST", "/repository/own/models/quick/nope", 404, "Not Found"),
        ("GET", "/systemsharedmemory/status", 501, "shared memory is off on this server: set WHARF_SHARED_MEMORY"),
        ("GET", "/systemsharedmemory/region/r/nothing", 404, "Not Found"),
        ("POST", "/cudasharedmemory/region/r/register", 501, "is not served here"),
    ],
)
def test_what_there_is_not_is_told(front: Front, method: str, route: str, status: int, error: str) -> None:
    """Triton's words where it has some."""
    answer = front.ask(method, f"/v2{route}")

    assert answer.status == status
    assert error in answer.error
    assert (answer.headers.get("Allow") is not None) is (status == 405)


# ---- about models ----------------------------------------------------------------------------------------------------


def test_a_model_is_described_with_and_without_its_version(front: Front) -> None:
    """Metadata, configuration, statistics, readiness."""
    for version in ("", "/versions/1"):
        assert get(front, f"/models/quick{version}").json()["inputs"][0]["name"] == "x"
        assert get(front, f"/models/quick{version}/config").json()["backend"] == "fake"
        assert get(front, f"/models/quick{version}/stats").json()["model_stats"][0]["name"] == "quick"
        assert (get(front, f"/models/quick{version}/ready").status, get(front, "/models/quick/ready").body) == (
            200,
            b"",
        )
    assert [each["name"] for each in get(front, "/models/stats").json()["model_stats"]] == ["quick"]


@pytest.mark.parametrize(
    ("route", "status", "error"),
    [
        ("/models/nope", 404, "Request for unknown model: 'nope' is not found"),
        ("/models/nope/config", 404, "Request for unknown model: 'nope' is not found"),
        ("/models/quick/versions/9", 404, "Request for unknown model: 'quick' version 9 is not found"),
        ("/models/nope/ready", 400, "Model version not ready"),
        ("/models/quick/versions/9/ready", 400, "Model version not ready"),
        ("/models/nope/stats", 400, "requested model 'nope' is not available"),
        ("/models/%FF/config", 404, "Request for unknown model: "),
        ("/models/a%0Ab", 400, "is not legal"),
    ],
)
def test_an_unknown_model_is_told_in_tritons_words(front: Front, route: str, status: int, error: str) -> None:
    """Each route has its own status."""
    answer = get(front, route)

    assert answer.status == status
    assert answer.error.startswith(error) or error in answer.error


def test_names_may_have_slashes_and_letters_of_any_script(front: Front) -> None:
    """Percent-encoded or not."""
    front.house.make("sub/Zürich")

    for name in ("sub/Z%C3%BCrich", "sub%2FZ%C3%BCrich"):
        assert get(front, f"/models/{name}").json()["name"] == "sub/Zürich"
        assert post(front, f"models/{name}/infer", body_of()).json()["model_name"] == "sub/Zürich"


# ---- infer -----------------------------------------------------------------------------------------------------------


def test_a_request_is_answered_in_json(front: Front) -> None:
    """And counted, and logged under the model's name."""
    answer = post(front, "models/quick/infer", body_of(id="7"))

    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.body == (
        b'{"id":"7","model_name":"quick","model_version":"1",'
        b'"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[4.0,8.0]}]}'
    )
    assert '"model":"quick"' in front.log().replace(" ", "")
    assert front.admission.in_flight == 0


def test_binary_in_and_out(front: Front) -> None:
    """The header tells where the JSON ends, both ways."""
    body, size = binary_of(outputs=[{"name": "y", "parameters": {"binary_data": True}}])
    answer = post(front, "models/quick/versions/1/infer", body, inference_header_content_length=str(size))
    end = int(answer.headers[HEADER_LENGTH])

    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert np.frombuffer(answer.body[end:], "<f4").tolist() == [4, 8]
    assert json.loads(answer.body[:end])["outputs"][0]["parameters"] == {"binary_data_size": 8}


def test_raw_bytes_are_the_one_input(front: Front) -> None:
    """A header of 0."""
    front.house.make("fixed", dims=[2])
    answer = post(front, "models/fixed/infer", FLOATS, inference_header_content_length="0")

    assert np.frombuffer(answer.body[int(answer.headers[HEADER_LENGTH]) :], "<f4").tolist() == [4, 8]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compression_both_ways(front: Front, encoding: str) -> None:
    """The answer's, too."""
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    answer = post(front, "models/quick/infer", pack(body_of()), content_encoding=encoding, accept_encoding=encoding)

    assert answer.headers["Content-Encoding"] == encoding
    assert json.loads(zlib.decompress(answer.body, 47))["outputs"][0]["data"] == [4, 8]


@pytest.mark.parametrize(
    ("offer", "encoding"),
    [
        ("gzip", "gzip"),
        ("br, gzip", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0.5", "gzip"),
        ("gzip;q=0.0", None),
        ("gzip, deflate", None),
        ("deflate, gzip, br, zstd", None),
        ("*", None),
        ("br", None),
        ("", None),
    ],
)
def test_an_answer_is_packed_for_who_takes_one_packing(front: Front, offer: str, encoding: str | None) -> None:
    """Who takes both offers all that it knows, by habit."""
    answer = post(front, "models/quick/infer", body_of(), accept_encoding=offer)

    assert answer.headers.get("Content-Encoding") == encoding


@pytest.mark.parametrize("encoding", ["br", "gzip, deflate", "x"])
def test_an_encoding_that_is_not_read_is_told_which_are(front: Front, encoding: str) -> None:
    """501, and a header."""
    answer = post(front, "models/quick/infer", body_of(), content_encoding=encoding)

    assert (answer.status, answer.error) == (501, "Unsupported compression type")
    assert answer.headers["Accept-Encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    ("body", "headers", "status", "error"),
    [
        (b"nope", {}, 500, "failed to parse the request JSON buffer: "),
        (b"{}", {}, 500, "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        (body_of(inputs=[X | {"shape": [3]}]), {}, 500, "Shape does not match true shape of 'data' field"),
        (body_of(inputs=[]), {}, 400, "expected 1 inputs but got 0 inputs for model 'quick'"),
        (
            body_of(inputs=[X | {"datatype": "INT32"}]),
            {},
            400,
            "data-type is 'INT32', but model 'quick' expects 'FP32'",
        ),
        (body_of(inputs=[X | {"shape": [2]}]), {}, 400, "unexpected shape for input 'x' for model 'quick'. Expected"),
        (body_of(inputs=[X, X | {"name": "z"}]), {}, 400, "unexpected inference input 'z' for model 'quick'"),
        (body_of(outputs=[{"name": "ZZ"}]), {}, 400, "unexpected inference output 'ZZ' for model 'quick'"),
        (b"x" * 256, {"inference_header_content_length": "99999"}, 400, "should be in range (0, 256), got: 99999"),
        (b"x", {"content_encoding": "br"}, 501, "Unsupported compression type"),
        (b"xyz", {"content_encoding": "gzip"}, 400, "The body is not gzip"),
        (b"x" * 200_000, {}, 413, "at most 100000 are taken"),
    ],
)
def test_a_wrong_request_is_told_what_triton_would_say(
    front: Front, body: bytes, headers: dict[str, str], status: int, error: str
) -> None:
    """Table 2.3 of the protocol: parse errors are 500 here."""
    answer = post(front, "models/quick/infer", body, **headers)

    assert (answer.status, error in answer.error) == (status, True), answer.error
    assert front.admission.in_flight == 0


def test_a_model_that_fails_is_500_here_and_424_there(front: Front) -> None:
    """Triton's status on Triton's routes."""
    front.house.make("bad", fail_run="no good")
    document = body_of(id="1")

    assert post(front, "models/bad/infer", document).status == 500
    assert front.ask("POST", "/models/bad/invoke", document).status == 424


def test_a_request_that_runs_out_of_memory_is_507(front: Front) -> None:
    """And the server goes on."""
    front.house.backend.outside["big"] = _runs_out
    front.house.make("big")
    answer = post(front, "models/big/infer", body_of())

    assert (answer.status, "send less at once" in answer.error) == (507, True)


def _runs_out(_: object) -> Reply:
    raise MemoryError


# ---- generate --------------------------------------------------------------------------------------------------------


def _streams(front: Front, *lines: bytes, fails: Exception | None = None) -> None:
    def chunks() -> Iterator[bytes]:
        yield from lines
        if fails is not None:
            raise fails

    front.house.backend.outside["far"] = lambda _: Reply(chunks=chunks())
    front.house.make("far")


def _line(value: int) -> bytes:
    return answer_frames.write({"y": np.array([value])}, {})


def stream(front: Front, route: str, body: bytes) -> tuple[int, Headers, list[bytes], Stream]:
    """Read a stream as a server does."""
    got: list[Any] = []
    found = front.app(environ_of("POST", f"/v2/{route}", body), lambda status, headers: got.extend((status, headers)))
    assert isinstance(found, Stream)
    return int(got[0][:3]), got[1], list(found), found


def test_generate_is_flat(front: Front) -> None:
    """In and out."""
    assert post(front, "models/quick/generate", b'{"x": [1, 2], "id": "3"}').json() == {
        **{"y": [4, 8], "id": "3"},
        **{"model_name": "quick", "model_version": "1"},
    }
    assert post(front, "models/quick/generate", b'{"x": [[1]]}').json()["y"] == 4
    assert post(front, "models/quick/generate", b'{"x": []}').json()["y"] == []
    assert post(front, "models/quick/generate", b"nope").status == 500
    assert post(front, "models/nope/generate", b"{}").status == 404


def _generate(front: Front, *lines: bytes) -> Answer:
    """Generate by a model that answers as often as it likes."""
    _streams(front, *lines)
    return post(front, "models/far/generate", b'{"x": 1}')


def test_generate_takes_the_one_answer_of_a_decoupled_model(front: Front) -> None:
    """As if it were any model."""
    answer = _generate(front, _line(1))

    assert (answer.status, answer.json()) == (200, {"y": 1, "model_name": "far", "model_version": "1"})


@pytest.mark.parametrize("lines", [(), (1, 2), (1, None)])
def test_generate_of_another_number_of_answers_is_triton_s_200(front: Front, lines: tuple[int | None, ...]) -> None:
    """None, several, an error after the first: the model is given back, and the place."""
    answer = _generate(front, *(answer_frames.write_error("late") if each is None else _line(each) for each in lines))

    assert answer.status == 200
    assert answer.json()["error"].startswith("generate expects model to produce exactly 1 response, use generate")
    assert (front.admission.in_flight, front.house.in_flight("far")) == (0, 0)
    assert _counted(front) == (1 - lines.count(None), lines.count(None))


def test_an_error_that_comes_first_is_400_of_generate(front: Front) -> None:
    """Whatever it is; infer says 500."""
    answer = _generate(front, answer_frames.write_error("at once"))

    assert (answer.status, answer.error) == (400, "at once")
    assert _counted(front) == (0, 1)


def _counted(front: Front) -> tuple[int, int]:
    """How many requests of that model were answered, and failed."""
    durations = front.inference.statistics.of("far", "1").durations
    return durations["success"].count, durations["fail"].count


def test_a_stream_of_answers_is_one_of_events(front: Front) -> None:
    """Its place is given back at its end."""
    _streams(front, _line(1), _line(2))
    status, headers, events, _ = stream(front, "models/far/generate_stream", b'{"x": 1}')

    assert status == 200
    assert ("Content-Type", "text/event-stream; charset=utf-8") in headers
    assert events == [b'data: {"y":%d,"model_name":"far","model_version":"1"}\n\n' % value for value in (1, 2)]
    assert (front.admission.in_flight, front.house.in_flight("far")) == (0, 0)


def test_a_stream_without_an_answer_is_empty(front: Front) -> None:
    """200 all the same."""
    _streams(front)

    assert stream(front, "models/far/generate_stream", b'{"x": 1}')[2] == [b""]


def test_an_error_is_an_event_and_the_status_where_it_is_the_first(front: Front) -> None:
    """The status has gone by later; either way others may follow."""
    said = b'data: {"error":"no"}\n\n'
    _streams(front, answer_frames.write_error("no"), _line(1), answer_frames.write_error("no"))
    status, _, events, _ = stream(front, "models/far/generate_stream", b'{"x": 1}')
    assert (status, events[::2], len(events)) == (400, [said, said], 3)
    front.house.backend.outside["far"] = lambda _: Reply(b'{"error": "no"}', 424)
    answer = post(front, "models/far/generate_stream", b'{"x": 1}')
    assert (answer.status, answer.body) == (400, said)
    _streams(front, _line(1), fails=UnavailableError("gone"))
    assert stream(front, "models/far/generate_stream", b'{"x": 1}')[2][1:] == [b'data: {"error":"gone"}\n\n']
    assert front.admission.in_flight == 0


def test_a_stream_that_is_left_gives_everything_back(front: Front) -> None:
    """The client went after one event."""
    _streams(front, _line(1), _line(2), _line(3))
    found = front.app(environ_of("POST", "/v2/models/far/generate_stream", b'{"x": 1}'), lambda *_: None)
    assert isinstance(found, Stream)
    next(found)
    found.close()

    assert (front.admission.in_flight, front.house.in_flight("far")) == (0, 0)


# ---- the repository --------------------------------------------------------------------------------------------------


def test_models_come_and_go_by_the_repository_routes(front: Front) -> None:
    """With an empty body, or what tritonclient sends."""
    assert post(front, "repository/index").json() == [{"name": "quick"}]
    assert (post(front, "repository/models/quick/load", b"{}").status, front.house.names()) == (200, ["quick"])
    ready = {"name": "quick", "version": "1", "state": "READY"}
    assert post(front, "repository/index", b'{"ready": true}').json() == [ready]
    assert post(front, "repository/models/quick/unload", b'{"parameters": {"unload_dependents": false}}').body == b""
    assert front.house.names() == []
    assert post(front, "repository/index", b'{"ready": true}').json() == []
    gone = post(front, "models/quick/infer", body_of())
    assert (gone.status, gone.error) == (404, "Request for unknown model: 'quick' has no available versions")
    assert post(front, "repository/models/nope/unload").status == 200


@pytest.mark.parametrize("body", [b"[]", b"7", b'{"parameters": {}}'])
def test_a_body_that_says_nothing_is_as_good_as_none(front: Front, body: bytes) -> None:
    """Triton looks for members and finds none."""
    assert post(front, "repository/models/quick/load", body).status == 200
    assert [each["state"] for each in post(front, "repository/index", body).json()] == ["READY"]
    assert post(front, "repository/own/index", body).json() == post(front, "repository/index").json()
    assert post(front, "repository/models/quick/unload", body).status == 200
    assert front.house.names() == []


@pytest.mark.parametrize("body", [b'{"parameters": 1}', b'{"parameters": {"unload_dependents": "x"}}'])
def test_an_unload_asks_for_members_with_true_and_nothing_else(front: Front, body: bytes) -> None:
    """What is no flag is none."""
    assert post(front, "repository/models/nope/unload", body).status == 200


def test_an_index_of_what_is_ready_wants_a_flag(front: Front) -> None:
    """Triton's words."""
    answer = post(front, "repository/index", b'{"ready": "x"}')

    assert (answer.status, answer.error) == (500, "attempt to access JSON non-boolean as boolean")


@pytest.mark.parametrize(
    ("name", "body", "status", "error"),
    [
        ("nope", b"", 500, "failed to load 'nope', failed to poll from model repository: "),
        ("bad", b"", 400, "load failed for model 'bad': version 1 is at UNAVAILABLE state: Internal: "),
        ("quick", b"nope", 500, "failed to parse the request JSON buffer: "),
        ("quick", b'{"parameters": 3}', 500, "attempt to get members for non-object"),
        ("quick", b'{"parameters": {"config": "{}"}}', 500, "'quick' is a fake and takes no configuration"),
        ("quick", b'{"parameters": {"config": {}}}', 500, "attempt to access JSON non-string as string"),
        ("quick", b'{"parameters": {"file:1/a": 1}}', 500, "attempt to access JSON non-string as string"),
        ("quick", b'{"parameters": {"a": "x"}}', 500, "unexpected error on creating Triton parameter"),
        ("..", b"", 400, "is not legal"),
    ],
)
def test_a_load_that_fails_says_why(front: Front, name: str, body: bytes, status: int, error: str) -> None:
    """The reason that Triton keeps to its log."""
    front.house.make("bad", fail_load="no good")
    answer = post(front, f"repository/models/{name}/load", body)

    assert (answer.status, error in answer.error) == (status, True), answer.error


def test_the_token_is_wanted_for_the_repository_alone(tmp_path: Path) -> None:
    """Health and inference never want it."""
    front = front_of(tmp_path / "a", token="secret")

    for route in ("repository/index", "repository/models/quick/load", "repository/models/quick/unload"):
        assert post(front, route).status == 401
        assert post(front, route, authorization="Bearer secret").status == 200
    front.house.manager.load("quick", str(front.house.root / "quick"))
    assert post(front, "models/quick/infer", body_of()).status == 200
    assert [get(front, f"/health/{what}").status for what in ("live", "ready")] == [200, 200]


# ---- SageMaker's routes ----------------------------------------------------------------------------------------------


def test_the_vendor_type_comes_back_with_its_own_size(front: Front) -> None:
    """Where an output is binary; else JSON."""
    body, size = binary_of(parameters={"binary_data_output": True})
    answer = front.ask("POST", "/models/quick/invoke", body, content_type=f"{VENDOR}{size}")
    end = int(answer.headers["Content-Type"].removeprefix(VENDOR))

    assert np.frombuffer(answer.body[end:], "<f4").tolist() == [4, 8]
    body, size = binary_of()
    answer = front.ask("POST", "/invocations", body, content_type=f"{VENDOR}{size}")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["model_name"] == "quick"


@pytest.mark.parametrize("size", ["x", "-1", "100000", str(2**31), "", " 1 1"])
def test_a_vendor_size_that_is_none_is_refused(front: Front, size: str) -> None:
    """Not a number, negative, too large."""
    answer = front.ask("POST", "/models/quick/invoke", body_of(), content_type=f"{VENDOR}{size}")

    assert answer.status == 400


def test_the_vendor_type_counts_only_at_the_beginning(front: Front) -> None:
    """Behind something else it is a type that nobody reads."""
    assert front.ask("POST", "/models/quick/invoke", body_of(), content_type=f"x{VENDOR}1").status == 415


def test_a_vendor_body_that_cannot_be_read_is_400_here(front: Front) -> None:
    """SageMaker's statuses."""
    assert front.ask("POST", "/models/quick/invoke", b"nope", content_type=f"{VENDOR}4").status == 400


@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream", ""])
def test_v2_documents_are_answered_as_v2_whatever_they_call_themselves(front: Front, content_type: str) -> None:
    """29 of 37 notebooks send JSON as octets."""
    front.house.make("fixed", dims=[2])
    plain = front.ask("POST", "/models/fixed/invoke", body_of(), content_type=content_type).json()
    asked = body_of(id="7", outputs=[{"name": "y"}], parameters={"own": 1})
    whole = front.ask("POST", "/models/fixed/invoke", asked, content_type=content_type).json()

    assert whole == {"id": "7"} | plain
    assert (plain["model_name"], plain["model_version"], plain["outputs"][0]["data"]) == ("fixed", "1", [4, 8])


def test_v2_documents_reach_people_s_code_as_tensors(front: Front) -> None:
    """With what the client said besides."""
    heard: list[Any] = []

    def answer(request: Any) -> Reply:
        heard.append((request.about, list(request.tensors)))
        return Reply(tensors={"y": np.array([3], np.int64)})

    front.house.backend.outside["far"] = answer
    front.house.make("far")
    for body in (body_of(id="7"), body_of()):
        assert front.ask("POST", "/models/far/invoke", body).json()["outputs"][0]["data"] == [3]
    body, size = binary_of()
    assert front.ask("POST", "/models/far/invoke", body, content_type=f"{VENDOR}{size}").status == 200

    assert heard == [({"id": "7"}, ["x"]), ({}, ["x"]), ({}, ["x"])]
