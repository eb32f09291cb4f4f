"""The repository as V2's clients see and steer it: index, readiness, load, unload, statistics."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.catalog import Catalog
from serving.cores import CoreBudget
from serving.errors import (
    BadRequestError,
    InsufficientMemoryError,
    LoadFailedError,
    ModelConflictError,
    ModelNotFoundError,
    UnavailableError,
)
from serving.inference import Inference
from serving.repository.ensemble_steps import Step
from serving.repository.overrides import Override
from serving.residents import Resident
from tests.unit.house import KIB, PATIENT, House, others
from tests.unit.repository.packs import zip_of
from tests.waiting import until


@pytest.fixture
def house(tmp_path: Path) -> House:
    """With a model `m` that answers four times its input."""
    house = House(tmp_path)
    house.make("m")
    return house


def answer(house: House, name: str = "m") -> list[list[float]]:
    """What a model makes of one row."""
    with house.manager.ready(name) as resident:
        return resident.model.run({"x": np.array([[1, 2]], np.float32)})["y"].tolist()  # type: ignore[no-any-return]


# ---- what is there ---------------------------------------------------------------------------------------------------


def test_readiness_is_whether_a_request_would_be_served(house: House) -> None:
    """Standalone: what is there loads when asked for."""
    ready = house.catalog.is_ready

    assert [ready("m"), ready("m", "1"), ready("m", "2"), ready("nope")] == [True, True, False, False]
    house.use("m")
    assert [ready("m"), ready("m", "1"), ready("m", "2")] == [True, True, False]
    house.catalog.unload("m")
    assert ready("m") is False


def test_in_platform_mode_only_what_is_loaded_is_ready(tmp_path: Path) -> None:
    """Nothing loads by itself."""
    house = House(tmp_path, is_platform=True)
    url = house.make("m")

    assert house.catalog.is_ready("m") is False
    house.manager.load("m", url)
    assert house.catalog.is_ready("m") is True


def test_statistics_are_of_models_that_are_there(house: House) -> None:
    """Zeros of one that nobody asked yet; 400 in Triton's words for all others."""
    house.make("other")
    house.use("other")
    house.use("m")
    assert house.catalog.stats("m", "1")[0]["inference_count"] == 0
    assert [each["name"] for each in house.catalog.stats()] == ["m", "other"]
    house.catalog.unload("other")
    assert [each["name"] for each in house.catalog.stats()] == ["m"]
    for name, version, text in (
        ("nope", "", "requested model 'nope' is not available"),
        ("other", "", "requested model 'other' is not available"),
        ("m", "9", "requested model version is not available for model 'm'"),
    ):
        with pytest.raises(BadRequestError, match=f"^{text}$"):
            house.catalog.stats(name, version)


def test_statistics_outlive_an_eviction(tmp_path: Path) -> None:
    """In standalone mode the model is there all the same."""
    house = House(tmp_path, budget_bytes=150 * KIB)
    house.load("a", bytes=100 * KIB)
    house.statistics.of("a", "1").failed(5)
    house.load("b", bytes=100 * KIB)

    assert [each["name"] for each in house.catalog.stats()] == ["a", "b"]
    assert house.catalog.stats("a")[0]["inference_stats"]["fail"]["count"] == 1


def test_in_platform_mode_statistics_go_with_the_model(tmp_path: Path) -> None:
    """It does not come back by itself."""
    house = House(tmp_path, is_platform=True)
    house.load("a")
    house.statistics.of("a", "1").failed(5)
    house.manager.unload("a")

    assert house.catalog.stats() == []


def test_members_of_an_archive_are_counted_while_their_ensemble_is_there(tmp_path: Path) -> None:
    """They are nobody else's."""
    house = House(tmp_path, is_platform=True)
    house.statistics.of("ens/net", "1").failed(5)
    assert house.catalog.stats() == []
    house.load("ens")

    assert [each["name"] for each in house.catalog.stats()] == ["ens", "ens/net"]


