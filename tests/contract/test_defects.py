"""The defects that were measured in the reference servers: a test each."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.contract.conftest import Target

MIB = 1 << 20


def test_a_507_leaves_no_ghost_and_a_retry_gets_the_first_answer_again(target: Target) -> None:
    """MMS and TorchServe answer 409 for ever after a 507."""
    name = target.make(is_out_of_memory=True)

    for _ in range(3):
        assert target.load(name).status_code == 507
        assert target.client.get(f"/models/{name}").status_code == 404
        assert name not in target.names()


def test_a_retry_after_507_succeeds_once_memory_is_free(target: Target) -> None:
    """What the platform does: unload one, try again."""
    if not target.is_platform:
        pytest.skip("standalone makes room by itself")
    big, second = target.make(bytes=300 * MIB), target.make(bytes=300 * MIB)
    assert target.load(big).status_code == 200
    assert target.load(second).status_code == 507
    assert target.client.delete(f"/models/{big}").status_code == 200
    assert target.load(second).status_code == 200
    target.client.delete(f"/models/{second}")


def test_an_unload_drains_the_request_in_flight(target: Target) -> None:
    """Triton hangs both for ever, MMS fails the request, TorchServe loses it."""
    name = target.make(delay_ms=400)
    target.load(name)
    with ThreadPoolExecutor(1) as pool:
        in_flight = pool.submit(target.invoke, name)
        _wait_for_in_flight(target, name)
        deleted = target.client.delete(f"/models/{name}")
        assert in_flight.done() or in_flight.result(5).status_code == 200
        assert in_flight.result(5).json() == {"predictions": [[4.0]]}
    assert deleted.status_code == 200
    assert target.client.get(f"/models/{name}").status_code == 404


def test_others_answer_while_one_loads_and_one_drains(target: Target) -> None:
    """Ping, list, get and other models never wait for a load, an unload or a run."""
    quick, slow_load, slow_run = target.make(), target.make(load_ms=800), target.make(delay_ms=800)
    target.load(quick)
    target.load(slow_run)
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(target.invoke, slow_run)
        _wait_for_in_flight(target, slow_run)
        pending = [
            running,
            pool.submit(target.load, slow_load),
            pool.submit(target.client.delete, f"/models/{slow_run}"),
        ]
        started = time.monotonic()
        for _ in range(5):
            assert target.client.get("/ping").status_code == 200
            assert target.client.get("/models").status_code == 200
            assert target.client.get(f"/models/{quick}").status_code == 200
            assert target.invoke(quick).status_code == 200
        assert time.monotonic() - started < 0.6
        assert [each.result(10).status_code for each in pending] == [200, 200, 200]


def test_header_or_no_header_is_all_the_same(target: Target) -> None:
    """Triton knows a model by the header that it was loaded with."""
    name = target.make()
    header = {"X-Amzn-SageMaker-Target-Model": "sub/a.tar.gz"}
    loaded = target.client.post("/models", json={"model_name": name, "url": target.url_of(name)}, headers=header)

    assert loaded.status_code == 200
    assert target.invoke(name).status_code == 200
    assert target.client.delete(f"/models/{name}").status_code == 200


@pytest.mark.parametrize("word", ["BOOM_table", "BLOOM-7b", "OOM killer", "out of memory, it says", "CUDA"])
def test_words_in_a_message_or_a_name_make_no_507(target: Target, word: str) -> None:
    """Triton decides 507 by substring; it then evicts for nothing."""
    name = target.make(fail_load=f"RuntimeError: {word} MemoryError")

    assert target.load(name).status_code == 500
    assert target.load(f"{word.split(maxsplit=1)[0]}-{name}", target.url_of(name)).status_code == 500


BODIES = {
    "empty": b"",
    "not json": b"hello",
    "trailing comma": b'{"model_name": "a", "url": "/opt/ml/models/a",}',
    "array": b'["a", "b"]',
    "null": b"null",
    "no url": b'{"model_name": "a"}',
    "no name": b'{"url": "/opt/ml/models/a"}',
    "url is a number": b'{"model_name": "a", "url": 1}',
    "name is an object": b'{"model_name": {}, "url": "/opt/ml/models/a"}',
    "name is empty": b'{"model_name": "", "url": "/opt/ml/models/a"}',
    "name climbs": b'{"model_name": "../a", "url": "/opt/ml/models/a"}',
    "control character": b'{"model_name": "a\\u0000b", "url": "/opt/ml/models/a"}',
    "lone surrogate": b'{"model_name": "\\ud800", "url": "/opt/ml/models/a"}',
    "not utf-8": b'{"model_name": "\xff", "url": "/opt/ml/models/a"}',
    "deep": b"[" * 50_000,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_malformed_load_is_400_and_the_server_lives(target: Target, body: bytes) -> None:
    """Triton 2.51 aborts, others answer 500."""
    answer = target.client.post("/models", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 400
    assert answer.json()["error"]
    assert target.client.get("/ping").status_code == 200


def test_a_loads_content_type_does_not_matter(target: Target) -> None:
    """The body is JSON whatever it is called: never 415."""
    name = target.make()
    body = f'{{"model_name": "{name}", "url": "{target.url_of(name)}"}}'

    assert target.client.post("/models", content=body, headers={"Content-Type": "text/plain"}).status_code == 200


OUTSIDE = ["/etc", "/proc/self", "{root}/..", "{root}/../..", "{root}/link", "{root}\x00", "{root}"]
OUTSIDE += ["s3://b/k", "http://h/x", "file:///etc"]


@pytest.mark.parametrize("url", OUTSIDE)
def test_a_url_outside_the_model_root_is_refused(target: Target, url: str) -> None:
    """Links followed, nothing read; TorchServe serves /etc."""
    link = target.root / "link"
    if not link.is_symlink():
        link.symlink_to("/etc")
    answer = target.load("outside", url.format(root=target.root_inside))

    assert answer.status_code == 400
    assert answer.json()["error"]


def test_nothing_is_ever_written_below_the_model_root(target: Target) -> None:
    """Load, run and unload leave the folder as it was."""
    name = target.make()
    before = _snapshot(target.root / name)
    target.load(name)
    target.invoke(name)
    target.client.delete(f"/models/{name}")

    assert _snapshot(target.root / name) == before


def test_duplicate_loads_at_once_give_one_200_and_409s(target: Target) -> None:
    """The others join the load under way; the model works."""
    name = target.make(load_ms=300)
    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(each.status_code for each in pool.map(target.load, [name] * 4))

    assert statuses == [200, 409, 409, 409]
    assert target.invoke(name).status_code == 200


def test_duplicate_loads_of_a_broken_model_all_get_its_error(target: Target) -> None:
    """Joined loads fail alike and leave nothing."""
    name = target.make(load_ms=200, fail_load="no good")
    with ThreadPoolExecutor(4) as pool:
        statuses = {each.status_code for each in pool.map(target.load, [name] * 4)}

    assert statuses == {500}
    assert name not in target.names()


def test_eight_names_load_at_once(target: Target) -> None:
    """Loads of different models do not exclude each other."""
    names = [target.make(load_ms=100) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert {each.status_code for each in pool.map(target.load, names)} == {200}
    assert set(names) <= set(target.names())


def test_a_bad_model_does_not_turn_ping_red(target: Target) -> None:
    """One customer's mistake does not take the instance down."""
    target.load(target.make(fail_load="no good"))

    assert target.client.get("/ping").status_code == 200


