"""Ensembles over real members: models of the fake backend, reached through the engine."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends.ensemble import EnsembleBackend, EnsembleModel
from serving.cores import CoreBudget
from serving.errors import InvalidArtifactError, ModelFailedError, ServingError, UnavailableError
from serving.inference import Inference
from serving.repository.layouts import ModelSpec
from serving.tensors import TensorSpec
from serving.workers.handler import Reply, Request
from tests.unit.house import PATIENT, House

X = np.array([[1.0, 2.0]], np.float32)


def spec_of(*steps: dict[str, Any]) -> ModelSpec:
    """An ensemble from RAW to DONE."""
    blank = ModelSpec("ens", "ensemble", Path("config.pbtxt"), 0)
    tensors = [TensorSpec(name, "FP32", (-1, 2)) for name in ("RAW", "DONE")]
    scheduling = {"ensemble_scheduling": {"step": list(steps)}}
    return dataclasses.replace(blank, inputs=(tensors[0],), outputs=(tensors[1],), triton=scheduling)


def step(model: str, reads: str, writes: str, output: str = "y") -> dict[str, Any]:
    """One fake model between two tensors."""
    return {"model_name": model, "input_map": {"x": reads}, "output_map": {output: writes}}


class Ensembles:
    """A house with two fakes and the backend over them."""

    def __init__(self, folder: Path) -> None:
        self.house = House(folder, limits=PATIENT)
        self.house.make("twice", scale=2)
        self.house.make("thrice", scale=3)
        self.house.make("broken", fail_run="no luck")
        manager, catalog = self.house.manager, self.house.catalog
        self.engine = Inference(manager, catalog, CoreBudget(2), self.house.statistics, 10)
        self.backend = EnsembleBackend(10)
        self.backend.members = self.engine

    def load(self, *steps: dict[str, Any]) -> EnsembleModel:
        """Load an ensemble of these steps."""
        return self.backend.load(spec_of(*steps))


@pytest.fixture
def ensembles(tmp_path: Path) -> Ensembles:
    """A house for each test."""
    return Ensembles(tmp_path)


def test_tensors_go_from_step_to_step(ensembles: Ensembles) -> None:
    """And each member is counted as if it had been called by a client."""
    model = ensembles.load(step("thrice", "MIDDLE", "DONE"), step("twice", "RAW", "MIDDLE"))

    assert np.array_equal(model.run({"RAW": X})["DONE"], X * 6)
    assert [each.inferences for each in ensembles.engine.statistics.known()] == [1, 1]


def test_loading_an_ensemble_loads_its_members(ensembles: Ensembles) -> None:
    """One that was evicted meanwhile is brought back by the request."""
    model = ensembles.load(step("twice", "RAW", "DONE"))
    assert [name for name, _ in ensembles.house.manager.loaded()] == ["twice"]

    ensembles.house.manager.unload("twice")

    assert np.array_equal(model.run({"RAW": X})["DONE"], X * 2)


def test_a_members_error_names_the_ensemble(ensembles: Ensembles) -> None:
    """And is of its own kind."""
    model = ensembles.load(step("broken", "RAW", "DONE"))
    with pytest.raises(ModelFailedError, match=r"in ensemble 'ens', .*no luck"):
        model.invoke(Request(tensors={"RAW": X}), time.monotonic() + 5)


@pytest.mark.parametrize("has_run", [True, False])
def test_a_member_that_had_the_request_had_it_for_the_ensemble_too(ensembles: Ensembles, has_run: bool) -> None:
    """So that it counts as a failure of both."""
    error = UnavailableError("lost")
    error.has_run = has_run

    def answer(_: Request) -> Reply:
        raise error

    ensembles.house.backend.outside["twice"] = answer
    model = ensembles.load(step("twice", "RAW", "DONE"))
    with pytest.raises(UnavailableError, match=r"in ensemble 'ens', lost") as caught:
        model.invoke(Request(tensors={"RAW": X}), time.monotonic() + 5)
    assert caught.value.has_run is has_run


@pytest.mark.parametrize(("model", "words"), [("nobody", "in ensemble 'ens', .*'nobody' is not found")])
def test_a_member_that_is_not_there_fails_the_load(ensembles: Ensembles, model: str, words: str) -> None:
    """Not the first request."""
    with pytest.raises(ServingError, match=words):
        ensembles.load(step(model, "RAW", "DONE"))


def test_an_output_that_a_member_has_not_is_an_error_in_words(ensembles: Ensembles) -> None:
    """The step's map is wrong."""
    model = ensembles.load(step("twice", "RAW", "DONE", output="nothing"))
    with pytest.raises(ServingError, match="unexpected inference output 'nothing'"):
        model.run({"RAW": X})


def test_an_ensemble_needs_its_configuration(ensembles: Ensembles) -> None:
    """Inputs, outputs and steps."""
    with pytest.raises(InvalidArtifactError, match="wants a config.pbtxt"):
        ensembles.backend.load(dataclasses.replace(spec_of(), triton=None))
