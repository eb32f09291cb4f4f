"""JSON heads of V2 bodies that were read before: a client sends the same one again and again, with other bytes behind.

Where all inputs are binary ones behind it, a head decides everything of a request but those bytes. What was made of it
is kept, for the same bytes only, so that everything that is checked of a head was checked. What fits no head that is
known is `None`, and `v2_requests`, which asks here, reads it and says what is wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.codecs.packed import Unread
from serving.codecs.v2 import Question
from serving.tensors import Array

# A head of four inputs and their outputs has some 600 bytes.
_HEAD_MAX_BYTES = 2048
# 0.5 MiB of heads. They are forgotten together: clients with an id in each request would push out one by one, too.
_HEADS_MAX = 256


@dataclass(slots=True)
class _Known:
    """A question without its bytes, and of each input name, datatype, shape and bytes."""

    question: Question
    inputs: list[tuple[str, str, tuple[int, ...], int]]
    input_bytes: int


class Heads:
    """Those of one route."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}

    def recall(self, head: bytes, rest: memoryview) -> Question | None:
        """Return the question that `head` asks about `rest`; None where that is to be read."""
        known = self._known.get(head)
        if known is None or known.input_bytes != len(rest):
            return None
        inputs: dict[str, tuple[str, Array | Unread]] = {}
        at = 0
        for name, datatype, shape, size in known.inputs:
            inputs[name] = datatype, Unread(name, datatype, shape, rest[at : at + size])
            at += size
        said = known.question
        return Question(
            said.id, said.parameters.copy(), inputs, [*said.outputs], said.is_binary, said.priority, said.timeout_us
        )

    def keep(self, head: bytes, question: Question, rest: memoryview) -> None:
        """Take what was read of a head; one with other data than `rest` (JSON's, shared memory's) is not kept."""
        tensors = [tensor for _, tensor in question.inputs.values() if isinstance(tensor, Unread)]
        is_all = len(tensors) == len(question.inputs) and sum(len(each.data) for each in tensors) == len(rest)
        if len(head) > _HEAD_MAX_BYTES or not is_all or any(each.region is not None for each in question.outputs):
            return
        if len(self._known) >= _HEADS_MAX:
            self._known.clear()
        said = Question(
            question.id,
            question.parameters.copy(),
            outputs=[*question.outputs],
            is_binary=question.is_binary,
            priority=question.priority,
            timeout_us=question.timeout_us,
        )
        inputs = [(each.name, each.datatype, each.shape, len(each.data)) for each in tensors]
        self._known[head] = _Known(said, inputs, len(rest))
