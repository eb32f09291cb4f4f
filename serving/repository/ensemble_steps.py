"""The steps of an ensemble, as values: which model, which of the ensemble's tensors it reads and writes.

Read from config.pbtxt's ensemble_scheduling by `ensemble_steps`, checked there; `backends.ensemble` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.errors import InvalidArtifactError


@dataclass(frozen=True, slots=True)
class Step:
    """One member: its name, its version ("" is the one that is served), and maps from its tensors to the ensemble's."""

    model: str
    version: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def read_steps(
    name: str, document: Mapping[str, Any], inputs: Sequence[str], outputs: Sequence[str]
) -> tuple[Step, ...]:
    """Return the steps of the ensemble `name` in an order in which each finds its inputs.

    `document` is config.pbtxt's `ensemble_scheduling` as JSON; `inputs` and `outputs` are the ensemble's. Raises
    `InvalidArtifactError` that names the step and the tensor that is wrong.
    """
    waiting = [_step(name, number, each) for number, each in enumerate(document.get("step", ()))]
    if not waiting:
        raise InvalidArtifactError(f"Ensemble '{name}' has no step: add one, or take ensemble_scheduling out.")
    _check_writers(name, waiting, inputs)
    known, ordered = set(inputs), list[Step]()
    while waiting:
        ready = [each for each in waiting if known.issuperset(each.inputs.values())]
        if not ready:
            missing = sorted(set(waiting[0].inputs.values()) - known)
            raise InvalidArtifactError(
                f"Ensemble '{name}': step '{waiting[0].model}' reads {missing}, which no input and no step before it "
                "gives: correct its input_map."
            )
        ordered += ready
        waiting = [each for each in waiting if each not in ready]
        known.update(tensor for each in ready for tensor in each.outputs.values())
    if absent := [each for each in outputs if each not in known]:
        raise InvalidArtifactError(f"Ensemble '{name}' has the outputs {absent}, which no step writes: correct a map.")
    return tuple(ordered)


def _step(name: str, number: int, document: Mapping[str, Any]) -> Step:
    model = document.get("model_name", "")
    if not model or model == name:
        found = "names no model" if not model else "is the ensemble itself"
        raise InvalidArtifactError(f"Ensemble '{name}': step {number} {found}: set its model_name.")
    version = int(document.get("model_version", -1))
    return Step(
        model,
        "" if version < 1 else str(version),
        dict(document.get("input_map", {})),
        dict(document.get("output_map", {})),
    )


def _check_writers(name: str, steps: Sequence[Step], inputs: Sequence[str]) -> None:
    seen = dict.fromkeys(inputs, "an input")
    for each in steps:
        for tensor in each.outputs.values():
            if tensor in seen:
                raise InvalidArtifactError(
                    f"Ensemble '{name}': '{tensor}' is written by step '{each.model}' and is {seen[tensor]}: give it "
                    "another name."
                )
            seen[tensor] = f"written by step '{each.model}'"
