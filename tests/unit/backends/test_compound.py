"""Models that are loaded as one: versions, and an ensemble with members of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.backends.base import Backend
from serving.backends.compound import CompoundModel, all_of, backend_of
from serving.backends.ensemble import EnsembleBackend
from serving.cores import CoreBudget
from serving.errors import LoadFailedError, ModelNotFoundError
from serving.inference import Inference
from serving.repository.layouts import ModelSpec, describe
from serving.workers.plan import Host
from tests.models import make_fake
from tests.unit.backends.test_ensemble import spec_of, step
from tests.unit.house import House
from tests.unit.test_inference import ask

X = np.array([[1.0, 2.0]], np.float32)


def fake(folder: Path, name: str, version: str = "1", **config: object) -> ModelSpec:
    """A fake of version `version`; its file lies in a folder of its own."""
    spec = describe(name, make_fake(folder, f"{name}-{version}".replace("/", "-"), **config), allow_fake=True)
    return replace(spec, version=version)


class Versions:
    """A house whose backend makes a model of three versions, which answer 1, 2 and 3 times their input."""

    def __init__(self, folder: Path) -> None:
        self.house = House(folder)
        self.backends: dict[str, Backend] = {"fake": self.house.backend, "ensemble": EnsembleBackend(10)}
        self.one, self.two, self.three = (fake(folder, "m", str(each), scale=each) for each in (1, 2, 3))
        self.spec = replace(self.three, versions=(self.one, self.two))

    def load(self, spec: ModelSpec | None = None) -> CompoundModel:
        """Make it ready."""
        spec = spec or self.spec
        model = backend_of(self.backends, spec).load(spec)
        assert isinstance(model, CompoundModel)
        return model


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    """For each test."""
    return Versions(tmp_path)


def test_a_model_by_itself_needs_nothing_around_it(versions: Versions) -> None:
    """Its own backend makes it ready."""
    assert backend_of(versions.backends, versions.one) is versions.house.backend


def test_each_version_answers_for_itself(versions: Versions) -> None:
    """The highest is the model; the others are found by name."""
    model = versions.load()
    assert np.array_equal(model.run({"x": X})["y"], X * 3)
    for number, spec in (("1", versions.one), ("2", versions.two)):
        found = model.version(number)
        assert found is not None
        assert found[1] == spec
        assert np.array_equal(found[0].run({"x": X})["y"], X * int(number))
    assert model.version("4") is None


def test_a_footprint_is_that_of_all(versions: Versions) -> None:
    """They load one after the other, so one peak stands upon what the others hold."""
    versions.house.backend.peak_bytes["m"] = 1000
    one = versions.house.backend.footprint(versions.one)
    found = backend_of(versions.backends, versions.spec).footprint(versions.spec)
    assert found.resident_bytes == 3 * one.resident_bytes
    assert found.peak_bytes == 2 * one.resident_bytes + one.peak_bytes


def test_one_that_fails_lets_go_of_the_others(versions: Versions, tmp_path: Path) -> None:
    """None of them stays."""
    broken = fake(tmp_path, "m", "9", fail_load="no luck")
    with pytest.raises(LoadFailedError, match="no luck"):
        versions.load(replace(broken, versions=(versions.one, versions.two)))
    assert versions.house.backend.closed == ["m", "m"]


def test_all_go_at_once(versions: Versions) -> None:
    """One that cannot let go does not keep the others."""
    model = versions.load()
    versions.house.backend.fails_close.add("m")
    with pytest.raises(RuntimeError):
        model.close()
    assert versions.house.backend.closed == ["m", "m", "m"]


class _Host:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def grow(self, count: int) -> bool:
        self.told.append(("grow", count))
        return True

    def correct(self, count: int) -> None:
        self.told.append(("correct", count))

    def withdraw(self, reason: str) -> None:
        self.told.append(("withdraw", reason))


def test_what_one_holds_is_a_summand(versions: Versions, tmp_path: Path) -> None:
    """The host hears of all of them together."""
    spec = replace(versions.three, members=(fake(tmp_path, "m/a"), fake(tmp_path, "m/b")))
    model, host = versions.load(spec), _Host()
    each = versions.house.backend.footprint(versions.one).resident_bytes
    model.attach(host)
    share: Host = versions.house.backend.hosts["m/a"]
    assert share.grow(7)
    share.correct(each + 7)
    share.withdraw("worn out")
    assert host.told == [("grow", 7), ("correct", 3 * each + 7), ("withdraw", "worn out")]


def test_one_outside_makes_all_of_it_outside(versions: Versions) -> None:
    """What it holds is asked for, then, and what cannot be asked is predicted."""
    spec = replace(spec_of(step("a", "RAW", "DONE")), members=(replace(versions.one, name="ens/a"),))
    backend = backend_of(versions.backends, spec)
    assert backend.is_outside
    assert not backend_of(versions.backends, versions.spec).is_outside
    assert versions.load().held_bytes() is None


def test_an_ensemble_calls_the_members_of_its_archive(versions: Versions, tmp_path: Path) -> None:
    """By the names of their folders, in all versions; nobody else sees them, and each is counted."""
    house = versions.house
    engine = Inference(house.manager, house.catalog, CoreBudget(2), house.statistics, 10)
    ensembles = versions.backends["ensemble"]
    assert isinstance(ensembles, EnsembleBackend)
    ensembles.members = engine
    house.make("outside", scale=5)
    net = replace(fake(tmp_path, "ens/net", "2", scale=2), versions=(fake(tmp_path, "ens/net", "1", scale=7),))
    steps = (step("net", "RAW", "A"), step("net", "A", "B") | {"model_version": 1}, step("outside", "B", "DONE"))
    spec = replace(spec_of(*steps), members=(net,))

    model = versions.load(spec)

    assert np.array_equal(model.run({"RAW": X})["DONE"], X * 70)
    assert [each["name"] for each in house.catalog.stats()] == ["ens/net", "ens/net", "outside"]
    held = model.held_bytes()
    assert held is not None
    assert held > 2 * house.backend.footprint(net).resident_bytes
    with pytest.raises(ModelNotFoundError):
        engine.infer("ens/net", "", ask())


def test_a_step_that_is_an_ensemble_calls_those_beside_it(versions: Versions, tmp_path: Path) -> None:
    """In the same archive; the repository has none of them."""
    house = versions.house
    ensembles = versions.backends["ensemble"]
    assert isinstance(ensembles, EnsembleBackend)
    ensembles.members = Inference(house.manager, house.catalog, CoreBudget(2), house.statistics, 10)
    net = fake(tmp_path, "ens/net", scale=2)
    inner = replace(spec_of(step("net", "RAW", "DONE")), name="ens/inner")
    inner_step = {"model_name": "inner", "input_map": {"RAW": "RAW"}, "output_map": {"DONE": "DONE"}}
    model = versions.load(replace(spec_of(inner_step), members=(inner, net)))
    assert np.array_equal(model.run({"RAW": X})["DONE"], X * 2)


def test_all_of_a_spec_are_its_parts_and_theirs(versions: Versions) -> None:
    """What must be prepared for it."""
    inner = replace(versions.two, versions=(versions.one,))
    assert list(all_of(replace(versions.three, members=(inner,)))) == [
        replace(versions.three, members=(inner,)),
        inner,
        versions.one,
    ]
