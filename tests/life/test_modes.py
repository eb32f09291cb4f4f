"""Real servers in every mode: what settings do, what is said, what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.conftest import StartServer
from tests.models import MIB, make_fake
from tests.server import RunningServer
from tests.unit.repository.packs import tar_gz, zip_of
from tests.waiting import until

ONE = {"instances": [[1]]}
TOKEN = {"Authorization": "Bearer s3cret-token"}


def _invoke(server: RunningServer, name: str, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/models/{name}/invoke", json=ONE, headers=headers, timeout=30)


def _load(server: RunningServer, name: str, folder: str | None = None) -> httpx.Response:
    body = {"model_name": name, "url": f"{server.root}/{folder or name}"}
    return server.client.post("/models", json=body)


def _metric(server: RunningServer, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", server.client.get("/metrics").text, re.MULTILINE)
    assert found, name
    return float(found[1])


# ---- one model -------------------------------------------------------------------------------------------------------


def test_a_single_model_is_served_from_its_own_folder(start_server: StartServer, tmp_path: Path) -> None:
    """/ping is 503 until it is loaded; /invocations goes to it though the repository has others."""
    make_fake(tmp_path / "opt-ml", "model", scale=7, load_ms=700)
    server = start_server()
    make_fake(server.root, "other")
    make_fake(server.root, "another")

    assert server.client.get("/ping").status_code == 503
    until(lambda: server.client.get("/ping").status_code == 200)
    assert server.client.post("/invocations", json=ONE).json() == {"predictions": [[7.0]]}
    assert _invoke(server, "other").json() == {"predictions": [[4.0]]}
    assert server.stop() == 0


def test_a_single_model_that_cannot_load_keeps_ping_at_503(start_server: StartServer, tmp_path: Path) -> None:
    """The endpoint never becomes healthy, and the log says why."""
    make_fake(tmp_path / "opt-ml", "model", fail_load="weights are torn")
    server = start_server()
    until(lambda: "event=single_model_failed" in server.log())

    assert "weights are torn" in server.log()
    for _ in range(3):
        assert server.client.get("/ping").status_code == 503
    assert server.stop() == 0


# ---- who may, and the verbs ------------------------------------------------------------------------------------------


def _wharf(server: RunningServer, *argv: str, body: str = "", **env: str) -> tuple[int, str]:
    """Run a verb against the server; return status and what it printed."""
    ours = dict(os.environ) | {"WHARF_URL": server.url} | env
    ended = subprocess.run(
        [sys.executable, "-m", "serving.cli", *argv],
        env=ours, input=body, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stdout + ended.stderr


def test_a_token_closes_management_and_the_verbs_carry_it(start_server: StartServer) -> None:
    """Ping and invocations stay open; the only model is the default; `wharf` does the whole life of a model."""
    server = start_server(WHARF_ADMIN_TOKEN="s3cret-token")
    make_fake(server.root, "only", scale=3)
    routes = [("GET", "/models"), ("POST", "/models"), ("GET", "/models/only"), ("DELETE", "/models/only")]
    routes += [("GET", "/repository"), ("GET", "/metrics")]

    assert {server.client.request(*route).status_code for route in routes} == {401}
    assert {server.client.request(*route, headers={"Authorization": "Bearer no"}).status_code for route in routes} == {
        401
    }
    assert server.client.get("/models", headers=TOKEN).json() == {"models": []}
    assert server.client.get("/ping").status_code == 200
    assert server.client.post("/invocations", json=ONE).json() == {"predictions": [[3.0]]}

    key = {"WHARF_ADMIN_TOKEN": "s3cret-token"}
    assert _wharf(server, "models")[0] == 1
    assert _wharf(server, "models", "--available", **key) == (0, "only\tloaded\n")
    assert _wharf(server, "unload", "only", **key) == (0, "Model 'only' unloaded.\n")
    assert _wharf(server, "load", "only", **key) == (0, "Model 'only' loaded.\n")
    assert _wharf(server, "models", **key) == (0, f"only\t{server.root}/only\n")
    assert _wharf(server, "invoke", "only", body='{"instances": [[2]]}') == (0, '{"predictions":[[6.0]]}')
    assert _wharf(server, "validate", f"{server.root}/only")[1].startswith(f"{server.root}/only: served as fake")
    assert server.stop() == 0
    assert "s3cret" not in server.log()


def test_the_platform_needs_no_token_and_names_may_have_slashes(start_server: StartServer) -> None:
    """It sends none; what it calls a model is its own business."""
    server = start_server(
        WHARF_ADMIN_TOKEN="s3cret-token", SAGEMAKER_MULTI_MODEL="true", WHARF_DEFAULT_MODEL="sub/a.tar.gz"
    )
    make_fake(server.root, "h")

    assert _load(server, "sub/a.tar.gz", "h").status_code == 200
    assert server.client.get("/models/sub/a.tar.gz").json()["modelName"] == "sub/a.tar.gz"
    assert _invoke(server, "sub%2Fa.tar.gz").status_code == _invoke(server, "sub/a.tar.gz").status_code == 200
    assert server.client.post("/invocations", json=ONE).json() == {"predictions": [[4.0]]}
    assert server.client.delete("/models/sub%2Fa.tar.gz").status_code == 200
    assert server.client.get("/models").json() == {"models": []}
    assert server.stop() == 0


# ---- the start -------------------------------------------------------------------------------------------------------


def test_the_platform_chooses_the_port_and_a_second_server_is_told(start_server: StartServer, http_server: str) -> None:
    """SAGEMAKER_BIND_TO_PORT; who finds it taken, by whomever, ends with one sentence and status 1."""
    port = start_server().url.rpartition(":")[2]
    refused = subprocess.run(
        [sys.executable, "-m", "serving.cli", "serve", "--host", "127.0.0.1"],
        env=dict(os.environ) | {"SAGEMAKER_BIND_TO_PORT": port, "WHARF_HTTP_SERVER": http_server, "WHARF_PORT": "1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(f"wharf: Port {port} of 127.0.0.1 cannot be bound")
    assert "Traceback" not in refused.stderr


def test_settings_without_effect_are_said_and_stop_nothing(start_server: StartServer) -> None:
    """A misspelt name is a mistake; a name is a host too."""
    server = start_server(WHARF_MEMORY_BUGDET="1", WHARF_HOST="localhost")

    assert "WHARF_MEMORY_BUGDET does not exist and has no effect: did you mean WHARF_MEMORY_BUDGET?" in server.log()
    assert server.url.startswith("http://localhost:")
    assert server.stop() == 0


# ---- what is measured and said ---------------------------------------------------------------------------------------

SAGEMAKERS = (
    "LoadedModelCount", "ModelCacheHit_total", "ModelLoadingWaitTime_count", "ModelLoadingTime_count",
    "ModelUnloadingTime_count", "ModelDownloadingTime_count", "MemoryUtilization", "DiskUtilization", "CPUUtilization",
    "Invocations_total", "Invocation4XXErrors_total", "Invocation5XXErrors_total", "ModelLatency_sum",
    "OverheadLatency_sum", "Evictions_total", "InFlight", "Queue", "MemoryBudgetBytes", "LoadQueue",
)  # fmt: skip


def test_metrics_count_what_happened(start_server: StartServer) -> None:
    """Known traffic, right values, under SageMaker's names."""
    server = start_server(WHARF_MEMORY_BUDGET="3MiB")
    for name, config in (("a", {"bytes": 2 * MIB}), ("b", {"bytes": 2 * MIB}), ("bad", {"fail_run": "no"})):
        make_fake(server.root, name, **config)
    make_fake(server.root, "slow", delay_ms=30)
    statuses = [_invoke(server, name).status_code for name in ("a", "a", "a", "b", "bad", "slow", "nowhere")]
    make_fake(server.root, "huge", bytes=9 * MIB)
    statuses.append(_invoke(server, "huge").status_code)
    server.client.delete("/models/slow")
    values = {name: _metric(server, name) for name in SAGEMAKERS}

    assert statuses == [200, 200, 200, 200, 424, 200, 404, 507]
    assert (values["Invocations_total"], values["ModelCacheHit_total"]) == (8, 2)
    assert (values["Invocation4XXErrors_total"], values["Invocation5XXErrors_total"]) == (2, 1)
    assert (values["Evictions_total"], values["LoadedModelCount"]) == (1, 2)
    assert (values["ModelLoadingTime_count"], values["ModelUnloadingTime_count"]) == (4, 2)
    assert (values["ModelLoadingWaitTime_count"], values["ModelDownloadingTime_count"]) == (4, 5)
    assert 30_000 <= values["ModelLatency_sum"] < 1_000_000
    assert (values["InFlight"], values["Queue"], values["LoadQueue"], values["MemoryBudgetBytes"]) == (0, 0, 0, 3 * MIB)
    assert _metric(server, 'ModelBytes{model="b"}') == 2 * MIB + 16384
    assert _metric(server, 'ModelInFlight{model="b"}') == 0


