"""Who is loaded, who waits, who goes: the manager over real folders, in both modes."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from serving.errors import (
    BadRequestError,
    DeadlineExceededError,
    InsufficientMemoryError,
    LoadFailedError,
    ModelConflictError,
    ModelNotFoundError,
    UnavailableError,
)
from serving.residents import Limits, Resident
from tests.unit.house import KIB, OVERHEAD_BYTES, PATIENT, QUICK, House, others
from tests.unit.repository.packs import tar_gz
from tests.waiting import until

ONE = 100 * KIB + OVERHEAD_BYTES
FAKE = tar_gz({"fake.json": b"{}"})


# ---- load ------------------------------------------------------------------------------------------------------------


def test_a_loaded_model_is_listed_described_and_ready(tmp_path: Path) -> None:
    """The whole way in and out."""
    house = House(tmp_path, is_platform=True)
    url = house.load("a")

    assert house.manager.loaded() == [("a", url)]
    assert house.manager.url_of("a") == url
    with house.manager.ready("a") as resident:
        assert house.in_flight("a") == 1
        assert resident.name == "a"
    assert house.in_flight("a") == 0
    house.manager.unload("a")
    assert (house.names(), house.ledger.used_bytes, house.backend.closed) == ([], 0, ["a"])


@pytest.mark.parametrize("url", ["/etc", "{root}/..", "s3://bucket/key", "{root}", "relative"])
def test_a_url_outside_the_root_is_refused_before_anything_is_marked(tmp_path: Path, url: str) -> None:
    """400; the name is free as before."""
    house = House(tmp_path)
    with pytest.raises(BadRequestError):
        house.manager.load("a", url.format(root=house.root))

    house.load("a")


def test_a_second_load_is_a_conflict_that_names_the_url(tmp_path: Path) -> None:
    """The first goes on as before."""
    house = House(tmp_path)
    url = house.load("a")

    with pytest.raises(ModelConflictError, match=url):
        house.manager.load("a", url)
    house.use("a")


def test_a_failed_load_leaves_nothing_and_fails_the_same_way_again(tmp_path: Path) -> None:
    """No name, no reservation, no hold on files."""
    house = House(tmp_path)
    for _ in range(2):
        with pytest.raises(LoadFailedError, match="no good"):
            house.load("a", fail_load="no good")
        assert (house.names(), house.ledger.used_bytes, house.manager._by_name) == ([], 0, {})
    assert house.metrics.value("LoadFailures") == 2


@pytest.mark.parametrize("crash", [RuntimeError("segmentation, nearly"), SystemExit(3), KeyError("x")])
def test_a_crash_in_a_backend_is_a_failed_load_with_its_traceback_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, crash: BaseException
) -> None:
    """500 that names the kind of crash and nothing of its text."""
    house = House(tmp_path)
    house.backend.crashes["a"] = crash
    with pytest.raises(LoadFailedError, match=f"'a' failed to load: {type(crash).__name__}; see the log"):
        house.load("a")

    assert "event=load_crashed model=a" in caplog.text
    assert "Traceback" in caplog.text
    assert house.ledger.used_bytes == 0


def test_loads_of_one_name_are_one_load(tmp_path: Path) -> None:
    """Requests get the model, loads a conflict; the backend was asked once."""
    house = House(tmp_path)
    url, gate = house.make("a"), house.backend.hold("a")
    with others() as pool:
        requests = [pool.submit(house.use, "a") for _ in range(4)]
        assert gate.reached.wait(5)
        loads = [pool.submit(house.manager.load, "a", url) for _ in range(2)]
        until(lambda: house.in_flight("a") == 4)
        gate.go()
        assert [each.result(5) for each in requests] == [None] * 4
        assert {type(each.exception(5)) for each in loads} == {ModelConflictError}
    assert house.backend.loads == {"a": 1}
    assert house.in_flight("a") == 0


def test_everybody_who_joined_a_load_gets_its_error(tmp_path: Path) -> None:
    """The same one, and the count of requests is right afterwards."""
    house = House(tmp_path)
    url, gate = house.make("a", is_out_of_memory=True), house.backend.hold("a")
    with others() as pool:
        loads = [pool.submit(house.manager.load, "a", url) for _ in range(2)]
        assert gate.reached.wait(5)
        requests = [pool.submit(house.use, "a") for _ in range(3)]
        until(lambda: house.in_flight("a") == 3)
        gate.go()
        assert {type(each.exception(5)) for each in (*loads, *requests)} == {InsufficientMemoryError}
    assert house.manager._by_name == {}


def test_a_load_does_not_hear_of_the_failure_of_another_url(tmp_path: Path) -> None:
    """It waits for the end of that one and loads its own."""
    house = House(tmp_path, is_platform=True)
    bad, good, gate = house.make("a", fail_load="no good"), house.make("b"), house.backend.hold("a")
    with others() as pool:
        first = pool.submit(house.manager.load, "a", bad)
        assert gate.reached.wait(5)
        second = pool.submit(house.manager.load, "a", good)
        until(lambda: bool(house.manager._residents._waiters))
        gate.go()
        assert isinstance(first.exception(5), LoadFailedError)
        assert second.result(5) is None

    assert house.manager.loaded() == [("a", good)]


def test_a_load_that_waits_for_that_of_another_url_gives_up_in_time(tmp_path: Path) -> None:
    """504, as one that joined."""
    house = House(tmp_path, limits=Limits(load_timeout_s=0.05))
    url, gate = house.make("a"), house.backend.hold("a")
    with others() as pool:
        load = pool.submit(house.manager.load, "a", url)
        assert gate.reached.wait(5)
        with pytest.raises(DeadlineExceededError, match="'a' is still loading"):
            house.manager.load("a", house.make("b"))
        gate.go()
        load.result(5)


def test_a_request_that_joined_gives_up_in_time_and_the_load_goes_on(tmp_path: Path) -> None:
    """503 after the request's limit; the next request finds the model."""
    house = House(tmp_path, limits=QUICK)
    url, gate = house.make("a"), house.backend.hold("a")
    with others() as pool:
        load = pool.submit(house.manager.load, "a", url)
        assert gate.reached.wait(5)
        with pytest.raises(UnavailableError, match="still loading"):
            house.use("a")
        gate.go()
        load.result(5)
    house.use("a")
    assert house.in_flight("a") == 0


