"""Ensembles: models whose steps are other models of the repository, tensors passed on in memory.

A member is an ordinary model: it is loaded, shared and evicted like any other, and counted when an ensemble calls it.
Loading an ensemble loads its members; a request holds each member only while its step runs, and brings one back that
was evicted meanwhile. Members that came in the ensemble's own archive are loaded with it and are nobody else's
(`compound` hands them over). How a member is called is `inference`'s business and comes in as `Members`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from serving.backends.base import Footprint, LoadedModel
from serving.errors import InvalidArtifactError, ModelFailedError, ModelNotFoundError, ServingError
from serving.repository.ensemble_steps import Step, read_steps
from serving.repository.layouts import ModelSpec
from serving.tensors import Signature, Tensors
from serving.workers.handler import Reply, Request
from serving.workers.plan import Host

# A signature and a table of names.
_BYTES = 64 << 10

About = Mapping[str, Any]
Member = tuple[LoadedModel, ModelSpec]


class Members(Protocol):
    """How an ensemble reaches other models."""

    def prepare(self, name: str) -> None:
        """Have a model loaded; raises what its load raises."""

    def call(self, step: Step, tensors: Tensors, about: About, deadline: float) -> Tensors:
        """Have a member answer before `deadline` (of the monotonic clock); raises what it raises."""

    def call_own(self, member: Member, step: Step, tensors: Tensors, about: About, deadline: float) -> Tensors:
        """Have a model answer that the ensemble holds itself; as `call` else."""


class EnsembleModel:
    """An ensemble that is ready. It is called like a model outside: its members take the cores."""

    is_outside = True
    takes_bodies = False
    threads = 1

    def __init__(self, spec: ModelSpec, steps: tuple[Step, ...], members: Members, timeout_s: float) -> None:
        self._name = spec.name
        self._members = members
        self._timeout_s = timeout_s
        self._own: Mapping[str, Member] = {}
        self.steps = steps
        self.signature = Signature(spec.inputs or (), spec.outputs or ())

    def held_bytes(self) -> int:
        """Return what an ensemble itself holds."""
        return _BYTES

    def device_bytes(self) -> int:
        """Return 0: its members hold what there is."""
        return 0

    def adopt(self, members: Mapping[str, Member]) -> None:
        """Take over members by the names of their folders: steps of those names call them."""
        self._own = members

    def attach(self, host: Host) -> None:
        """Take no notice: an ensemble never grows."""

    def run(self, inputs: Tensors) -> Tensors:
        """Compute the outputs by name; raises what `invoke` raises."""
        return self.invoke(Request(tensors=inputs), time.monotonic() + self._timeout_s).tensors or {}

    def invoke(self, request: Request, deadline: float) -> Reply:
        """Run the steps in the order of their data; raises a member's error with the ensemble's name before it."""
        about = {key: value for key, value in request.about.items() if key != "outputs"}
        tensors = dict(request.tensors or {})
        for step in self.steps:
            tensors.update(self._step(step, tensors, about, deadline))
        return Reply(tensors={each.name: tensors[each.name] for each in self.signature.outputs})

    def close(self) -> None:
        """Let go of nothing: members are their own."""

    def _step(self, step: Step, tensors: Tensors, about: About, deadline: float) -> Tensors:
        inputs = {theirs: tensors[ours] for theirs, ours in step.inputs.items()}
        try:
            own = self._own.get(step.model)
            if own is not None:
                outputs = self._members.call_own(own, step, inputs, about, deadline)
            else:
                outputs = self._members.call(step, inputs, about, deadline)
        except ServingError as error:
            told = type(error)(f"in ensemble '{self._name}', {error.text}")
            told.has_run = error.has_run
            raise told from None
        missing = [theirs for theirs in step.outputs if theirs not in outputs]
        if missing:
            raise ModelFailedError(
                f"in ensemble '{self._name}', '{step.model}' has no output {missing}: correct the step's output_map."
            )
        return {ours: outputs[theirs] for theirs, ours in step.outputs.items()}


class EnsembleBackend:
    """The backend of format "ensemble"."""

    name = "ensemble"
    # Its load waits for those of its members: it must not hold a turn that they need.
    is_outside = True

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.members: Members | None = None  # set once by the composition root, which builds them on top of this

    def outside_bytes(self) -> int:
        """Return 0: there is no runtime."""
        return 0

    def prepare(self) -> bool:
        """Nothing to import."""
        return False

    def footprint(self, spec: ModelSpec) -> Footprint:  # noqa: ARG002
        """Return the bytes of a table; members have footprints of their own."""
        return Footprint(_BYTES, _BYTES)

    def load(self, spec: ModelSpec) -> EnsembleModel:
        """Load the members; raises what they raise, `InvalidArtifactError` for steps that do not fit together."""
        if self.members is None or spec.triton is None or not spec.inputs or not spec.outputs:
            raise InvalidArtifactError(f"Ensemble '{spec.name}' wants a config.pbtxt with input, output and steps.")
        steps = read_steps(
            spec.name,
            spec.triton["ensemble_scheduling"],
            [each.name for each in spec.inputs],
            [each.name for each in spec.outputs],
        )
        own = {each.name.rpartition("/")[2] for each in spec.members}
        for name in dict.fromkeys(each.model for each in steps if each.model not in own):
            try:
                self.members.prepare(name)
            except ModelNotFoundError as error:  # not the ensemble's own name
                raise InvalidArtifactError(f"in ensemble '{spec.name}', {error.message}") from None
            except ServingError as error:
                raise type(error)(f"in ensemble '{spec.name}', {error.message}") from None
        return EnsembleModel(spec, steps, self.members, self._timeout_s)