def _events(server: RunningServer) -> Iterator[dict[str, str]]:
    """Every line of a JSON log: each of them must be JSON."""
    for line in server.log().splitlines():
        fields = json.loads(line)
        assert isinstance(fields, dict), line
        yield fields


def test_every_line_of_a_json_log_is_json(start_server: StartServer, http_server: str) -> None:
    """From the first to the last: ours, the HTTP server's, tracebacks, deaths. Request id and model where there are."""
    server = start_server(
        WHARF_LOG_FORMAT="json",
        WHARF_HTTP_SERVER=http_server,
        WHARF_TYPO="1",
        WHARF_GRPC_PORT="0",
        WHARF_LOG_LEVEL="info",
    )
    make_fake(server.root, "a")
    assert _invoke(server, "a", **{"X-Request-Id": "r-1", "Authorization": "Bearer hush"}).status_code == 200
    assert _invoke(server, "a\u2028%0a", **{"X-Request-Id": "r-2"}).status_code == 400
    until(lambda: "r-2" in server.log())
    first = server.server_pid()
    os.kill(first, 9)
    until(lambda: server.server_pid() != first)
    assert server.stop() == 0
    events = list(_events(server))

    loaded = next(each for each in events if "event=loaded" in each.get("message", ""))
    assert (loaded["request_id"], loaded["about_model"]) == ("r-1", "a")
    assert any(each.get("request_id") == "r-2" and each.get("status") == "400" for each in events)
    assert any("WHARF_TYPO" in each.get("message", "") for each in events)
    assert "hush" not in server.log()


