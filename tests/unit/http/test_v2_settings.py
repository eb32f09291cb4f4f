"""The V2 routes for traces, the log and shared memory: what a body may be, in Triton's words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.codecs.v2 import Question
from serving.shared_memory import Regions
from tests.unit.http.front import Front, front_of
from tests.unit.http.wsgi import Answer

TRACE, LOG, MEMORY = "/v2/trace/setting", "/v2/logging", "/v2/systemsharedmemory"
PARSER = "failed to parse the request JSON buffer: "
FLOATS = np.array([1, 2, 0, 0], np.float32)


@pytest.fixture
def front(tmp_path: Path) -> Front:
    """A front whose clients may use files of a folder as shared memory: one of four floats, two of them set."""
    made = front_of(tmp_path / "front")
    (tmp_path / "key").write_bytes(FLOATS.tobytes())
    made.inference.regions = Regions(is_on=True, folder=tmp_path)
    return made


def post(front: Front, path: str, said: object = None) -> Answer:
    """POST a document, or bytes as they are."""
    body = said if isinstance(said, bytes) else b"" if said is None else json.dumps(said).encode()
    return front.ask("POST", path, body)


# ---- traces and the log ----------------------------------------------------------------------------------------------


def test_traces_of_all_and_of_a_model_are_read_and_set(front: Front) -> None:
    """With a name percent-decoded; null resets one."""
    own = "/v2/models/quick/trace/setting"
    assert post(front, own, {"trace_rate": "5"}).json()["trace_rate"] == "5"
    assert front.ask("GET", own).json()["trace_rate"] == "5"
    assert front.ask("GET", TRACE).json()["trace_rate"] == "1000"
    assert post(front, own, {"trace_rate": None}).json() == front.ask("GET", TRACE).json()
    assert front.ask("GET", "/v2/models/%C3%A4/trace/setting").error == "Request for unknown model : \u00e4"


@pytest.mark.parametrize("path", ["models/trace", "models//trace", "models/quick/versions/1/trace", "other/trace"])
def test_paths_that_only_look_like_it_are_none(front: Front, path: str) -> None:
    """And never those of all models."""
    assert front.ask("GET", f"/v2/{path}/setting").status == 404


BODIES: list[tuple[str, object, int, str]] = [
    (TRACE, b"", 500, PARSER + "The document is empty. at 0"),
    (LOG, b" ", 500, PARSER + "The document is empty. at 0"),
    (LOG, b"{", 500, PARSER),
    (TRACE, {"trace_level": "OFF"}, 500, "attempt to access JSON non-array as array"),
    (TRACE, {"trace_level": [1]}, 500, "attempt to access JSON non-string as string"),
    (TRACE, {"trace_rate": 7}, 500, "attempt to access JSON non-string as string"),
    (TRACE, {"trace_rate": "x"}, 400, "Unable to parse 'trace_rate', got: x"),
    (TRACE, {"trace_file": "x"}, 501, "trace file location can not be updated through network protocol"),
    (LOG, {"log_info": "yes"}, 500, "attempt to access JSON non-boolean as boolean"),
    (LOG, {"log_verbose_level": True}, 500, "attempt to access JSON non-unsigned-integer as unsigned-integer"),
    (LOG, {"log_verbose_level": -1}, 500, "attempt to access JSON non-unsigned-integer as unsigned-integer"),
    (LOG, {"log_format": 7}, 500, "attempt to access JSON non-string as string"),
    (LOG, {"log_format": "fancy"}, 400, "invalid argument for log_format, got: fancy"),
    (LOG, {"log_file": None}, 501, "log file location can not be updated through network protocol"),
]


@pytest.mark.parametrize(("path", "said", "status", "text"), BODIES)
def test_a_body_of_other_types_is_refused(front: Front, path: str, said: object, status: int, text: str) -> None:
    """Nothing of it is kept."""
    before = front.ask("GET", path).json()
    answer = post(front, path, said)
    assert (answer.status, answer.error.startswith(text)) == (status, True), answer.error
    assert front.ask("GET", path).json() == before


@pytest.mark.parametrize("said", [[], 7, "text", {}, {"nonsense": 1}, {"log_info": None}])
@pytest.mark.parametrize("path", [TRACE, LOG])
def test_what_says_nothing_changes_nothing(front: Front, path: str, said: object) -> None:
    """As Triton has it."""
    assert post(front, path, said).json() == front.ask("GET", path).json()


def test_a_trace_is_a_line_of_the_log(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    """For a request that answers once and for one that streams."""
    caplog.set_level("INFO")
    post(front, TRACE, {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "2"})
    question = Question(id="7", inputs={"x": ("FP32", FLOATS[:2].reshape(1, 2))})
    front.inference.infer("quick", "", question)
    for _ in range(2):
        assert len(list(front.inference.stream("quick", "", question))) == 1
    lines = [each for each in caplog.messages if each.startswith("event=trace ")]
    assert ["model=quick version=1 id=7" in each and "request_ns=" in each for each in lines] == [True, True]


# ---- shared memory ---------------------------------------------------------------------------------------------------


def test_a_region_is_registered_described_and_let_go(front: Front) -> None:
    """Its name percent-decoded; an unknown one is let go too, whatever the body."""
    region = f"{MEMORY}/region/%C3%A4"
    described = {"name": "\u00e4", "key": "key", "offset": 0, "byte_size": 16}
    assert post(front, f"{region}/register", {"key": "key", "byte_size": 16}).body == b""
    assert front.ask("GET", f"{region}/status").json() == [described]
    assert front.ask("GET", f"{MEMORY}/status").json() == [described]
    assert post(front, f"{region}/unregister").status == 200
    assert post(front, f"{MEMORY}/unregister", b"{").status == 200
    assert front.ask("GET", f"{region}/status").error == "Unable to find system shared memory region: '\u00e4'"


COUNT = "attempt to access JSON non-unsigned-integer as unsigned-integer"
REGIONS: list[tuple[str, object, int, str]] = [
    ("/region/r", b"", 500, PARSER + "The document is empty. at 0"),
    ("/region/r", [], 400, "Shared memory register request has no 'key' field"),
    ("/region/r", {"key": "key"}, 400, "Shared memory register request has no 'byte_size' field"),
    ("/region/r", {"key": 7, "byte_size": 1}, 500, "attempt to access JSON non-string as string"),
    ("/region/r", {"key": "key", "byte_size": "1"}, 500, COUNT),
    ("/region/r", {"key": "key", "byte_size": 1, "offset": -1}, 500, COUNT),
    ("/region/r", {"key": "none", "byte_size": 1}, 500, "Unable to open shared memory region: 'none'"),
    ("", {"key": "key", "byte_size": 1}, 400, "'region name' is necessary to register system shared memory region"),
    ("/region/a/b", {"key": "key", "byte_size": 1}, 404, "Not Found"),
    ("/region/", {"key": "key", "byte_size": 1}, 404, "Not Found"),
]


@pytest.mark.parametrize(("place", "said", "status", "text"), REGIONS)
def test_what_is_no_region_is_refused(front: Front, place: str, said: object, status: int, text: str) -> None:
    """With status and text."""
    answer = post(front, f"{MEMORY}{place}/register", said)
    assert (answer.status, answer.error) == (status, text)


def test_memory_of_cuda_is_refused_and_what_is_no_route_is_none(front: Front) -> None:
    """501 and 404."""
    assert post(front, "/v2/cudasharedmemory/region/r/register").status == 501
    assert [front.ask("GET", f"{MEMORY}{path}").status for path in ("", "/other", "/region/r/other")] == [404] * 3


@pytest.mark.parametrize("path", [TRACE, LOG, f"{MEMORY}/region/r/register", f"{MEMORY}/unregister"])
def test_who_changes_something_has_the_token(tmp_path: Path, path: str) -> None:
    """Who reads needs none."""
    assert post(front_of(tmp_path / "guarded", token="s3cret"), path, {}).status == 401


def infer(front: Front, x: dict[str, Any], y: dict[str, Any]) -> Answer:
    """Ask the model with its input and its output in shared memory."""
    item = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": x}
    return post(front, "/v2/models/quick/infer", {"inputs": [item], "outputs": [{"name": "y", "parameters": y}]})


IN = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
OUT = IN | {"shared_memory_offset": 8}


def test_tensors_in_shared_memory_do_not_travel(front: Front, tmp_path: Path) -> None:
    """The answer describes its output and has neither data nor parameters."""
    post(front, f"{MEMORY}/region/r/register", {"key": "key", "byte_size": 16})
    answer = infer(front, IN, OUT)
    assert answer.json()["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1, 2]}]
    x, y = np.frombuffer((tmp_path / "key").read_bytes(), np.float32).reshape(2, 2)
    assert (x.tolist(), bool(y.any())) == ([1, 2], True)


PLACES: list[tuple[dict[str, Any], dict[str, Any], int, str]] = [
    (IN | {"shared_memory_region": ""}, OUT, 404, "Unable to find shared memory region: ''"),
    (IN, OUT | {"shared_memory_region": "s"}, 404, "Unable to find shared memory region: 's'"),
    (IN, OUT | {"shared_memory_offset": 9}, 400, "Invalid offset + byte size for shared memory region: 'r'"),
    (IN, OUT | {"classification": 1}, 400, "Output can't set both 'shared_memory_region' and 'classification'"),
    (IN, OUT | {"binary_data": True}, 400, "Output can't set both 'shared_memory_region' and 'binary_data'"),
    (
        IN,
        OUT | {"shared_memory_byte_size": 4},
        500,
        "shared memory size specified with the request for output 'y' (4 bytes) should be at least 8 bytes to hold "
        "the results",
    ),
]


@pytest.mark.parametrize(("x", "y", "status", "text"), PLACES)
def test_places_that_are_none_are_refused(
    front: Front, tmp_path: Path, x: dict[str, Any], y: dict[str, Any], status: int, text: str
) -> None:
    """And nothing is written."""
    post(front, f"{MEMORY}/region/r/register", {"key": "key", "byte_size": 16})
    answer = infer(front, x, y)
    assert (answer.status, answer.error) == (status, text)
    assert (tmp_path / "key").read_bytes() == FLOATS.tobytes()