def test_the_index_has_every_model_with_its_state(house: House) -> None:
    """A name alone for what was never loaded."""
    for name in ("never", "gone", "bad"):
        house.make(name, **({"fail_load": "no good"} if name == "bad" else {}))
    house.use("m")
    house.catalog.load("gone")
    house.catalog.unload("gone")
    with pytest.raises(BadRequestError, match=r"^load failed for model 'bad': .*no good"):
        house.catalog.load("bad")
    rows = {row.pop("name"): row for row in house.catalog.index()}

    assert rows["never"] == {}
    assert rows["m"] == {"version": "1", "state": "READY"}
    assert rows["gone"] == {"version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    assert "no good" in rows["bad"]["reason"]
    assert [row["name"] for row in house.catalog.index(only_ready=True)] == ["m"]


# ---- load and unload -------------------------------------------------------------------------------------------------


def test_an_unloaded_model_is_refused_until_somebody_loads_it(house: House) -> None:
    """By whichever route."""
    url = house.load("m")
    house.catalog.unload("m")

    with pytest.raises(ModelNotFoundError, match=r"^Request for unknown model: 'm' has no available versions$"):
        house.catalog.refuse_unloaded("m")
    house.manager.load("m", url)
    house.catalog.refuse_unloaded("m")
    house.catalog.unload("m")
    house.catalog.load("m")
    house.catalog.refuse_unloaded("m")


def test_a_second_load_loads_anew(house: House) -> None:
    """As Triton reloads a model whose files changed."""
    house.catalog.load("m")
    house.make("m", scale=2)
    house.catalog.load("m")

    assert answer(house) == [[2, 4]]


def test_an_unload_while_the_model_loads_takes_it_away(house: House) -> None:
    """The request that began the load is answered; none brings the model back."""
    gate = house.backend.hold("m")
    with others(2) as pool:
        request = pool.submit(house.use, "m")
        assert gate.reached.wait(10)
        unload = pool.submit(house.catalog.unload, "m")
        until(lambda: bool(house.manager._residents._waiters))
        gate.go()
        request.result(10)
        unload.result(10)

    assert house.names() == []
    with pytest.raises(ModelNotFoundError, match="'m' has no available versions"):
        house.catalog.refuse_unloaded("m")


def test_an_unload_while_a_load_fails_is_no_error(house: House) -> None:
    """There is nothing to unload then, and it stays so."""
    gate = house.backend.hold("m")
    house.backend.crashes["m"] = LoadFailedError("no good")
    with others(2) as pool:
        request = pool.submit(house.use, "m")
        assert gate.reached.wait(10)
        unload = pool.submit(house.catalog.unload, "m")
        until(lambda: bool(house.manager._residents._waiters))
        gate.go()
        assert isinstance(request.exception(10), LoadFailedError)
        unload.result(10)

    with pytest.raises(ModelNotFoundError):
        house.use("m")
    assert house.backend.loads["m"] == 1


def test_a_request_that_waits_for_the_end_of_an_unload_does_not_undo_it(house: House) -> None:
    """404, though nobody had told it of the unload when it came."""
    house.use("m")
    with others(2) as pool, house.manager.ready("m"):
        unload = pool.submit(house.catalog.unload, "m")
        until(lambda: house.manager.peek("m") is None)
        request = pool.submit(house.use, "m")
        until(lambda: house.manager._residents._waiters == 2)
    with pytest.raises(ModelNotFoundError, match="'m' is not loaded: it was unloaded, load it again"):
        request.result(10)
    unload.result(10)
    assert house.names() == []


def test_by_no_route_does_a_request_load_what_was_unloaded(house: House) -> None:
    """Asked for by its whole name or without its suffix; a load does, and an eviction after it changes nothing."""
    (house.root / "iris.zip").write_bytes(zip_of({"fake.json": b"{}"}))
    house.use("iris")
    house.catalog.unload("iris.zip")
    for name in ("iris", "iris.zip"):
        with pytest.raises(ModelNotFoundError):
            house.use(name)
        with pytest.raises(ModelNotFoundError, match="has no available versions"):
            house.catalog.refuse_unloaded(name)
    house.manager.load("iris.zip", str(house.root / "iris.zip"))
    house.manager.unload("iris.zip")
    for name in ("iris", "iris.zip"):
        house.catalog.refuse_unloaded(name)
        house.use(name)


def test_an_unload_that_a_request_sees_halfway_is_kept(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks between the note of the unload and the model's leaving."""
    house.use("m")
    unload = house.manager.unload

    def looked_at(name: str, *, stays_away: bool = False) -> Resident:
        house.catalog.refuse_unloaded("m")
        return unload(name, stays_away=stays_away)

    monkeypatch.setattr(house.manager, "unload", looked_at)
    house.catalog.unload("m")

    with pytest.raises(ModelNotFoundError, match="'m' has no available versions"):
        house.catalog.refuse_unloaded("m")
    assert not house.catalog.is_ready("m")


def test_unloading_what_is_not_there_is_no_error(house: House) -> None:
    """As with Triton; its name is free for later."""
    house.catalog.unload("later")
    house.make("later")

    house.catalog.refuse_unloaded("later")


def test_members_go_with_their_ensemble_where_that_is_asked_for(house: House) -> None:
    """Each once."""
    for name in ("ens", "other"):
        house.load(name)
    house.load("m")
    with house.manager.ready("ens") as resident:
        resident.model.steps = (Step("m", "", {}, {}), Step("m", "", {}, {}))  # type: ignore[attr-defined]
    house.catalog.unload("ens", with_members=True)

    assert house.names() == ["other"]


def test_an_ensemble_that_is_loaded_brings_back_members_that_were_unloaded(tmp_path: Path) -> None:
    """Those of an ensemble in it too; a mere request for the ensemble brings back none."""
    house = House(tmp_path)
    engine = Inference(house.manager, house.catalog, CoreBudget(2), house.statistics, 5)
    house.ensembles.members = engine
    house.make("leaf")
    house.make_ensemble("inner", "leaf")
    house.make_ensemble("outer", "inner", "leaf")
    house.catalog.load("outer")
    for each in ("inner", "outer"):
        house.catalog.unload(each, with_members=True)
    house.catalog.load("outer")
    assert house.names() == ["inner", "leaf", "outer"]
    house.manager.unload("outer")
    house.catalog.unload("inner", with_members=True)
    with pytest.raises(ModelNotFoundError):
        engine.signature("outer")

    assert house.names() == []


def test_an_ensemble_whose_member_is_nowhere_is_told_by_its_load(tmp_path: Path) -> None:
    """As before: what cannot be followed is not brought back, either."""
    house = House(tmp_path)
    house.ensembles.members = Inference(house.manager, house.catalog, CoreBudget(2), house.statistics, 5)
    house.make_ensemble("lost", "nowhere")
    with pytest.raises(BadRequestError, match="'nowhere' is not found"):
        house.catalog.load("lost")


def test_a_model_that_was_never_loaded_is_not_found_after_its_unload(house: House) -> None:
    """No mere request loads it then, and there is nothing to tell of it."""
    house.catalog.unload("m")

    with pytest.raises(ModelNotFoundError, match="'m' is not found"):
        house.catalog.refuse_unloaded("m")
    assert house.catalog.index() == [{"name": "m"}]


def test_a_model_that_was_evicted_before_its_unload_is_unloaded(tmp_path: Path) -> None:
    """It had been there."""
    house = House(tmp_path, budget_bytes=150 * KIB)
    house.load("a", bytes=100 * KIB)
    house.statistics.of("a", "1").failed(5)
    house.load("b", bytes=100 * KIB)
    house.catalog.unload("a")

    assert {"name": "a", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"} in house.catalog.index()


def test_a_name_without_its_suffix_is_told_the_same(house: House) -> None:
    """The index has it by its whole name."""
    (house.root / "iris.zip").write_bytes(zip_of({"fake.json": b"{}"}))
    house.catalog.load("iris")
    house.catalog.unload("iris")

    with pytest.raises(ModelNotFoundError, match="'iris' has no available versions"):
        house.catalog.refuse_unloaded("iris")
    assert house.catalog.index()[0] == {
        "name": "iris.zip", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded",
    }  # fmt: skip


# ---- what comes with a load ------------------------------------------------------------------------------------------


def fake(**config: object) -> Override:
    """A fake that is nothing but what comes."""
    return Override("{}", {"fake.json": json.dumps(config).encode()})


def loads(house: House) -> list[Path]:
    """What came and is yet there."""
    folder = house.store.folder / "loads"
    return sorted(folder.iterdir()) if folder.exists() else []


def test_what_comes_with_a_load_is_served_until_a_load_without_it(house: House) -> None:
    """The repository stays as it is, and nothing is left in the cache."""
    house.catalog.load("m")
    house.catalog.load("m", fake(scale=3))
    assert answer(house) == [[3, 6]]
    house.catalog.load("m", fake(scale=5))
    assert (answer(house), len(loads(house))) == ([[5, 10]], 1)
    house.catalog.load("m")

    assert (answer(house), loads(house), house.store.used_bytes) == ([[4, 8]], [], 0)


def test_a_model_may_be_nothing_but_what_comes(house: House) -> None:
    """It is in the index while it is loaded, and gone with its unload."""
    house.catalog.load("from_nowhere", fake())
    assert {"name": "from_nowhere", "version": "1", "state": "READY"} in house.catalog.index()
    house.catalog.unload("from_nowhere")

    assert [row["name"] for row in house.catalog.index()] == ["m"]
    assert loads(house) == []
    with pytest.raises(ModelNotFoundError, match="has no available versions"):
        house.catalog.refuse_unloaded("from_nowhere")


def test_the_platforms_unload_takes_it_along_too(house: House) -> None:
    """By whichever route."""
    house.catalog.load("from_nowhere", fake())
    house.manager.unload("from_nowhere")

    assert loads(house) == []


def test_an_evicted_model_comes_back_from_what_came(tmp_path: Path) -> None:
    """It is ready all the while, and an unload of the evicted one takes it away for good."""
    house = House(tmp_path, budget_bytes=150 * KIB)
    house.catalog.load("first", fake(bytes=100 * KIB, scale=3))
    house.load("second", bytes=100 * KIB)
    assert house.names() == ["second"]
    assert house.catalog.is_ready("first")
    assert answer(house, "first") == [[3, 6]]
    house.use("second")
    house.catalog.unload("first")

    assert not house.catalog.is_ready("first")
    assert loads(house) == []
    with pytest.raises(ModelNotFoundError):
        house.use("first")


def test_an_archive_comes_back_from_what_came_by_its_short_name_too(tmp_path: Path) -> None:
    """A request for it without its suffix does not get the repository's."""
    house = House(tmp_path, budget_bytes=150 * KIB)
    (house.root / "iris.zip").write_bytes(zip_of({"fake.json": b"{}"}))
    house.catalog.load("iris", fake(bytes=100 * KIB, scale=3))
    house.load("second", bytes=100 * KIB)
    assert house.names() == ["second"]

    assert answer(house, "iris") == [[3, 6]]


def test_what_came_goes_with_the_last_who_wants_it(tmp_path: Path) -> None:
    """An evicted one that is loaded without it, by whichever route, or deleted, or that turns out to be gone."""
    house = House(tmp_path, budget_bytes=150 * KIB)
    url = house.make("first", bytes=100 * KIB)
    house.make("second", bytes=100 * KIB)

    def evicted() -> None:
        house.catalog.load("first", fake(bytes=100 * KIB))
        house.use("second")
        assert (house.names(), len(loads(house))) == (["second"], 1)

    evicted()
    house.manager.load("first", url)
    assert loads(house) == []
    evicted()
    with pytest.raises(ModelNotFoundError):
        house.manager.unload("first")
    assert loads(house) == []
    evicted()
    house.backend.crashes["first"] = ModelNotFoundError("its files went")
    with pytest.raises(ModelNotFoundError):
        house.use("first")
    assert (loads(house), house.store.used_bytes) == ([], 0)


def test_a_killed_server_process_comes_back_with_it(tmp_path: Path) -> None:
    """The journal names it; what no model wants any more is swept."""
    house = House(tmp_path)
    house.catalog.load("first", fake(scale=3))
    house.store.folder.joinpath("loads/left").mkdir()
    house.store.close()
    new = House(tmp_path)
    new.manager.restore()

    assert answer(new, "first") == [[3, 6]]
    assert [str(each) for each in loads(new)] == [new.manager.url_of("first")]


def test_a_killed_server_process_knows_what_came_for_an_evicted_model(tmp_path: Path) -> None:
    """It is not loaded before it is asked for, and after an unload it is not known any more."""
    house = House(tmp_path, budget_bytes=150 * KIB)
    house.catalog.load("first", fake(bytes=100 * KIB, scale=3))
    house.load("second", bytes=100 * KIB)
    house.store.close()
    new = House(tmp_path, budget_bytes=150 * KIB)
    new.manager.restore()
    assert (new.names(), len(loads(new)), new.catalog.is_ready("first")) == (["second"], 1, True)
    assert answer(new, "first") == [[3, 6]]
    new.use("second")
    new.catalog.unload("first")
    new.store.close()
    last = House(tmp_path, budget_bytes=150 * KIB)
    last.manager.restore()

    assert (last.names(), loads(last), last.catalog.is_ready("first")) == (["second"], [], False)


def test_what_cannot_be_polled_leaves_the_model_as_it_was(house: House) -> None:
    """Triton's sentence, and the reason."""
    house.catalog.load("m")
    poll = "^failed to load 'm', failed to poll from model repository: "
    for override, reason in (
        (Override("{"), "the config of the load cannot be parsed"),
        (Override("{}"), "'m' is a fake and takes no configuration"),
        (Override(None, {"1/model.py": b""}), "no config: send"),
        (Override("{}", {"../m/fake.json": b"{}"}), "leads out"),
        (Override("{}", {"notes.txt": b""}), "holds no model"),
    ):
        with pytest.raises(LoadFailedError, match=poll + f".*{reason}"):
            house.catalog.load("m", override)
    with pytest.raises(LoadFailedError, match="'nope' is not in the repository"):
        house.catalog.load("nope", Override("{}"))

    assert (answer(house), house.catalog.is_ready("m"), loads(house)) == ([[4, 8]], True, [])
    assert house.backend.loads["m"] == 1


def test_what_does_not_start_brings_back_what_was_there(house: House) -> None:
    """With what came for it, too."""
    house.catalog.load("m", fake(scale=3))
    with pytest.raises(BadRequestError, match="UNAVAILABLE state: Internal: .*no luck"):
        house.catalog.load("m", fake(fail_load="no luck"))

    assert (answer(house), len(loads(house))) == ([[3, 6]], 1)
    house.catalog.refuse_unloaded("m")


def test_two_loads_of_one_model_take_turns(house: House) -> None:
    """The last one stays, and both are answered."""
    gate = house.backend.hold("m")
    with others(2) as pool:
        first = pool.submit(house.catalog.load, "m", fake(scale=3))
        assert gate.reached.wait(10)
        second = pool.submit(house.catalog.load, "m", fake(scale=5))
        gate.go()
        first.result(10)
        second.result(10)

    assert (answer(house), len(loads(house))) == ([[5, 10]], 1)


def test_a_load_whose_turn_does_not_come_is_refused(house: House) -> None:
    """So is an unload: 503, and what was under way goes on."""
    catalog = Catalog(house.manager, house.source, house.statistics, turn_s=0.02)
    gate = house.backend.hold("m")
    with others(2) as pool:
        first = pool.submit(catalog.load, "m", fake(scale=3))
        assert gate.reached.wait(10)
        for ask in (catalog.load, catalog.unload):
            with pytest.raises(UnavailableError, match="Model 'm' is being loaded, or unloaded, by another call"):
                ask("m")
        gate.go()
        first.result(10)

    assert answer(house) == [[3, 6]]


def test_a_model_that_goes_while_it_is_loaded_anew_is_loaded_all_the_same(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another route unloaded it in between."""
    house.catalog.load("m")
    url_of = house.manager.url_of

    def gone(name: str) -> str:
        house.manager.unload(name)
        return url_of(name)

    monkeypatch.setattr(house.manager, "url_of", gone)
    house.catalog.load("m")

    assert house.names() == ["m"]


def test_a_load_of_a_loaded_model_under_traffic_is_that_load(house: House) -> None:
    """Requests that waited for the old one's end get the new one, whoever of them loads it."""
    house.catalog.load("m")
    with others(8) as pool:
        with house.manager.ready("m"):
            load = pool.submit(house.catalog.load, "m", fake(scale=3))
            until(lambda: house.manager.peek("m") is None)
            answers = [pool.submit(answer, house) for _ in range(6)]
            until(lambda: house.manager._residents._waiters == 7)
        load.result(10)
        assert [each.result(10) for each in answers] == [[[3, 6]]] * 6

    assert (answer(house), house.backend.loads["m"]) == ([[3, 6]], 2)


def test_a_load_that_a_request_began_and_that_fails_brings_back_what_was_there(house: House) -> None:
    """And nothing of what came stays."""
    house.catalog.load("m", fake(scale=3))
    with others(8) as pool:
        with house.manager.ready("m"):
            load = pool.submit(house.catalog.load, "m", fake(fail_load="no luck"))
            until(lambda: house.manager.peek("m") is None)
            answers = [pool.submit(answer, house) for _ in range(6)]
            until(lambda: house.manager._residents._waiters == 7)
        assert isinstance(load.exception(10), BadRequestError)
        assert {str(each.exception(10) or each.result()) for each in answers} <= {
            "[[3, 6]]", "Model 'm' failed to load: no luck",
        }  # fmt: skip

    assert (answer(house), len(loads(house))) == ([[3, 6]], 1)


def test_a_drain_that_takes_too_long_keeps_what_came_with_the_load_before(tmp_path: Path) -> None:
    """The load is refused, and a request gets the former model once the drain is over."""
    house = House(tmp_path, limits=replace(PATIENT, drain_timeout_s=0.05))
    house.make("m")
    house.catalog.load("m", fake(scale=3))
    with house.manager.ready("m"), pytest.raises(UnavailableError, match="in flight"):
        house.catalog.load("m", fake(scale=5))

    assert (answer(house), len(loads(house))) == ([[3, 6]], 1)


def test_what_was_there_and_cannot_come_back_leaves_nothing(house: House) -> None:
    """Neither the one nor the other is kept on disk, and the index says why."""
    house.catalog.load("m", fake(scale=3))
    house.backend.crashes["m"] = LoadFailedError("no luck at all")
    with pytest.raises(BadRequestError, match="no luck at all"):
        house.catalog.load("m", fake(scale=5))

    assert (house.names(), loads(house)) == ([], [])
    assert "no luck at all" in house.catalog.index()[0]["reason"]


def test_a_model_whose_files_are_gone_is_loaded_anew_all_the_same(house: House) -> None:
    """It could not be brought back, which is no reason to keep it."""
    house.catalog.load("m", fake(scale=3))
    shutil.rmtree(loads(house)[0])
    house.catalog.load("m")

    assert answer(house) == [[4, 8]]


def test_what_was_there_comes_back_with_a_request_when_there_is_no_memory_just_now(house: House) -> None:
    """That is no fault of its own."""
    house.catalog.load("m", fake(scale=3))
    house.backend.crashes["m"] = InsufficientMemoryError("none just now")
    with pytest.raises(InsufficientMemoryError):
        house.catalog.load("m", fake(scale=5))
    del house.backend.crashes["m"]

    assert (answer(house), len(loads(house))) == ([[3, 6]], 1)


def test_a_load_between_which_another_route_loads_something_else_is_a_conflict(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came is not what is served."""
    house.catalog.load("m")
    unload = house.manager.unload

    def and_load(name: str) -> None:
        unload(name)
        house.manager.load("m", house.make("other", scale=7))

    monkeypatch.setattr(house.manager, "unload", and_load)
    with pytest.raises(ModelConflictError):
        house.catalog.load("m", fake(scale=3))

    assert (answer(house), loads(house)) == ([[7, 14]], [])


# ---- loads that fail -------------------------------------------------------------------------------------------------


def test_a_model_that_does_not_start_says_why_until_it_does(house: House) -> None:
    """In the answer, in the index, after an unload too; no mere request tries again."""
    house.make("bad", fail_load="no good")
    with pytest.raises(BadRequestError) as caught:
        house.catalog.load("bad")
    reason = "Internal: Model 'bad' failed to load: no good"
    assert caught.value.text == f"load failed for model 'bad': version 1 is at UNAVAILABLE state: {reason};\n"
    house.catalog.unload("bad")
    row = {"name": "bad", "version": "1", "state": "UNAVAILABLE", "reason": reason}
    assert row in house.catalog.index()
    with pytest.raises(ModelNotFoundError, match="has no available versions"):
        house.catalog.refuse_unloaded("bad")
    house.make("bad")
    house.catalog.load("bad")

    assert house.catalog.is_ready("bad")


def test_what_a_models_own_code_raised_is_told_in_its_lines(house: House) -> None:
    """As Triton tells it."""
    said = "RuntimeError: no luck today\n\nAt:\n  /m/1/model.py(6): initialize\n"
    house.backend.crashes["m"] = LoadFailedError("Model 'm' failed to load: RuntimeError: no luck today", said)
    with pytest.raises(BadRequestError) as caught:
        house.catalog.load("m")

    assert caught.value.text.endswith(f"state: Internal: {said};\n")
    assert house.catalog.index()[0]["reason"] == f"Internal: {said}"


def test_a_load_that_cannot_be_just_now_is_no_fault_of_the_model(tmp_path: Path) -> None:
    """No memory is 507, and a request may try again."""
    house = House(tmp_path, budget_bytes=1 << 20)
    house.make("big", bytes=2 << 20)
    with pytest.raises(InsufficientMemoryError):
        house.catalog.load("big")
    house.catalog.refuse_unloaded("big")
    house.backend.crashes["gone"] = ModelNotFoundError("its files went")
    house.make("gone")
    with pytest.raises(LoadFailedError, match="failed to poll from model repository: its files went"):
        house.catalog.load("gone")
