"""Malformed requests on TensorFlow Serving's routes and to SageMaker's TensorFlow container."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

import httpx
import pytest
from hypothesis import strategies as st

from tests.conftest import StartServer
from tests.fuzz.barrage import client_of, fire, make_models

# Of 20 requests each.
EXAMPLES = 60
# Too busy, no room, not served here; 500 is a model that failed.
DELIBERATE = {501, 503, 507}
FAILED = re.compile(r"told to")

# Long ones by a name: hypothesis writes down what it tries.
BIG = {
    "deep array": b"[" * 100_000,
    "deep object": b'{"a":' * 5000,
    "deep rows": b'{"instances":' + b"[" * 2000 + b"]" * 2000 + b"}",
    "deep second row": b'{"instances":[1,' + b"[" * 900 + b"]" * 900 + b"]}",
    "many numbers": b'{"instances":[' + b"1.5," * 5000 + b'"a"]}',
    "not a number": b'{"inputs":' + b"[" * 3000 + b"NaN" + b"]" * 3000 + b"}",
    "zeros": bytes(5000),
}

names = st.sampled_from(
    ["tiny", "open", "fails", "none", "..", "%00", "%ff", "a%2Fb", "x" * 300, "a:b", "", "versions"]
)
which = st.sampled_from(
    ["", "", "", "/versions/1", "/versions/9", f"/versions/{'9' * 400}", "/labels/x", "/labels/", "/"]
)
verbs = st.sampled_from(
    [":predict", ":predict", ":predict", ":classify", ":regress", ":x", "", "/metadata", ":PREDICT"]
)
routes = st.one_of(
    st.builds("v1/models/{}{}{}".format, names, which, verbs),
    st.sampled_from(["v1", "v1/", "v1//", "v1/models", "v1/models/:predict", "V1/models/tiny", "v1x"]),
    st.sampled_from(["invocations", "models/tiny/invoke", "models/fails/invoke"]),
)
numbers = st.sampled_from([-1, 0, 1, 2, 2**24 + 1, 2**31, 2**63, 2**64, 10**30, -(2**63), 1.5, 1e39, 1e308])
odd = st.one_of(numbers, st.none(), st.booleans(), st.text(max_size=5), st.just([]), st.just({}), st.just([[[]]]))
base64 = st.sampled_from([{"b64": "AAA="}, {"b64": "?"}, {"b64": 3}, {"b64": "AAA=", "x": 1}])
values = st.recursive(
    st.one_of(odd, base64),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from("xyz"), inner, max_size=2)),
    max_leaves=8,
)
documents = st.one_of(
    values,
    st.fixed_dictionaries(
        {},
        optional={
            "instances": st.one_of(st.just([[1, 2]]), values),
            "inputs": st.one_of(st.just({"x": [[1, 2]]}), values),
            "examples": values,
            "context": values,
            "signature_name": st.one_of(st.sampled_from(["serving_default", "", "other", "x" * 500]), odd),
            "x": values,
        },
    ),
)
bodies = st.one_of(
    documents.map(lambda document: json.dumps(document).encode()),
    st.builds(lambda one, other: b"\n".join(json.dumps(each).encode() for each in (one, other)), documents, documents),
    st.binary(max_size=64),
    st.sampled_from(sorted(BIG)),
)
attributes = st.one_of(
    st.none(),
    st.lists(
        st.sampled_from(
            ["tfs-method=predict", "tfs-method=classify", "tfs-method=x", "tfs-model-version=1", "tfs-model-version=-1"]
            + ["tfs-model-name=tiny", "tfs-model-name=..", "tfs-=", "tfs-method=", "tfs-method", "=,=", "a=b"]
        ),
        max_size=3,
    ).map(",".join),
)
types = st.sampled_from(
    [None, "application/json", "application/jsonlines", "application/jsons", "text/csv", "text/CSV;x", "x", ""]
)
encodings = st.sampled_from([None, None, None, "gzip", "br", "identity"])
requests = st.tuples(
    routes, bodies, attributes, types, encodings, st.sampled_from(["POST", "POST", "POST", "GET", "PUT"])
)


def _ask(client: httpx.Client, request: Any) -> httpx.Response:
    route, body, attributes, content_type, encoding, method = request
    body = BIG[body] if isinstance(body, str) else body
    headers = {"X-Amzn-SageMaker-Custom-Attributes": attributes, "Content-Type": content_type}
    if route.startswith("v1/"):
        headers["Content-Encoding"] = encoding
        body = gzip.compress(body) if encoding == "gzip" else body
    sent = {name: value for name, value in headers.items() if value is not None}
    return client.request(method, f"/{route}", content=body, headers=sent)


@pytest.mark.parametrize("http_server", ["granian", "gunicorn"])
def test_malformed_requests_get_a_deliberate_answer(start_server: StartServer, http_server: str) -> None:
    """Never a 5xx but deliberate ones, always JSON, never a traceback, and the server lives."""
    server = start_server(WHARF_HTTP_SERVER=http_server, WHARF_ACCESS_LOG="off", WHARF_DEFAULT_MODEL="tiny")
    make_models(server.root)
    client = client_of(server)

    def check(request: Any) -> None:
        answer = _ask(client, request)
        if answer.status_code >= 500 and answer.status_code not in DELIBERATE:
            assert answer.status_code == 500, (request, answer.text)
            assert FAILED.search(answer.json()["error"]), (request, answer.text)
        if answer.status_code >= 400 and request[0].startswith("v1/"):
            assert answer.json().keys() == {"error"}, (request, answer.text)
        assert "Traceback" not in answer.text, request
        assert "Internal error" not in answer.text, request

    fire(requests, EXAMPLES // (1 if http_server == "granian" else 4), check)
    client.close()
    good = server.client.post("/v1/models/tiny:predict", json={"instances": [[1, 2]]})
    assert (good.status_code, good.json()) == (200, {"predictions": [[4, 8]]})
    assert "internal_error" not in server.log()