def test_a_load_call_that_joined_gives_up_in_time(tmp_path: Path) -> None:
    """504: the load itself goes on."""
    house = House(tmp_path, limits=Limits(load_timeout_s=0.05))
    url, gate = house.make("a"), house.backend.hold("a")
    with others() as pool:
        load = pool.submit(house.manager.load, "a", url)
        assert gate.reached.wait(5)
        with pytest.raises(DeadlineExceededError, match="'a' is still loading"):
            house.manager.load("a", url)
        gate.go()
        load.result(5)
    assert house.names() == ["a"]


def test_with_one_load_at_a_time_others_are_served_and_waiters_are_refused_in_time(tmp_path: Path) -> None:
    """A slow load holds up neither loaded models nor, beyond their limit, requests of others."""
    house = House(tmp_path, limits=Limits(request_timeout_s=0.05, load_concurrency=1))
    house.load("quick")
    house.make("late")
    url, gate = house.make("slow"), house.backend.hold("slow")
    with others() as pool:
        load = pool.submit(house.manager.load, "slow", url)
        assert gate.reached.wait(5)
        house.use("quick")
        with pytest.raises(UnavailableError, match="WHARF_LOAD_CONCURRENCY"):
            house.use("late")
        gate.go()
        load.result(5)
    house.use("late")


def test_a_load_call_waits_for_its_turn_longer_than_a_request(tmp_path: Path) -> None:
    """The platform waits 360 s for a load."""
    house = House(tmp_path, limits=Limits(request_timeout_s=0.05, load_concurrency=1))
    url, gate = house.make("slow"), house.backend.hold("slow")
    with others() as pool:
        slow = pool.submit(house.manager.load, "slow", url)
        assert gate.reached.wait(5)
        second = pool.submit(house.load, "second")
        assert second.exception(0.2) if second.done() else True
        gate.go()
        slow.result(5)
        second.result(5)
    assert house.names() == ["second", "slow"]


