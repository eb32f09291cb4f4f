"""The repository as V2's clients see and steer it: index, readiness, load, unload, statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.errors import (
    BadRequestError,
    InsufficientMemoryError,
    LoadFailedError,
    ModelNotFoundError,
    UnsupportedError,
)
from tests.unit.house import House


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


def test_statistics_of_an_unknown_model_are_refused_and_of_an_idle_one_zero(house: House) -> None:
    """400, in Triton's words."""
    with pytest.raises(BadRequestError, match="requested model 'nope' is not available"):
        house.catalog.stats("nope")
    house.use("m")
    assert house.catalog.stats("m")[0]["inference_count"] == 0
    assert [each["name"] for each in house.catalog.stats()] == ["m"]


def test_the_index_has_every_model_with_its_state(house: House) -> None:
    """A name alone for what was never loaded."""
    for name in ("never", "gone", "bad"):
        house.make(name, **({"fail_load": "no good"} if name == "bad" else {}))
    house.use("m")
    house.catalog.load("gone", {})
    house.catalog.unload("gone")
    with pytest.raises(LoadFailedError, match=r"^load failed for model 'bad': .*no good"):
        house.catalog.load("bad", {})
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
    house.catalog.load("m", {})
    house.catalog.refuse_unloaded("m")


def test_a_second_load_loads_anew(house: House) -> None:
    """As Triton reloads a model whose files changed."""
    house.catalog.load("m", {})
    house.make("m", scale=2)
    house.catalog.load("m", {})

    assert answer(house) == [[2, 4]]


def test_unloading_what_is_not_there_is_no_error(house: House) -> None:
    """As with Triton; its name is free for later."""
    house.catalog.unload("later")
    house.make("later")

    house.catalog.refuse_unloaded("later")


def test_a_load_that_cannot_be_says_why(tmp_path: Path) -> None:
    """A missing model, no memory, parameters that nobody acts on."""
    house = House(tmp_path, budget_bytes=1 << 20)
    house.make("big", bytes=2 << 20)
    with pytest.raises(LoadFailedError, match="failed to load 'nope', failed to poll from model repository: "):
        house.catalog.load("nope", {})
    with pytest.raises(InsufficientMemoryError):
        house.catalog.load("big", {})
    with pytest.raises(UnsupportedError, match=r"has the parameters \['config'\]"):
        house.catalog.load("big", {"config": "{}"})
