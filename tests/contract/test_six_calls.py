"""The six calls of the contract: statuses and bodies."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.contract.conftest import Target
from tests.models import make_fake


def test_ping_is_200_with_an_empty_body(target: Target) -> None:
    """The health check."""
    answer = target.client.get("/ping")

    assert (answer.status_code, answer.content) == (200, b"")


def test_a_model_is_loaded_listed_described_invoked_and_unloaded(target: Target) -> None:
    """The whole life, with the documented shapes."""
    name = target.make(scale=3.0)
    loaded = target.load(name)
    listed = target.client.get("/models").json()["models"]
    described = target.client.get(f"/models/{name}")
    invoked = target.invoke(name, 2.0)
    unloaded = target.client.delete(f"/models/{name}")

    entry = {"modelName": name, "modelUrl": target.url_of(name)}
    assert (loaded.status_code, unloaded.status_code) == (200, 200)
    assert entry in listed
    assert described.json() == entry
    assert (invoked.status_code, invoked.json()) == (200, {"predictions": [[6.0]]})
    assert invoked.headers["Content-Type"] == "application/json"
    assert name not in target.names()


def test_a_second_load_is_409_and_harms_nothing(target: Target) -> None:
    """Whatever the url; the model goes on as before."""
    name, other = target.make(scale=3.0), target.make()
    target.load(name)

    assert target.load(name).status_code == 409
    assert target.load(name, target.url_of(other)).status_code == 409
    assert target.invoke(name, 1.0).json() == {"predictions": [[3.0]]}


def test_one_artifact_may_be_loaded_under_two_names(target: Target) -> None:
    """The name is the key, not the url."""
    name = target.make()

    assert target.load(name).status_code == 200
    assert target.load(name + "-twin", target.url_of(name)).status_code == 200
    assert {name, name + "-twin"} <= set(target.names())


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_name_that_is_not_loaded_is_404(target: Target, method: str) -> None:
    """With a JSON body that names it."""
    answer = target.client.request(method, "/models/nowhere")

    assert answer.status_code == 404
    assert "nowhere" in answer.json()["error"]


def test_an_invoke_of_an_unknown_model_is_404(target: Target) -> None:
    """Neither loaded nor in the repository."""
    assert target.invoke("nowhere").status_code == 404


def test_a_missing_url_on_disk_is_404_and_breaks_nothing(target: Target) -> None:
    """The list goes on as before."""
    before = target.names()

    assert target.load("x", target.url_of("not-there")).status_code == 404
    assert target.names() == before


@pytest.mark.parametrize("name", ["a b", "ü.tar.gz", "100%", "a+b&c=d", "d" * 32, "-._~", "x" * 200])
def test_any_legal_file_name_is_a_model_name(target: Target, name: str) -> None:
    """Percent-encoded on the wire."""
    make_fake(target.root, name)
    path = f"/models/{quote(name, safe='')}"

    assert target.load(name).status_code == 200
    assert target.client.get(path).json()["modelName"] == name
    assert target.client.post(f"{path}/invoke", json={"instances": [[1]]}).status_code == 200
    assert target.client.delete(path).status_code == 200


def test_names_need_no_percent_encoding(target: Target) -> None:
    """Raw UTF-8 bytes in the request line decide the same model."""
    make_fake(target.root, "Zürich")
    target.load("Zürich")

    assert target.client.get("/models/Z%C3%BCrich").status_code == 200


def test_the_path_decides_the_model_and_the_header_is_only_logged(target: Target) -> None:
    """Another model's Target-Model header steers nothing, on any route."""
    ours, other = target.make(scale=2.0), target.make(scale=5.0)
    header = {"X-Amzn-SageMaker-Target-Model": other}
    target.load(ours)
    target.load(other)

    assert target.invoke(ours, 1.0, **header).json() == {"predictions": [[2.0]]}
    assert target.client.delete(f"/models/{ours}", headers=header).status_code == 200
    assert other in target.names()


def test_invocations_go_to_the_model_of_the_header(target: Target) -> None:
    """What the SDK's local mode sends."""
    name = target.make(scale=5.0)
    target.load(name)
    header = {"X-Amzn-SageMaker-Target-Model": name}
    answer = target.client.post("/invocations", json={"instances": [[2]]}, headers=header)

    assert (answer.status_code, answer.json()) == (200, {"predictions": [[10.0]]})


