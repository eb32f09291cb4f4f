"""The composition root: settings become rooms, and the rooms work together."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import memory
from serving.errors import InvalidArtifactError
from serving.journal import Journal
from serving.server import (
    MANAGEMENT_THREADS,
    RESERVED_THREADS,
    Server,
    _holds_something,
    _make_ledger,
    _share,
    threads_of,
)
from serving.setting_values import Share
from serving.settings import Settings
from tests.models import MIB, make_fake
from tests.unit.house import others
from tests.unit.http.wsgi import Answer, ask
from tests.unit.repository.packs import tar_gz
from tests.waiting import until

BODY = b'{"instances": [[1]]}'
LIMITS = memory.Limits(1 << 34, "cgroup memory.max", 2.0, "cgroup CPU quota")


class Site:
    """A model root, a folder of a single model, and servers over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "models"
        self.root.mkdir()
        self.single = folder / "opt-ml" / "model"
        self.journal = folder / "journal.json"
        self.servers: list[Server] = []

    def settings(self, **env: str) -> Settings:
        """Settings of a server here, by the variables' names."""
        defaults = {
            "WHARF_MODEL_ROOT": str(self.root),
            "WHARF_CACHE_DIR": str(self.folder / "cache"),
            "SAGEMAKER_BASE_DIR": str(self.folder / "opt-ml"),
            "WHARF_ACCESS_LOG": "off",
            "WHARF_FAKE_BACKEND": "1",
            "WHARF_MEMORY_BUDGET": "1GiB",
        }
        return Settings.from_env(defaults | env)

    def serve(self, **env: str) -> Server:
        """Build and start a server."""
        server = Server(self.settings(**env), self.journal)
        self.servers.append(server)
        server.start()
        return server


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty site; its servers are closed."""
    site = Site(tmp_path)
    yield site
    for server in site.servers:
        server.close()
    gc.unfreeze()


def post(server: Server, target: str, body: bytes = BODY, **headers: str) -> Answer:
    """POST."""
    return ask(server.app, "POST", target, body, **headers)


def get(server: Server, target: str, **headers: str) -> Answer:
    """GET."""
    return ask(server.app, "GET", target, b"", **headers)


# ---- which model -----------------------------------------------------------------------------------------------------


def test_the_only_model_of_a_repository_is_the_default(site: Site) -> None:
    """Until there is a second one."""
    make_fake(site.root, "only", scale=2)
    server = site.serve()
    assert post(server, "/invocations").json() == {"predictions": [[2.0]]}

    make_fake(site.root, "second")
    refused = post(server, "/invocations")
    assert (refused.status, "there are 2 models" in refused.error) == (400, True)


def test_a_setting_names_the_default(site: Site) -> None:
    """Whatever else there is."""
    make_fake(site.root, "a", scale=2)
    make_fake(site.root, "b", scale=3)

    assert post(site.serve(WHARF_DEFAULT_MODEL="b"), "/invocations").json() == {"predictions": [[3.0]]}


@pytest.mark.parametrize("env", [{}, {"SAGEMAKER_MULTI_MODEL": "true"}])
def test_without_a_default_the_caller_is_asked(site: Site, env: dict[str, str]) -> None:
    """An empty repository has none, and platform mode never."""
    if env:
        make_fake(site.root, "only")
    refused = post(site.serve(**env), "/invocations")

    assert refused.status == 400
    assert "Target-Model" in refused.error


def test_the_repository_shows_what_is_loaded_and_hides_nothing(site: Site) -> None:
    """A file whose name is not UTF-8 does not close the list."""
    make_fake(site.root, "a")
    (site.root / "b.tar.gz").write_bytes(tar_gz({"fake.json": b"{}"}))
    Path(os.fsdecode(os.fsencode(site.root) + b"/\xff.onnx")).write_bytes(b"x")
    server = site.serve()
    post(server, "/models/a/invoke")

    assert get(server, "/repository").json() == {
        "models": [
            {"modelName": "a", "modelUrl": f"{site.root}/a", "loaded": True},
            {"modelName": "b.tar.gz", "modelUrl": f"{site.root}/b.tar.gz", "loaded": False},
        ]
    }


# ---- one model -------------------------------------------------------------------------------------------------------


def test_a_single_model_is_loaded_at_the_start_and_is_the_default(site: Site) -> None:
    """/ping is 503 until then."""
    make_fake(site.single.parent, "model", scale=5, load_ms=100)
    server = site.serve()
    assert get(server, "/ping").status == 503

    until(lambda: get(server, "/ping").status == 200)
    assert post(server, "/invocations").json() == {"predictions": [[5.0]]}
    assert server.manager.loaded() == [("model", str(site.single))]


def test_the_folder_of_a_single_model_may_be_a_repository_of_tritons(site: Site) -> None:
    """SAGEMAKER_TRITON_DEFAULT_MODEL_NAME says which of its models is served, under its own name."""
    for name, scale in (("resnet", 7), ("other", 2)):
        make_fake(site.single, name, scale=scale)
    server = site.serve(SAGEMAKER_TRITON_DEFAULT_MODEL_NAME="resnet")

    until(lambda: get(server, "/ping").status == 200)
    assert post(server, "/invocations").json() == {"predictions": [[7.0]]}
    assert server.manager.loaded() == [("resnet", str(site.single / "resnet"))]


@pytest.mark.parametrize("name", ["nobody", "../model", ".", ".."])
def test_a_default_that_is_no_folder_of_the_single_model_is_another_one(site: Site, name: str) -> None:
    """A model of the repository, as ever."""
    make_fake(site.single.parent, "model")
    server = site.serve(WHARF_DEFAULT_MODEL=name)
    until(lambda: get(server, "/ping").status == 200)
    assert server.manager.loaded() == [("model", str(site.single))]
    assert post(server, "/invocations").status in (400, 404)


def test_a_single_model_that_cannot_load_keeps_ping_red(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """The endpoint's creation fails, with a line that says why."""
    make_fake(site.single.parent, "model", fail_load="no good")
    server = site.serve()
    until(lambda: "event=single_model_failed" in caplog.text)

    assert "no good" in caplog.text
    assert get(server, "/ping").status == 503
    assert "see the log" in get(server, "/ping").error