# ---- unload ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_platform", "hint"), [(True, "POST /models"), (False, "GET /repository")])
def test_an_unknown_name_is_not_found_and_the_hint_is_the_modes(tmp_path: Path, is_platform: bool, hint: str) -> None:
    """What to do next differs."""
    house = House(tmp_path, is_platform=is_platform)
    with pytest.raises(ModelNotFoundError, match=hint):
        house.manager.unload("a")
    with pytest.raises(ModelNotFoundError, match=hint):
        house.manager.url_of("a")


def test_a_name_that_is_loading_is_not_there_yet(tmp_path: Path) -> None:
    """Unload, describe and list say so at once; the load is not disturbed."""
    house = House(tmp_path, is_platform=True)
    url, gate = house.make("a"), house.backend.hold("a")
    with others() as pool:
        load = pool.submit(house.manager.load, "a", url)
        assert gate.reached.wait(5)
        for ask in (house.manager.unload, house.manager.url_of):
            with pytest.raises(ModelNotFoundError):
                ask("a")
        assert house.names() == []
        gate.go()
        load.result(5)
    assert house.names() == ["a"]


def test_an_unload_drains_and_refuses_newcomers(tmp_path: Path) -> None:
    """Platform: 404 from the moment of the call; the memory is free when it returns."""
    house = House(tmp_path, is_platform=True)
    house.load("a")
    with others() as pool:
        with house.manager.ready("a"):
            unload = pool.submit(house.manager.unload, "a")
            until(lambda: house.names() == [])
            with pytest.raises(ModelNotFoundError):
                house.use("a")
            with pytest.raises(ModelNotFoundError):
                house.manager.unload("a")
            assert (house.backend.closed, house.ledger.used_bytes) == ([], OVERHEAD_BYTES)
        unload.result(5)
    assert (house.backend.closed, house.ledger.used_bytes) == (["a"], 0)


def test_a_drain_past_its_limit_is_refused_and_ends_by_itself(tmp_path: Path) -> None:
    """503 that counts the requests; when the last one ends, the model goes."""
    house = House(tmp_path, is_platform=True, limits=Limits(drain_timeout_s=0.05))
    house.load("a")
    with (
        house.manager.ready("a"),
        pytest.raises(UnavailableError, match=r"'a' still has 1 requests in flight after 0\.05 s"),
    ):
        house.manager.unload("a")
    until(lambda: house.ledger.used_bytes == 0)

    house.load("a")


def test_a_load_during_an_unload_of_the_same_name_waits_and_then_loads(tmp_path: Path) -> None:
    """The platform may reload what it has just unloaded."""
    house = House(tmp_path, is_platform=True)
    url = house.load("a")
    with others() as pool:
        with house.manager.ready("a"):
            unload = pool.submit(house.manager.unload, "a")
            until(lambda: house.names() == [])
            load = pool.submit(house.manager.load, "a", url)
        unload.result(5)
        load.result(5)
    assert house.backend.loads == {"a": 2}
    house.use("a")


def test_a_load_behind_an_unload_that_hangs_gives_up_in_time(tmp_path: Path) -> None:
    """504 that says why."""
    house = House(tmp_path, is_platform=True, limits=Limits(load_timeout_s=0.05))
    url = house.load("a")
    with others() as pool:
        with house.manager.ready("a"):
            unload = pool.submit(house.manager.unload, "a")
            until(lambda: house.names() == [])
            with pytest.raises(DeadlineExceededError, match="still being unloaded"):
                house.manager.load("a", url)
        unload.result(5)


def test_a_request_during_an_unload_waits_and_loads_again(tmp_path: Path) -> None:
    """Standalone: an unload makes room, it forbids nothing."""
    house = House(tmp_path)
    house.make("a")
    house.use("a")
    with others() as pool:
        with house.manager.ready("a"):
            unload = pool.submit(house.manager.unload, "a")
            until(lambda: house.names() == [])
            request = pool.submit(house.use, "a")
        unload.result(5)
        request.result(5)
    assert house.backend.loads == {"a": 2}