def test_a_failing_run_is_424_with_its_reason(target: Target) -> None:
    """The model's fault is told apart from the server's."""
    name = target.make(fail_run="division by zero")
    target.load(name)
    answer = target.invoke(name)

    assert answer.status_code == 424
    assert "division by zero" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/ping", "GET"),
        ("GET", "/models/x/invoke", "POST"),
        ("DELETE", "/models/x/invoke", "POST"),
        ("GET", "/invocations", "POST"),
        ("PUT", "/models", "POST"),
        ("POST", "/models/x", "DELETE"),
    ],
)
def test_a_wrong_method_is_405_with_allow(target: Target, method: str, path: str, allow: str) -> None:
    """GET on invoke runs no model."""
    answer = target.client.request(method, path)

    assert answer.status_code == 405
    assert allow in answer.headers["Allow"]
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/models/", "/ping/", "/%ff", "/models//invoke", "/models/%2e%2e/invoke"]
)
def test_an_unknown_path_is_a_clear_4xx_in_json(target: Target, path: str) -> None:
    """Never HTML, never a traceback."""
    answer = target.client.request("POST", path)

    assert answer.status_code in (400, 404, 405)
    assert answer.json()["error"]


def test_a_reload_after_an_unload_works_fifty_times(target: Target) -> None:
    """The platform's cache setting Disabled does just that."""
    name = target.make(bytes=MIB)

    for _ in range(50):
        assert target.load(name).status_code == 200
        assert target.client.delete(f"/models/{name}").status_code == 200


def test_storms_of_load_invoke_and_unload_from_four_callers(target: Target) -> None:
    """ModelCacheSetting=Disabled: loads and unloads of different models arrive together."""

    def storm(name: str) -> set[int]:
        with httpx.Client(base_url=target.url, timeout=30) as client:
            statuses = set()
            for _ in range(15):
                body = {"model_name": name, "url": target.url_of(name)}
                statuses.add(client.post("/models", json=body).status_code)
                statuses.add(client.post(f"/models/{name}/invoke", json={"instances": [[1]]}).status_code)
                statuses.add(client.delete(f"/models/{name}").status_code)
            return statuses

    names = [target.make(bytes=MIB, delay_ms=1) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert set().union(*pool.map(storm, names)) == {200}


def _wait_for_in_flight(target: Target, name: str) -> None:
    pause = threading.Event()
    for _ in range(500):
        if f'ModelInFlight{{model="{name}"}} 1.0' in target.client.get("/metrics").text:
            return
        pause.wait(0.01)
    raise AssertionError("the request did not start")


def _snapshot(folder: Path) -> list[tuple[str, int, bytes]]:
    return [(each.name, each.stat().st_mtime_ns, each.read_bytes()) for each in sorted(folder.rglob("*"))]