def test_a_single_model_that_was_restored_is_as_good(site: Site) -> None:
    """After a crash the journal knows it; healthy all the same."""
    make_fake(site.single.parent, "model")
    Journal(site.journal).write({"model": str(site.single)})
    server = site.serve()

    until(lambda: get(server, "/ping").status == 200)
    assert post(server, "/invocations").status == 200


@pytest.mark.parametrize("content", ["missing", "empty", "a file"])
def test_without_a_single_model_the_server_is_healthy_at_once(site: Site, content: str) -> None:
    """The folder exists in every SageMaker container."""
    if content == "empty":
        site.single.mkdir(parents=True)
    elif content == "a file":
        site.single.parent.mkdir()
        site.single.write_text("x")

    assert get(site.serve(), "/ping").status == 200


def test_platform_mode_has_no_single_model(site: Site) -> None:
    """Models come by POST /models alone."""
    make_fake(site.single.parent, "model")
    server = site.serve(SAGEMAKER_MULTI_MODEL="true")

    assert get(server, "/ping").status == 200
    assert server.manager.loaded() == []


def test_a_folder_that_may_not_be_read_counts_as_something() -> None:
    """Its load then says why; a crash at the start would say nothing to a caller."""

    class Closed(type(Path())):  # type: ignore[misc]  # root reads every real folder
        def iterdir(self) -> Iterator[Path]:
            raise PermissionError(13, "Permission denied")

    assert _holds_something(Closed("/x")) is True