def test_invocations_without_a_header_ask_which_model(target: Target) -> None:
    """With many models there is no default."""
    target.make(), target.make()
    answer = target.client.post("/invocations", json={"instances": [[2]]})

    assert answer.status_code == 400
    assert "Target-Model" in answer.json()["error"]


def test_custom_attributes_come_back_and_only_if_sent(target: Target) -> None:
    """The platform forwards the header to the client."""
    name = target.make()
    target.load(name)
    header = "X-Amzn-SageMaker-Custom-Attributes"

    assert target.invoke(name, 1.0, **{header: "trace=7"}).headers[header] == "trace=7"
    assert header not in target.invoke(name).headers


def test_unknown_headers_are_tolerated(target: Target) -> None:
    """The platform sends more than it documents."""
    name = target.make()
    target.load(name)

    assert (
        target.invoke(name, 1.0, **{"X-Amzn-SageMaker-Whatever": "1", "Accept-Encoding": "identity"}).status_code == 200
    )


def test_a_request_id_is_kept_or_made(target: Target) -> None:
    """Every answer of an invocation can be found in the log."""
    name = target.make()
    target.load(name)

    assert target.invoke(name, 1.0, **{"X-Request-Id": "mine-1"}).headers["X-Request-Id"] == "mine-1"
    assert target.invoke(name).headers["X-Request-Id"]


def test_a_chunked_body_is_read_whole(target: Target) -> None:
    """No Content-Length is needed."""
    name = target.make()
    target.load(name)
    parts = iter([b'{"instances":', b" [[1.0]]}"])
    answer = target.client.post(f"/models/{name}/invoke", content=parts, headers={"Content-Type": "application/json"})

    assert answer.json() == {"predictions": [[4.0]]}


@pytest.mark.parametrize("size", [6_291_456, 6_291_457])
def test_six_mebibytes_come_in_and_go_out_and_one_byte_more_is_413(target: Target, size: int) -> None:
    """InvokeEndpoint's own limit."""
    name = target.make(scale=1.0)
    target.load(name)
    body = bytes(size)
    headers = {"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"}
    # The fake's signature has two free dimensions, so raw bytes need npy: its header is part of the limit.
    npy = b"\x93NUMPY\x01\x00"
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': (1, {(size - 128) // 4}), }}".encode()
    body = npy + (128 - 10).to_bytes(2, "little") + header.ljust(117) + b"\n" + bytes(size - 128)
    headers = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    answer = target.client.post(f"/models/{name}/invoke", content=body, headers=headers)

    if size == 6_291_456:
        assert (answer.status_code, len(answer.content) >= size - 64) == (200, True)
    else:
        assert answer.status_code == 413
        assert "WHARF_MAX_BODY_BYTES" in answer.json()["error"]
        assert target.invoke(name).status_code == 200


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
def test_pages_hold_at_most_100_and_a_token_comes_only_when_more_remains(target: Target, count: int) -> None:
    """Every model once, in order, whatever the number."""
    for name in target.names():
        target.client.delete(f"/models/{quote(name, safe='')}")
    model = target.make()
    wanted = [f"page-{number:03d}" for number in range(count)]
    for name in wanted:
        target.load(name, target.url_of(model))
    first = target.client.get("/models").json()

    assert len(first["models"]) == min(count, 100)
    assert ("nextPageToken" in first) == (count > 100)
    assert target.names() == wanted
    for name in wanted:
        target.client.delete(f"/models/{name}")


def test_a_limit_makes_pages_smaller_never_larger(target: Target) -> None:
    """`limit` is capped at 100; nonsense is 400."""
    model = target.make()
    for number in range(3):
        target.load(f"limit-{number}-{model}", target.url_of(model))

    assert len(target.client.get("/models?limit=2").json()["models"]) == 2
    assert target.client.get("/models?limit=100000").status_code == 200
    for nonsense in ("0", "-1", "x", "1.5"):
        assert target.client.get("/models", params={"limit": nonsense}).status_code == 400
    assert target.client.get("/models?next_page_token=%FF%FE").status_code == 400
