"""Steps of ensembles: read, put in order, refused."""

from __future__ import annotations

from typing import Any

import pytest

from serving.errors import InvalidArtifactError
from serving.repository.ensemble_steps import Step, read_steps


def step(model: str, reads: dict[str, str], writes: dict[str, str], **more: Any) -> dict[str, Any]:
    """Return a step as config.pbtxt's JSON has it."""
    return {"model_name": model, "model_version": -1, "input_map": reads, "output_map": writes, **more}


FIRST = step("first", {"x": "RAW"}, {"y": "MIDDLE"})
LAST = step("last", {"a": "MIDDLE", "b": "RAW"}, {"z": "DONE"}, model_version=3)


def read(*steps: dict[str, Any], name: str = "ens") -> tuple[Step, ...]:
    """Read an ensemble from RAW to DONE."""
    return read_steps(name, {"step": list(steps)}, ["RAW"], ["DONE"])


@pytest.mark.parametrize("steps", [(FIRST, LAST), (LAST, FIRST)])
def test_steps_come_in_the_order_of_their_data(steps: tuple[dict[str, Any], ...]) -> None:
    """However they are written down."""
    first, last = read(*steps)
    assert first == Step("first", "", {"x": "RAW"}, {"y": "MIDDLE"})
    assert last == Step("last", "3", {"a": "MIDDLE", "b": "RAW"}, {"z": "DONE"})


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ((), "no step"),
        ((step("", {}, {}),), "names no model"),
        ((step("ens", {"x": "RAW"}, {"y": "DONE"}),), "is the ensemble itself"),
        ((LAST,), r"'last' reads \['MIDDLE'\]"),
        ((FIRST,), r"outputs \['DONE'\], which no step writes"),
        ((FIRST, step("again", {"x": "RAW"}, {"y": "MIDDLE"}), LAST), "'MIDDLE' is written by step 'again' and is"),
        ((step("m", {"x": "RAW"}, {"y": "RAW"}),), "'RAW' is written by step 'm' and is an input"),
        ((step("a", {"x": "B"}, {"y": "A"}), step("b", {"x": "A"}, {"y": "B"})), "reads"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(steps: tuple[dict[str, Any], ...], words: str) -> None:
    """The step and the tensor; a circle too."""
    with pytest.raises(InvalidArtifactError, match=words):
        read(*steps)