# ---- settings become rooms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "status"), [("false", 401), ("true", 200)])
def test_the_token_closes_management_but_never_on_the_platform(
    site: Site, mode: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The platform sends none; that it has no effect is said."""
    server = site.serve(WHARF_ADMIN_TOKEN="t", SAGEMAKER_MULTI_MODEL=mode)

    assert {get(server, path).status for path in ("/models", "/repository", "/metrics")} == {status}
    assert ("name=WHARF_ADMIN_TOKEN" in caplog.text) == (mode == "true")


def test_a_closed_repository_is_not_given_away_by_hints(site: Site) -> None:
    """A 404 names near models only to those who may list them."""
    make_fake(site.root, "secret_model")
    opened, closed = site.serve(), site.serve(WHARF_ADMIN_TOKEN="t", WHARF_CACHE_DIR=str(site.folder / "other"))

    assert "secret_model" in post(opened, "/models/secret_mode/invoke").error
    assert "secret_model" not in post(closed, "/models/secret_mode/invoke").error


def test_limits_of_the_settings_are_kept(site: Site) -> None:
    """Body, budget and type of an answer."""
    make_fake(site.root, "quick")
    make_fake(site.root, "big", bytes=4 * MIB)
    server = site.serve(WHARF_MAX_BODY_BYTES="100", WHARF_MEMORY_BUDGET="2MiB", WHARF_DEFAULT_ACCEPT="text/csv")

    assert post(server, "/models/quick/invoke", b"x" * 101).status == 413
    assert post(server, "/models/big/invoke").status == 507
    assert post(server, "/models/quick/invoke").body == b"4.0\n"


def test_shares_are_of_the_limit_and_figures_are_figures() -> None:
    """10 % of 1,000 bytes; 7 bytes."""
    assert (_share(Share(10.0), 1000), _share(7, 1000)) == (100, 7)


def test_a_budget_in_percent_pays_for_the_server_itself(site: Site) -> None:
    """A budget in bytes is exactly that."""
    share = _make_ledger(site.settings(WHARF_MEMORY_BUDGET="50%"), LIMITS)
    exact = _make_ledger(site.settings(WHARF_MEMORY_BUDGET="512MiB"), LIMITS)

    assert (1 << 33) - (4 << 30) < share.budget_bytes < (1 << 33) - memory.resident_bytes() // 2
    assert exact.budget_bytes == 512 * MIB


def test_there_are_threads_beyond_all_caps(site: Site) -> None:
    """/ping finds one while invocations and management have all of theirs."""
    settings = site.settings(WHARF_MAX_IN_FLIGHT="100")

    assert threads_of(settings) == 100 + MANAGEMENT_THREADS + RESERVED_THREADS
    assert RESERVED_THREADS > 0


@pytest.mark.parametrize(
    ("env", "event"),
    [
        ({"WHARF_MEMORY_BUDGET": "900TiB"}, "event=budget_over_limit"),
        ({"WHARF_MODEL_ROOT": "/nowhere/at/all"}, "event=no_model_root root=/nowhere/at/all"),
        ({"WHARF_CACHE_DIR": "/dev/shm/wharf-test", "WHARF_DISK_BUDGET": "900TiB"}, "event=cache_in_memory"),
    ],
)
def test_settings_that_may_not_be_meant_are_said(
    site: Site, env: dict[str, str], event: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning at the start, and the server serves."""
    server = site.serve(**env)

    assert event in caplog.text
    assert get(server, "/ping").status == 200


def test_the_start_says_what_was_decided(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Mode, root, budget, limit and where it was read, cores, threads."""
    caplog.set_level(logging.INFO)
    site.serve(WHARF_CPU_CORES="3", SAGEMAKER_MULTI_MODEL="1")
    line = next(each for each in caplog.messages if "event=started" in each)

    assert f"pid={os.getpid()} mode=platform root={site.root} budget=1.0 GiB" in line
    assert "cores=3" in line
    assert "limit_source=" in line


# ---- the life --------------------------------------------------------------------------------------------------------


def test_what_a_killed_process_had_is_there_again(site: Site) -> None:
    """From the journal that it left."""
    make_fake(site.root, "a")
    first = site.serve(SAGEMAKER_MULTI_MODEL="true")
    load = json.dumps({"model_name": "x", "url": f"{site.root}/a"}).encode()
    assert ask(first.app, "POST", "/models", load).status == 200
    first.source.close()  # what the end of its process does
    second = site.serve(SAGEMAKER_MULTI_MODEL="true")

    assert get(second, "/models").json() == {"models": [{"modelName": "x", "modelUrl": f"{site.root}/a"}]}
    assert post(second, "/models/x/invoke").status == 200


def test_a_close_drains_and_says_whether_all_ended(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """True for idle, false for a request that outlives the limit."""
    caplog.set_level(logging.INFO)
    make_fake(site.root, "a")
    server = site.serve(WHARF_SHUTDOWN_TIMEOUT="0.05")
    post(server, "/models/a/invoke")
    with server.manager.ready("a"):
        assert server.close() is False
    until(lambda: server.manager.gauges().scalars["MemoryReservedBytes"][1] == 0)

    assert server.close() is True
    assert "event=stopped clean=False" in caplog.text


def test_metrics_put_all_rooms_together(site: Site) -> None:
    """The manager's gauges, the machine's usage, the front's counters."""
    make_fake(site.root, "a", bytes=MIB)
    server = site.serve()
    post(server, "/models/a/invoke")
    text = get(server, "/metrics").body.decode()

    for line in ("LoadedModelCount 1.0", "InFlight 0.0", "Invocations_total 1.0", 'ModelInFlight{model="a"} 0.0'):
        assert f"\n{line}\n" in text
    for name in ("CPUUtilization", "MemoryUtilization", "DiskUtilization", "Queue", "MemoryBudgetBytes"):
        assert f"\n{name} " in text


def test_requests_for_one_slow_load_leave_places_for_others(site: Site) -> None:
    """Half of the cap may wait for one load; the next gets 503, a ready model is served."""
    make_fake(site.root, "quick")
    make_fake(site.root, "slow", load_ms=400)
    server = site.serve(WHARF_MAX_IN_FLIGHT="4")
    post(server, "/models/quick/invoke")
    started = threading.Barrier(3)

    def ask_slow(_: int) -> int:
        started.wait(5)
        return post(server, "/models/slow/invoke").status

    with others() as pool:
        statuses = pool.map(ask_slow, range(3))
        until(lambda: server.manager.gauges().model_in_flight.get("slow", 0) == 2)
        assert post(server, "/models/quick/invoke").status == 200
        assert sorted(statuses) == [200, 200, 503]


def test_what_is_handed_to_tritonserver_is_the_settings_word(site: Site) -> None:
    """Whatever the process has in its environment."""
    folder = site.root / "m"
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.py").write_text("class TritonPythonModel: ...")
    (folder / "config.pbtxt").write_text('backend: "python"')
    server = site.serve(WHARF_TRITON_BACKENDS="fil, python")
    with pytest.raises(InvalidArtifactError, match="WHARF_TRITONSERVER"):
        server.manager.load("m", str(folder))