def test_a_request_behind_an_unload_that_hangs_gives_up_in_time(tmp_path: Path) -> None:
    """503: try again."""
    house = House(tmp_path, limits=QUICK)
    house.load("a")
    with others() as pool:
        with house.manager.ready("a"):
            unload = pool.submit(house.manager.unload, "a")
            until(lambda: house.names() == [])
            with pytest.raises(UnavailableError, match="being unloaded"):
                house.use("a")
        unload.result(5)


def test_a_model_that_cannot_let_go_is_gone_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failure in close() is logged; name and reservation are free."""
    house = House(tmp_path)
    url = house.load("a")
    house.backend.fails_close.add("a")
    house.manager.unload("a")

    assert "event=close_failed model=a" in caplog.text
    assert (house.names(), house.ledger.used_bytes) == ([], 0)
    house.manager.load("a", url)


def test_a_victim_that_cannot_let_go_fails_neither_the_newcomer_nor_the_other_victims(tmp_path: Path) -> None:
    """Nobody stays UNLOADING for ever, and who needed the room gets it."""
    house = House(tmp_path, budget_bytes=2 * ONE, limits=QUICK)
    for name in ("a", "b"):
        house.load(name, bytes=100 * KIB)
    house.backend.fails_close.add("a")
    house.load("big", bytes=200 * KIB)

    assert house.names() == ["big"]
    assert [each.name for each in house.evicted] == ["a", "b"]
    assert house.ledger.used_bytes == 200 * KIB + OVERHEAD_BYTES


# ---- standalone: names, eviction -------------------------------------------------------------------------------------


def test_the_first_request_loads_and_the_least_recently_used_goes(tmp_path: Path) -> None:
    """Exact LRU by last completed use."""
    house = House(tmp_path, budget_bytes=2 * ONE)
    for name in ("a", "b", "c"):
        house.make(name, bytes=100 * KIB)
    for name in ("a", "b", "a", "c"):
        house.use(name)

    assert [each.name for each in house.evicted] == ["b"]
    assert house.names() == ["a", "c"]
    assert house.metrics.value("Evictions") == 1


def test_a_model_with_requests_that_wait_for_its_load_is_no_victim(tmp_path: Path) -> None:
    """They joined while it was LOADING; it must not go before they had it."""
    house = House(tmp_path, budget_bytes=ONE)
    house.make("a", bytes=100 * KIB)
    house.make("b", bytes=100 * KIB)
    gate, seen = house.backend.hold("a"), threading.Event()

    def hold() -> None:
        with house.manager.ready("a") as resident:
            assert resident.model is not None
            assert seen.wait(5)

    with others() as pool:
        first = [pool.submit(hold) for _ in range(3)]
        assert gate.reached.wait(5)
        until(lambda: house.in_flight("a") == 3)
        second = pool.submit(house.use, "b")
        until(lambda: house.manager._room.queue == 1)
        gate.go()
        until(lambda: house.names() == ["a"])
        assert not second.done()
        seen.set()
        assert [each.result(5) for each in (*first, second)] == [None] * 4
    assert house.names() == ["b"]


def test_an_archive_answers_to_its_name_with_and_without_suffix(tmp_path: Path) -> None:
    """`iris` and `iris.tar.gz` are one model: one load, one entry; either name unloads it."""
    house = House(tmp_path)
    (house.root / "iris.tar.gz").write_bytes(FAKE)
    with others() as pool:
        list(pool.map(house.use, ["iris", "iris.tar.gz"] * 4))

    assert (house.names(), house.backend.loads) == (["iris.tar.gz"], {"iris.tar.gz": 1})
    assert house.manager.url_of("iris") == house.manager.url_of("iris.tar.gz")
    house.manager.unload("iris")
    assert house.names() == []


def test_a_name_loaded_by_url_wins_over_an_archive_of_that_name(tmp_path: Path) -> None:
    """What somebody loaded as `iris` is `iris`, until it is unloaded."""
    house = House(tmp_path)
    (house.root / "iris.tar.gz").write_bytes(FAKE)
    house.use("iris")
    house.manager.load("iris", house.make("v2"))

    assert house.manager.url_of("iris").endswith("/v2")
    with house.manager.ready("iris") as resident:
        assert resident.name == "iris"
    house.manager.unload("iris")
    with house.manager.ready("iris") as resident:
        assert resident.name == "iris.tar.gz"


def test_a_name_loaded_by_url_is_found_again_after_its_eviction(tmp_path: Path) -> None:
    """Standalone: the name is not in the repository, but somebody said where it lies."""
    house = House(tmp_path, budget_bytes=ONE)
    url = house.make("folder", bytes=100 * KIB)
    house.manager.load("alias", url)
    house.load("other", bytes=100 * KIB)
    assert house.names() == ["other"]

    house.use("alias")
    assert house.manager.url_of("alias") == url


def test_a_name_loaded_by_url_outlives_a_reload_that_found_no_room(tmp_path: Path) -> None:
    """503 now is not 404 for ever."""
    house = House(tmp_path, budget_bytes=ONE, limits=QUICK)
    house.manager.load("alias", house.make("folder", bytes=100 * KIB))
    house.load("other", bytes=100 * KIB)
    with house.manager.ready("other"), pytest.raises(UnavailableError, match="busy"):
        house.use("alias")

    house.use("alias")


def test_a_name_whose_url_is_gone_is_looked_up_in_the_repository_again(tmp_path: Path) -> None:
    """A folder that was replaced does not leave its name dead."""
    house = House(tmp_path, budget_bytes=ONE)
    old = Path(house.make("old", bytes=100 * KIB))
    house.manager.load("iris", str(old))
    house.load("other", bytes=100 * KIB)
    (old / "fake.json").unlink()
    old.rmdir()
    house.make("iris")
    with pytest.raises(ModelNotFoundError):
        house.use("iris")

    house.use("iris")


@pytest.mark.parametrize("how", ["failed load", "unload"])
def test_a_name_that_failed_or_was_unloaded_is_forgotten(tmp_path: Path, how: str) -> None:
    """It is not in the repository: 404."""
    house = House(tmp_path)
    if how == "unload":
        house.manager.load("alias", house.make("folder"))
        house.manager.unload("alias")
    else:
        with pytest.raises(LoadFailedError):
            house.manager.load("alias", house.make("folder", fail_load="no good"))

    with pytest.raises(ModelNotFoundError):
        house.use("alias")


def test_several_loads_at_once_make_room_for_all_of_them(tmp_path: Path) -> None:
    """Four newcomers, four victims; the budget holds."""
    house = House(tmp_path, budget_bytes=4 * ONE)
    for name in "abcd":
        house.load(name, bytes=100 * KIB)
    for name in "efgh":
        house.make(name, bytes=100 * KIB)
    with others() as pool:
        list(pool.map(house.use, "efgh"))

    assert house.names() == list("efgh")
    assert house.ledger.used_bytes == 4 * ONE


def test_a_model_larger_than_the_budget_is_refused_at_once_and_evicts_nobody(tmp_path: Path) -> None:
    """507 with both figures."""
    house = House(tmp_path, budget_bytes=2 * ONE)
    house.load("a", bytes=100 * KIB)
    house.make("huge", bytes=1000 * KIB)
    with pytest.raises(InsufficientMemoryError, match=r"needs 1016\.0 KiB .*budget is 232\.0 KiB"):
        house.use("huge")

    assert house.names() == ["a"]


def test_platform_mode_loads_nothing_by_itself(tmp_path: Path) -> None:
    """404 for what the platform has not loaded, though it lies in the repository."""
    house = House(tmp_path, is_platform=True)
    house.make("a")
    with pytest.raises(ModelNotFoundError, match="POST /models"):
        house.use("a")


def test_platform_mode_evicts_nobody(tmp_path: Path) -> None:
    """507 at once, both figures; the platform decides who goes."""
    house = House(tmp_path, is_platform=True, budget_bytes=ONE)
    house.load("a", bytes=100 * KIB)
    with pytest.raises(InsufficientMemoryError, match="unload a model"):
        house.load("b")

    assert (house.names(), house.evicted) == (["a"], [])


# ---- measurement -----------------------------------------------------------------------------------------------------

MIB = 1 << 20


def _in_a_process_of_its_own(measure: Callable[[Path], tuple[int, int]], folder: Path) -> tuple[int, int]:
    """Memory is measured by the whole process: what earlier tests left in this one comes and goes meanwhile."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, folder).result(60)