def test_text_lines_carry_request_and_model_and_no_secret(start_server: StartServer) -> None:
    """Whatever room writes them; headers that carry credentials are never among them."""
    server = start_server(WHARF_ADMIN_TOKEN="s3cret-token", WHARF_LOG_LEVEL="debug")
    make_fake(server.root, "a")
    _invoke(server, "a", **{"X-Request-Id": "r-1", "Authorization": "Bearer mine", "Cookie": "c=mine"})
    server.client.get("/metrics?token=mine", headers=TOKEN)
    server.client.get("/metrics", headers={"Authorization": "Bearer mine"})
    server.stop()

    assert re.search(r"event=loaded model=a .*request_id=r-1 about_model=a", server.log())
    assert re.search(r"event=request status=200 method=POST path=/models/a/invoke model=a request_id=r-1", server.log())
    assert re.search(r"event=request status=401 method=GET path=/metrics ", server.log())
    assert "mine" not in server.log()
    assert "s3cret" not in server.log()


# ---- artifacts -------------------------------------------------------------------------------------------------------


def _snapshot(folder: Path) -> list[tuple[str, int, int]]:
    return [(str(each), each.stat().st_mtime_ns, each.stat().st_size) for each in sorted(folder.rglob("*"))]


def test_archives_are_served_and_nothing_is_written_beside_them(start_server: StartServer) -> None:
    """Standalone: by name, with and without suffix; the root may be read-only."""
    server = start_server()
    (server.root / "t.tar.gz").write_bytes(tar_gz({"fake.json": b'{"scale": 2}'}))
    (server.root / "z.zip").write_bytes(zip_of({"fake.json": b'{"scale": 3}'}))
    server.root.chmod(0o555)
    before = _snapshot(server.root)

    assert _invoke(server, "t").json() == _invoke(server, "t.tar.gz").json() == {"predictions": [[2.0]]}
    assert _invoke(server, "z.zip").json() == {"predictions": [[3.0]]}
    assert [each["modelName"] for each in server.client.get("/models").json()["models"]] == ["t.tar.gz", "z.zip"]
    assert server.client.delete("/models/t").status_code == 200
    assert server.stop() == 0
    assert _snapshot(server.root) == before
    server.root.chmod(0o755)


