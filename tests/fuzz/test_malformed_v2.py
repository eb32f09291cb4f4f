"""Malformed requests on the V2 routes: documents, header lengths, shapes, sizes, encodings, bombs."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.conftest import StartServer
from tests.fuzz.barrage import client_of, fire, make_models
from tests.models import MIB

# Of 20 requests each.
EXAMPLES = 60
# Too busy, no room, not served here. 500 is what Triton says of a body that does not parse and of a model that failed.
DELIBERATE = {501, 503, 507}
PARSE_OR_MODEL = re.compile(
    r"Unable to (parse|set) |attempt to (get|access) |unexpected error on creating Triton parameter|told to|[Ff]ailed"
)

# Long ones by a name: hypothesis writes down what it tries.
BIG = {
    "deep array": b"[" * 100_000,
    "deep object": b'{"a":' * 5000,
    "deep inputs": b'{"inputs":' + b"[" * 2000,
    "zeros": bytes(5000),
}

names = st.sampled_from(["tiny", "open", "fails", "none", "..", "%00", "%ff", "a%2Fb", "x" * 300, "tiny/versions/9"])
verbs = st.sampled_from(["infer", "infer", "infer", "generate", "generate_stream", "ready", "config", "stats", "load"])
routes = st.one_of(
    st.builds("models/{}/{}".format, names, verbs),
    st.builds("repository/models/{}/{}".format, names, st.sampled_from(["load", "unload", "x"])),
    st.sampled_from(
        ["", "health/ready", "repository/index", "models/stats", "models", "logging", "trace/setting", "//"]
    ),
)
numbers = st.sampled_from([-1, 0, 1, 2, 4, 8, 2**31 - 1, 2**31, 2**63, 2**64, 10**30, -(2**63), 1.5, 1e308])
odd = st.one_of(numbers, st.none(), st.booleans(), st.text(max_size=5), st.just([]), st.just({}), st.just([[[]]]))
shapes = st.one_of(st.lists(numbers, max_size=5), st.just([1, 2]), st.just([0] * 70), odd)
datatypes = st.one_of(st.sampled_from(["FP32", "FP16", "BYTES", "BOOL", "INT64", "BF16", "STRING"]), odd)
values = st.recursive(odd, lambda inner: st.lists(inner, max_size=4), max_leaves=8)
parameters = st.dictionaries(
    st.sampled_from(
        ["binary_data_size", "binary_data", "classification", "shared_memory_region", "priority", "timeout", "own"]
        + ["binary_data_output", "sequence_id", "triton_x", "config", "ready"]
    ),
    odd,
    max_size=3,
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(st.sampled_from(["x", "y"]), odd),
        "shape": shapes,
        "datatype": datatypes,
        "data": st.one_of(st.just([1, 2]), values),
        "parameters": st.one_of(parameters, odd),
    },
)
documents = st.one_of(
    odd,
    st.fixed_dictionaries(
        {},
        optional={
            "inputs": st.one_of(st.lists(tensors, max_size=3), odd),
            "outputs": st.one_of(st.lists(tensors, max_size=2), odd),
            "parameters": st.one_of(parameters, odd),
            "id": st.one_of(st.just("7"), odd),
            "x": values,
        },
    ),
)
bodies = st.one_of(
    st.builds(lambda document, rest: json.dumps(document).encode() + rest, documents, st.binary(max_size=16)),
    documents.map(lambda document: json.dumps(document).encode()),
    st.binary(max_size=64),
    st.sampled_from(sorted(BIG)),
)
lengths = st.sampled_from([None, None, "0", "2", "40", "-1", "x", "99999999999999999999", "huge", "1e3", ""])
encodings = st.sampled_from([None, None, None, "gzip", "deflate", "br", "identity", "gzip, gzip", "", "\xff"])


def _packed(body: bytes, encoding: str | None, cut: int) -> bytes:
    if encoding not in ("gzip", "deflate"):
        return body
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    return packed[: -cut or None]


requests = st.tuples(routes, bodies, lengths, encodings, st.sampled_from([0, 0, 0, 1, 9]), st.booleans())


def _ask(client: httpx.Client, request: Any) -> httpx.Response:
    route, body, length, encoding, cut, is_get = request
    body = BIG[body] if isinstance(body, str) else body
    headers = {} if length is None else {"Inference-Header-Content-Length": length.replace("huge", "9" * 5000)}
    if encoding is not None:
        headers["Content-Encoding"] = encoding.encode("latin-1").decode("latin-1")
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return client.request(
        "GET" if is_get else "POST", f"/v2/{route}", content=_packed(body, encoding, cut), headers=raw
    )


@pytest.mark.parametrize("http_server", ["granian", "gunicorn"])
def test_malformed_v2_requests_get_a_deliberate_answer(start_server: StartServer, http_server: str) -> None:
    """Never a 5xx but deliberate ones, never a traceback, and the server lives."""
    server = start_server(WHARF_HTTP_SERVER=http_server, WHARF_ACCESS_LOG="off")
    make_models(server.root)
    client = client_of(server)

    def check(request: Any) -> None:
        answer = _ask(client, request)
        if answer.status_code >= 500 and answer.status_code not in DELIBERATE:
            assert answer.status_code == 500, (request, answer.text)
            assert PARSE_OR_MODEL.search(answer.json()["error"]), (request, answer.text)
        assert "Traceback" not in answer.text, request
        assert "Internal error" not in answer.text, request

    fire(requests, EXAMPLES // (1 if http_server == "granian" else 4), check)
    client.close()
    assert server.client.get("/v2/health/ready").status_code == 200
    assert "internal_error" not in server.log()


def _peak_bytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def test_a_bomb_and_a_huge_shape_take_no_more_memory_than_a_body_may(start_server: StartServer) -> None:
    """A gigabyte of nothing in a megabyte; a shape of a petabyte in a hundred bytes."""
    server = start_server(WHARF_MAX_BODY_BYTES=str(8 * MIB))
    make_models(server.root)
    good = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    assert server.client.post("/v2/models/tiny/infer", json=good).status_code == 200
    before = _peak_bytes(server.server_pid())
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(16 * MIB)) for _ in range(64)) + packer.flush()
    answer = server.client.post("/v2/models/tiny/infer", content=bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 413
    for shape in ([2**31 - 1] * 4, [2**31 - 1, 0, 2**31 - 1], [2**31 - 1]):
        item = {"name": "x", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": 4}}
        head = json.dumps({"inputs": [item]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = server.client.post("/v2/models/tiny/infer", content=head + bytes(4), headers=headers)
        assert answer.status_code == 400

    assert _peak_bytes(server.server_pid()) - before < 48 * MIB


def test_empty_tensors_are_tensors(start_server: StartServer) -> None:
    """No rows in, no rows out, binary or not."""
    server = start_server()
    make_models(server.root)
    item = {"name": "x", "datatype": "FP32", "shape": [0, 2], "data": []}
    asked = [{"name": "y", "parameters": {"classification": 1}}]
    for outputs in ([{"name": "y"}], asked):
        answer = server.client.post("/v2/models/tiny/infer", json={"inputs": [item], "outputs": outputs})
        assert answer.status_code == 200
        assert np.prod(answer.json()["outputs"][0]["shape"]) == 0
