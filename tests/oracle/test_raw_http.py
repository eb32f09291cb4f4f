"""HTTP without a client: bodies that no client would send, raw binary, verbs, generate and generate_stream."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest

from tests.oracle.clients import call, unload
from tests.oracle.conftest import Same
from tests.oracle.servers import Target

# Of an error or an empty answer, the content type is whatever the server's library says where the server says nothing.
HEADERS = ("content-type", "inference-header-content-length", "content-encoding", "accept-encoding")
VECTOR = list(range(16))
INFER = "/v2/models/add_sub/infer"


def given(name: Any = "INPUT0", **more: Any) -> dict[str, Any]:
    """Return one input of add_sub as JSON has it."""
    return {"name": name, "datatype": "FP32", "shape": [1, 16], "data": VECTOR} | more


def body(**more: Any) -> bytes:
    """Return a whole request for add_sub, changed by `more`; what is None is left out."""
    whole = {"inputs": [given(), given("INPUT1")]} | more
    return json.dumps({key: each for key, each in whole.items() if each is not None}).encode()


def without(key: str) -> bytes:
    """Return a request whose first input lacks a key."""
    first = given()
    del first[key]
    return body(inputs=[first, given("INPUT1")])


def ask(target: Target, method: str, path: str, content: Any = None, headers: dict[str, str] | None = None) -> Any:
    """Send one request and return status, headers that matter and body (JSON, text or events)."""
    offered = {"Accept-Encoding": "identity"} | (headers or {})
    answer = httpx.request(method, target.url + path, content=content, headers=offered, timeout=30)
    found: dict[str, Any] = {"status": answer.status_code}
    names = HEADERS if answer.is_success and answer.content else HEADERS[1:]
    found |= {name: answer.headers[name] for name in names if name in answer.headers}
    length = answer.headers.get("inference-header-content-length")
    if length:
        found["json"] = json.loads(answer.content[: int(length)])
        return found | {"binary": answer.content[int(length) :]}
    try:
        return found | {"json": answer.json()}
    except ValueError:
        return found | {"body": answer.text}


BODIES: dict[str, bytes] = {
    "as it should be": body(),
    "nothing": b"",
    "not JSON": b"not JSON",
    "half of it": body()[:40],
    "more than it": body() + b"!",
    "a list": b"[]",
    "a number": b"7",
    "an empty object": b"{}",
    "inputs is an object": body(inputs={}),
    "inputs is null": body(inputs=[]),
    "an input is a number": body(inputs=[7]),
    "an input is an empty object": body(inputs=[{}]),
    "without name": without("name"),
    "without datatype": without("datatype"),
    "without shape": without("shape"),
    "without data": without("data"),
    "name is a number": body(inputs=[given(name=7), given("INPUT1")]),
    "datatype is a number": body(inputs=[given(datatype=7), given("INPUT1")]),
    "shape is text": body(inputs=[given(shape="16"), given("INPUT1")]),
    "shape holds text": body(inputs=[given(shape=["1", 16]), given("INPUT1")]),
    "shape is negative": body(inputs=[given(shape=[1, -16]), given("INPUT1")]),
    "shape holds a fraction": body(inputs=[given(shape=[1, 16.5]), given("INPUT1")]),
    "data is nested": body(inputs=[given(data=[VECTOR]), given("INPUT1")]),
    "data is too short": body(inputs=[given(data=VECTOR[:15]), given("INPUT1")]),
    "data is too long": body(inputs=[given(data=[*VECTOR, 1]), given("INPUT1")]),
    "data is text": body(inputs=[given(data="0"), given("INPUT1")]),
    "data holds text": body(inputs=[given(data=["a"] * 16), given("INPUT1")]),
    "data holds null": body(inputs=[given(data=[None] * 16), given("INPUT1")]),
    "data holds true": body(inputs=[given(data=[True] * 16), given("INPUT1")]),
    "a name twice": body(inputs=[given(), given(), given("INPUT1")]),
    "unknown keys": body(surprise=1),
    "id is a number": body(id=7),
    "id is text": body(id="seven"),
    "parameters is a list": body(parameters=[]),
    "a parameter is a list": body(parameters={"a": []}),
    "a parameter is an object": body(parameters={"a": {}}),
    "a parameter is null": body(parameters={"a": None}),
    "a reserved parameter": body(parameters={"triton_a": 1}),
    "priority is text": body(parameters={"priority": "high"}),
    "timeout is text": body(parameters={"timeout": "soon"}),
    "sequence_start is a number": body(parameters={"sequence_id": 1, "sequence_start": 1}),
    "outputs is an object": body(outputs={}),
    "outputs is empty": body(outputs=[]),
    "an output without a name": body(outputs=[{}]),
    "one output": body(outputs=[{"name": "OUTPUT1"}]),
    "an unknown output": body(outputs=[{"name": "ZZ"}]),
    "classification is text": body(outputs=[{"name": "OUTPUT0", "parameters": {"classification": "x"}}]),
    "classification is 0": body(outputs=[{"name": "OUTPUT0", "parameters": {"classification": 0}}]),
    "classification is negative": body(outputs=[{"name": "OUTPUT0", "parameters": {"classification": -1}}]),
    "binary_data is text": body(outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": "yes"}}]),
    "all outputs binary": body(parameters={"binary_data_output": True}),
    "binary but for one": body(
        parameters={"binary_data_output": True},
        outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": False}}, {"name": "OUTPUT1"}],
    ),
    "binary size without binary data": body(
        inputs=[given(data=None, parameters={"binary_data_size": 64}), given("INPUT1")]
    ),
    "an unknown shared memory region": body(
        inputs=[
            {"name": "INPUT0", "datatype": "FP32", "shape": [1, 16],
             "parameters": {"shared_memory_region": "nope", "shared_memory_byte_size": 64}},
            given("INPUT1"),
        ]
    ),
    "an output to an unknown region": body(
        outputs=[
            {"name": "OUTPUT0", "parameters": {"shared_memory_region": "nope", "shared_memory_byte_size": 64}}
        ]
    ),
    "nested deeply": b'{"inputs":' + b"[" * 200 + b"]" * 200 + b"}",
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
def test_bodies_of_infer(target: Target, same: Same, case: str) -> None:
    """Status and text of each."""
    same(ask(target, "POST", INFER, BODIES[case]))


def test_the_answer_to_json_has_its_keys_in_order(target: Target, same: Same) -> None:
    """As it stands on the wire."""
    same(httpx.post(target.url + INFER, content=body(id="a")).text)


LENGTHS = ["99999", "-1", "x", "", "1", "256.5", "99999999999999999999"]


@pytest.mark.parametrize("length", LENGTHS)
def test_header_lengths_that_are_wrong(target: Target, same: Same, length: str) -> None:
    """More than the body, less than nothing, no number, in the middle of the JSON."""
    same(ask(target, "POST", INFER, body(), {"Inference-Header-Content-Length": length}))


def test_a_header_length_of_the_whole_body(target: Target, same: Same) -> None:
    """JSON alone, and its length said."""
    same(ask(target, "POST", INFER, body(), {"Inference-Header-Content-Length": str(len(body()))}))


SIZES = {"as it is": 64, "too small": 60, "too large": 68, "none": 0}


@pytest.mark.parametrize("case", SIZES)
def test_binary_sizes(target: Target, same: Same, case: str) -> None:
    """The size that the JSON says against the shape and the bytes that came."""
    first = {key: each for key, each in given().items() if key != "data"}
    header = body(inputs=[first | {"parameters": {"binary_data_size": SIZES[case]}}, given("INPUT1")])
    raw = np.arange(16, dtype="<f4").tobytes()
    same(ask(target, "POST", INFER, header + raw, {"Inference-Header-Content-Length": str(len(header))}))


@pytest.mark.parametrize(
    ("model", "content"),
    [
        ("one_input", np.arange(4, dtype="<i4").tobytes()),
        ("one_input", b""),
        ("one_input", b"12345"),
        ("parameters", struct.pack("<I", 2) + b"hi"),
        ("parameters", b"hi"),
        ("add_sub", np.zeros(32, "<f4").tobytes()),
        ("labelled", np.array([1, 2, 3, 4], "<f4").tobytes()),
        ("unbatched", np.zeros(4).tobytes()),
        ("nope", b"1"),
    ],
)
def test_raw_binary(target: Target, same: Same, model: str, content: bytes) -> None:
    """A header length of 0: the body is the one input."""
    same(ask(target, "POST", f"/v2/models/{model}/infer", content, {"Inference-Header-Content-Length": "0"}))


@pytest.mark.parametrize("encoding", ["br", "identity", "gzip", "GZIP", "gzip, deflate", "x"])
def test_content_encodings_that_the_body_has_not(target: Target, same: Same, encoding: str) -> None:
    """The body is plain JSON."""
    same(ask(target, "POST", INFER, body(), {"Content-Encoding": encoding}))


@pytest.mark.parametrize("offer", ["gzip", "deflate", "gzip;q=0, deflate", "br", "*", "identity", "br, gzip"])
def test_accepted_encodings(target: Target, same: Same, offer: str) -> None:
    """Which one the answer has."""
    same(ask(target, "POST", INFER, body(), {"Accept-Encoding": offer}))


def test_a_body_in_chunks(target: Target, same: Same) -> None:
    """Transfer-Encoding: chunked."""
    same(ask(target, "POST", INFER, iter([body()[:50], body()[50:]])))


@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream", "text/plain", "image/png"])
def test_the_content_type_decides_nothing(target: Target, same: Same, kind: str) -> None:
    """JSON is JSON."""
    same(ask(target, "POST", INFER, body(), {"Content-Type": kind}))


ROUTES = [
    ("GET", "/v2"),
    ("GET", "/v2/"),
    ("POST", "/v2"),
    ("GET", "/v2/health/live"),
    ("POST", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/health/nonsense"),
    ("GET", "/v2/models"),
    ("GET", "/v2/models/add_sub"),
    ("GET", "/v2/models/add_sub/"),
    ("POST", "/v2/models/add_sub"),
    ("GET", "/v2/models/add_sub/versions"),
    ("GET", "/v2/models/add_sub/versions/1"),
    ("GET", "/v2/models/add_sub/versions/1/config"),
    ("GET", "/v2/models/add_sub/versions/x"),
    ("GET", "/v2/models/add_sub/ready"),
    ("GET", "/v2/models/add_sub/versions/1/ready"),
    ("GET", "/v2/models/add_sub/versions/9/ready"),
    ("GET", "/v2/models/nope/ready"),
    ("GET", "/v2/models/nope"),
    ("GET", "/v2/models/nope/config"),
    ("GET", "/v2/models/nope/stats"),
    ("GET", "/v2/models/add_sub/nonsense"),
    ("GET", "/v2/models/add%5Fsub"),
    ("GET", INFER),
    ("PUT", INFER),
    ("DELETE", "/v2/models/add_sub"),
    ("GET", "/v2/repository/index"),
    ("GET", "/v2/repository/models/add_sub/load"),
    ("POST", "/v2/repository/here/index"),
    ("POST", "/v2/repository/here/models/add_sub/load"),
    ("POST", "/v2/repository/models/add_sub/nonsense"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("GET", "/v2/systemsharedmemory/region/nope/status"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("POST", "/v2/logging"),
    ("GET", "/v2/logging"),
    ("GET", "/v2/trace/setting"),
    ("GET", "/v2/models/add_sub/trace/setting"),
    ("GET", "/nonsense"),
    ("HEAD", "/v2/health/live"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_routes(target: Target, same: Same, method: str, path: str) -> None:
    """Those that are, those that are not, and the wrong verb."""
    found = ask(target, method, path)
    if isinstance(found.get("json"), list):
        found["json"] = [each for each in found["json"] if each["name"] in ("add_sub", "broken_config")]
    same({"metadata": found} if path == "/v2" else found)


LOADS: dict[str, bytes] = {
    "nothing": b"",
    "an empty object": b"{}",
    "not JSON": b"{",
    "a list": b"[]",
    "parameters is a list": b'{"parameters": []}',
    "an unknown parameter": b'{"parameters": {"nonsense": "x"}}',
    "config is a number": b'{"parameters": {"config": 1}}',
    "config is an object": b'{"parameters": {"config": {}}}',
    "a file that is no base64": b'{"parameters": {"config": "{}", "file:1/model.py": "!!"}}',
    "a file that is a number": b'{"parameters": {"config": "{}", "file:1/model.py": 1}}',
}


@pytest.mark.parametrize("case", LOADS)
def test_bodies_of_load(target: Target, same: Same, case: str) -> None:
    """Status and text; the model is loaded as it is and unloaded, so that the server is ready."""
    seen = ask(target, "POST", "/v2/repository/models/reloaded/load", LOADS[case])
    call(target, "http", "load_model", "reloaded")
    unload(target, "http", "reloaded")
    same(seen)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"parameters": {"unload_dependents": "x"}}', b'{"parameters": 1}'])
def test_bodies_of_unload(target: Target, same: Same, content: bytes) -> None:
    """Status and text."""
    same(ask(target, "POST", "/v2/repository/models/nope/unload", content))


@pytest.mark.parametrize("content", [b"", b"{}", b'{"ready": true}', b'{"ready": "x"}', b"{", b"[]"])
def test_bodies_of_index(target: Target, same: Same, content: bytes) -> None:
    """With `ready` it is those that are."""
    found = ask(target, "POST", "/v2/repository/index", content)
    if isinstance(found.get("json"), list):
        found["json"] = [each for each in found["json"] if each["name"] in ("add_sub", "broken_config")]
    same(found)


GENERATE: dict[str, tuple[str, bytes]] = {
    "one word": ("words", b'{"TEXT": "hello"}'),
    "three words": ("words", b'{"TEXT": "one two three"}'),
    "no word": ("words", b'{"TEXT": ""}'),
    "three words and a limit": ("words", b'{"TEXT": "one two three", "LIMIT": 2}'),
    "an error at once": ("words", b'{"TEXT": "wrong"}'),
    "an error after the first": ("words", b'{"TEXT": "one wrong"}'),
    "a list": ("words", b'{"TEXT": ["hello"]}'),
    "a nested list": ("words", b'{"TEXT": [["hello"]]}'),
    "an id": ("words", b'{"id": "a", "TEXT": "hello"}'),
    "a number for text": ("words", b'{"TEXT": 7}'),
    "null for text": ("words", b'{"TEXT": null}'),
    "a missing input": ("words", b"{}"),
    "not JSON": ("words", b"{"),
    "no object": ("words", b"[]"),
    "nothing": ("words", b""),
    "parameters": ("parameters", b'{"TEXT": "a", "temperature": 1, "stop": true, "parameters": {"top": "x"}}'),
    "a parameter with a point": ("parameters", b'{"TEXT": "a", "temperature": 0.5}'),
    "a parameter that is a list": ("parameters", b'{"TEXT": "a", "stop": ["x"]}'),
    "a parameter that is an object": ("parameters", b'{"TEXT": "a", "stop": {"x": 1}}'),
    "numbers": ("add_sub", json.dumps({"INPUT0": VECTOR, "INPUT1": VECTOR}).encode()),
    "unbatched": ("unbatched", b'{"ROWS": [1, 2]}'),
    "unknown model": ("nope", b'{"TEXT": "a"}'),
}


@pytest.mark.parametrize("case", GENERATE)
@pytest.mark.parametrize("way", ["generate", "generate_stream"])
def test_generate(target: Target, same: Same, way: str, case: str) -> None:
    """One answer, or a stream of events."""
    model, content = GENERATE[case]
    same(ask(target, "POST", f"/v2/models/{model}/{way}", content))


def test_generate_of_a_version(target: Target, same: Same) -> None:
    """As infer has it."""
    same(ask(target, "POST", "/v2/models/words/versions/1/generate", b'{"TEXT": "hello"}'))


SETTINGS = [b"", b"{", b"[]", b'{"log_verbose_level": "x"}', b'{"log_file": "x"}', b'{"nonsense": 1}']


@pytest.mark.parametrize("content", SETTINGS)
@pytest.mark.parametrize("path", ["/v2/logging", "/v2/trace/setting"])
def test_bodies_of_settings(target: Target, same: Same, path: str, content: bytes) -> None:
    """Status and text."""
    same(ask(target, "POST", path, content))