def _loads_more_than_predicted(folder: Path, extra: int = 24) -> tuple[int, int]:
    house = House(folder)
    house.backend.peak_bytes["a"] = 32 * MIB
    house.backend.extra_bytes["a"] = extra * MIB
    house.load("a", bytes=8 * MIB)
    return house.ledger.used_bytes, house.ledger.budget_bytes


def test_a_reservation_is_corrected_to_what_a_load_took(tmp_path: Path) -> None:
    """8 MiB predicted, 32 taken: the ledger says 32, near enough."""
    used_bytes, _ = _in_a_process_of_its_own(_loads_more_than_predicted, tmp_path)

    assert 28 * MIB < used_bytes < 36 * MIB


def test_a_correction_never_passes_the_peak_that_was_reserved(tmp_path: Path) -> None:
    """What goes beyond may be a request's that ran meanwhile."""
    used_bytes, _ = _in_a_process_of_its_own(partial(_loads_more_than_predicted, extra=60), tmp_path)

    assert 40 * MIB < used_bytes < 40.1 * MIB


@pytest.mark.parametrize(("is_platform", "names"), [(False, ["busy"]), (True, ["busy", "idle"])])
def test_a_budget_that_shrank_makes_idle_models_go_where_they_may(
    tmp_path: Path, is_platform: bool, names: list[str]
) -> None:
    """When the next request ends: a runtime took its share. The platform's models are the platform's."""
    house = House(tmp_path, is_platform=is_platform, budget_bytes=2 * ONE, pays_for_runtimes=True)
    for name in ("idle", "busy"):
        house.load(name, bytes=100 * KIB)
    with house.manager.ready("busy"):
        house.ledger.runtime_grew(ONE // 2)
        assert house.names() == ["busy", "idle"]

    assert house.names() == names
    house.use("busy")


def _loads_a_runtime(folder: Path) -> tuple[int, int]:
    house = House(folder, budget_bytes=100 * MIB, pays_for_runtimes=True)
    house.backend.runtime_bytes = 24 * MIB
    house.load("a")
    house.load("b")
    return house.ledger.used_bytes, house.ledger.budget_bytes


def test_a_runtime_is_paid_for_once_by_a_budget_that_is_a_share(tmp_path: Path) -> None:
    """Its import is neither the first model's memory nor nobody's."""
    used_bytes, budget_bytes = _in_a_process_of_its_own(_loads_a_runtime, tmp_path)

    assert 70 * MIB < budget_bytes < 80 * MIB
    assert used_bytes == 2 * OVERHEAD_BYTES


# ---- journal and restore ---------------------------------------------------------------------------------------------


def test_the_journal_follows_every_load_and_unload(tmp_path: Path) -> None:
    """What a killed server would come back with."""
    house = House(tmp_path)
    url = house.load("a")
    assert house.journal.read() == {"a": url}

    house.manager.unload("a")
    assert house.journal.read() == {}


def test_restored_models_are_listed_at_once_and_loaded_by_themselves(tmp_path: Path) -> None:
    """The platform never sees a gap."""
    house = House(tmp_path, is_platform=True)
    url, gate = house.make("a"), house.backend.hold("a")
    house.journal.write({"a": url})
    house.manager.restore()

    assert (house.manager.loaded(), house.manager.url_of("a")) == ([("a", url)], url)
    gate.go()
    until(lambda: house.manager.gauges().scalars["LoadedModelCount"][1] == 1)
    house.use("a")
    assert house.journal.read() == {"a": url}


def test_a_request_does_not_wait_for_its_turn_in_the_restore(tmp_path: Path) -> None:
    """It loads its model itself, while the first is still coming in."""
    house = House(tmp_path, is_platform=True)
    gate = house.backend.hold("a")
    house.journal.write({name: house.make(name) for name in ("a", "b")})
    house.manager.restore()
    assert gate.reached.wait(5)

    house.use("b")
    assert not gate._open.is_set()
    gate.go()
    until(lambda: house.backend.loads == {"a": 1, "b": 1} and house.in_flight("a") == 0)


def test_an_unload_of_a_model_that_is_being_restored_waits_and_then_unloads(tmp_path: Path) -> None:
    """The platform believes it to be loaded; 404 would be wrong, and so would a model that comes back."""
    house = House(tmp_path, is_platform=True)
    gate = house.backend.hold("a")
    house.journal.write({"a": house.make("a")})
    house.manager.restore()
    with others() as pool:
        unload = pool.submit(house.manager.unload, "a")
        assert gate.reached.wait(5)
        gate.go()
        unload.result(5)
    assert (house.names(), house.journal.read(), house.ledger.used_bytes) == ([], {}, 0)


def test_a_load_of_a_model_that_is_being_restored_is_a_conflict(tmp_path: Path) -> None:
    """It is loaded, as far as the platform knows."""
    house = House(tmp_path, is_platform=True)
    url, gate = house.make("a"), house.backend.hold("a")
    house.journal.write({"a": url})
    house.manager.restore()
    with others() as pool:
        load = pool.submit(house.manager.load, "a", url)
        assert gate.reached.wait(5)
        gate.go()
        assert isinstance(load.exception(5), ModelConflictError)


def test_a_model_that_cannot_be_restored_leaves_list_and_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next call about it gets 404, and so does an unload that waited."""
    house = House(tmp_path, is_platform=True)
    gate = house.backend.hold("a")
    house.journal.write({"a": house.make("a", fail_load="no good")})
    house.manager.restore()
    with others() as pool:
        unload = pool.submit(house.manager.unload, "a")
        assert gate.reached.wait(5)
        gate.go()
        assert isinstance(unload.exception(5), ModelNotFoundError)
    until(lambda: "event=not_restored model=a" in caplog.text)
    assert (house.names(), house.journal.read()) == ([], {})


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_closing_unloads_everything_and_keeps_the_journal(tmp_path: Path) -> None:
    """A server process that is replaced comes back with what it had."""
    house = House(tmp_path)
    url = house.load("a")

    assert house.manager.close(5)
    assert (house.names(), house.ledger.used_bytes) == ([], 0)
    assert house.journal.read() == {"a": url}


@pytest.mark.parametrize("is_platform", [False, True])
def test_a_closed_manager_refuses_loads_by_whatever_way(tmp_path: Path, is_platform: bool) -> None:
    """503: another server may have it."""
    house = House(tmp_path, is_platform=is_platform)
    url = house.make("a")
    house.manager.close(1)

    with pytest.raises(UnavailableError, match="shutting down"):
        house.manager.load("a", url)
    with pytest.raises(ModelNotFoundError if is_platform else UnavailableError):
        house.use("a")


def test_closing_waits_for_requests_in_flight_but_not_for_ever(tmp_path: Path) -> None:
    """False says that somebody was cut off."""
    house = House(tmp_path)
    house.load("a")
    with house.manager.ready("a"):
        assert house.manager.close(0.05) is False
    until(lambda: house.ledger.used_bytes == 0)


def test_a_load_that_waits_for_room_is_refused_when_the_server_closes(tmp_path: Path) -> None:
    """Nobody waits for a room that will not be made."""
    house = House(tmp_path, budget_bytes=ONE)
    house.load("a", bytes=100 * KIB)
    house.make("b", bytes=100 * KIB)
    with others() as pool:
        with house.manager.ready("a"):
            waiting = pool.submit(house.use, "b")
            until(lambda: house.manager._room.queue == 1)
            closing = pool.submit(house.manager.close, 5)
            assert isinstance(waiting.exception(5), UnavailableError)
        assert closing.result(5) is True


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_gauges_show_what_is_true_now(tmp_path: Path) -> None:
    """Counts, bytes by model, requests by model, loads that wait for room."""
    house = House(tmp_path, budget_bytes=ONE)
    house.load("a", bytes=100 * KIB)
    house.make("b", bytes=100 * KIB)
    with others() as pool:
        with house.manager.ready("a"):
            waiting = pool.submit(house.use, "b")
            until(lambda: house.manager.gauges().scalars["LoadQueue"][1] == 1)
            gauges = house.manager.gauges()
            assert gauges.model_in_flight == {"a": 1, "b": 1}
        waiting.result(5)

    assert gauges.model_bytes == {"a": ONE}
    assert {name: value for name, (_, value) in gauges.scalars.items()} == {
        "LoadedModelCount": 1, "MemoryBudgetBytes": ONE, "MemoryReservedBytes": ONE, "LoadQueue": 1,
    }  # fmt: skip


def test_loads_and_unloads_are_logged_with_model_and_duration(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line an event."""
    caplog.set_level(logging.INFO)
    house = House(tmp_path)
    house.load("a")
    house.manager.unload("a")

    assert "event=loaded model=a seconds=0." in caplog.text
    assert "event=unloaded model=a seconds=0." in caplog.text


def test_only_a_request_that_waited_counts_as_a_wait(tmp_path: Path) -> None:
    """ModelLoadingWaitTime has the miss, not the hits."""
    house = House(tmp_path)
    house.make("a")
    hits = []
    for _ in range(3):
        lease = house.manager.ready("a")
        with lease:
            hits.append(lease.is_hit)

    assert hits == [False, True, True]
    assert b"ModelLoadingWaitTime_count 1.0" in house.metrics.render()


def test_a_journal_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    """A full disk costs the restart, not the service."""
    house = House(tmp_path)
    house.journal_path.mkdir()
    house.load("a")

    house.use("a")
    assert json.loads(json.dumps(house.names())) == ["a"]


def test_a_request_for_a_model_that_went_meanwhile_asks_again(tmp_path: Path) -> None:
    """Between two looks under the lock the platform unloaded it: 404, no crash."""
    house = House(tmp_path, is_platform=True)

    with pytest.raises(ModelNotFoundError):
        house.manager._claim("a", "url", 0)


def test_a_resident_is_visible_when_ready_or_promised(tmp_path: Path) -> None:
    """The list shows what the platform may believe."""
    assert not Resident("a", "u").is_visible
    assert Resident("a", "u", is_listed=True).is_visible


def test_storms_of_everything_leave_nothing_behind(tmp_path: Path) -> None:
    """Loads, requests, unloads and failing closes from eight threads: every call is answered, the sums are right."""
    house = House(tmp_path, budget_bytes=3 * ONE, limits=PATIENT)
    names = [f"m{number}" for number in range(6)]
    urls = {name: house.make(name, bytes=100 * KIB) for name in names}
    house.backend.fails_close.update(names[:3])

    def storm(seed: int) -> None:
        for number in range(30):
            name = names[(seed + number * 5) % 6]
            try:
                if number % 7 == 3:
                    house.manager.unload(name)
                elif number % 7 == 5:
                    house.manager.load(name, urls[name])
                else:
                    house.use(name)
            except (ModelConflictError, ModelNotFoundError, UnavailableError):
                continue

    logging.getLogger("wharf.manager").setLevel(logging.CRITICAL)
    with others() as pool:
        list(pool.map(storm, range(8), timeout=30))
    logging.getLogger("wharf.manager").setLevel(logging.NOTSET)
    assert house.ledger.used_bytes <= house.ledger.budget_bytes
    assert set(house.manager.gauges().model_in_flight.values()) <= {0}
    assert house.manager.close(5)
    assert house.ledger.used_bytes == 0