def test_without_a_writable_cache_archives_say_what_is_missing(
    start_server: StartServer,
) -> None:
    """A read-only root file system without a volume: folders are served all the same."""
    server = start_server(WHARF_CACHE_DIR="/proc/wharf")
    make_fake(server.root, "folder")
    (server.root / "t.tar.gz").write_bytes(tar_gz({"fake.json": b"{}"}))
    archive = _invoke(server, "t")

    assert _invoke(server, "folder").status_code == 200
    assert archive.status_code == 500
    assert "WHARF_CACHE_DIR" in archive.json()["error"]
    assert server.client.get("/metrics").status_code == 200
    assert server.stop() == 0


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_room_is_made_for_several_loads_but_never_at_the_cost_of_a_busy_model(start_server: StartServer) -> None:
    """And a model larger than the whole budget is refused at once, with both figures, at nobody's cost."""
    server = start_server(WHARF_MEMORY_BUDGET="9MiB", WHARF_REQUEST_TIMEOUT="20")
    for name in "abcdefgh":
        make_fake(server.root, name, bytes=2 * MIB)
    make_fake(server.root, "busy", bytes=2 * MIB, delay_ms=1500)
    make_fake(server.root, "huge", bytes=10 * MIB)
    with ThreadPoolExecutor(10) as pool:
        busy = pool.submit(_invoke, server, "busy")
        until(lambda: _metric(server, "InFlight") == 1)
        refused = _invoke(server, "huge")
        assert {each.status_code for each in pool.map(_invoke, [server] * 16, "abcdefgh" * 2)} == {200}
        assert busy.result().status_code == 200

    assert refused.status_code == 507
    assert re.search(r"10\.0 MiB .*budget is 9\.0 MiB", refused.json()["error"])
    assert "event=evicted model=busy" not in server.log()
    assert server.log().count("event=evicted") >= 5
    assert _metric(server, "MemoryReservedBytes") <= 9 * MIB


# ---- bodies ----------------------------------------------------------------------------------------------------------


def test_bodies_have_limits_however_they_are_sent(start_server: StartServer, http_server: str) -> None:
    """413 past one body's size, chunked or not; 503 past the memory of all; both clear the connection for the next."""
    server = start_server(
        WHARF_HTTP_SERVER=http_server, WHARF_MAX_BODY_BYTES="64KiB", WHARF_BODY_MEMORY="100KiB", WHARF_ACCESS_LOG="off"
    )
    make_fake(server.root, "a")
    make_fake(server.root, "slow", delay_ms=1000)
    large = b'{"instances": [[1]]}'.ljust(65_536)

    def send(name: str, content: bytes | Iterator[bytes]) -> httpx.Response:
        return httpx.post(f"{server.url}/models/{name}/invoke", content=content, timeout=20)

    assert send("a", large).status_code == send("a", iter([large])).status_code == 200
    assert send("a", large + b" ").status_code == send("a", iter([large, b" "])).status_code == 413
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(send, "slow", large)
        until(lambda: _metric(server, "BodyBytes") == 65_536)
        refused = send("a", large)
        assert send("a", b'{"instances": [[1]]}').status_code == 200
        assert held.result().status_code == 200
    assert (refused.status_code, "WHARF_BODY_MEMORY" in refused.json()["error"]) == (503, True)
    assert refused.headers["Retry-After"] == "1"
    assert send("a", large).status_code == 200
