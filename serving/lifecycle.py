"""The life of a model as a table.

UNAVAILABLE -> LOADING -> READY -> UNLOADING -> UNAVAILABLE. `advance` is the only way to change a state; an illegal
move is an error that names the event and the state. The diagram in docs/lifecycle.md is drawn from this table. This
room does not know why an event happens nor who waits for it; `manager` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class State(Enum):
    """Where a model is in its life."""

    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"


class Event(Enum):
    """What happens to a model."""

    LOAD = "load"
    LOADED = "loaded"
    LOAD_FAILED = "load failed"
    UNLOAD = "unload"
    UNLOADED = "unloaded"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.UNAVAILABLE, Event.LOAD): State.LOADING,
    (State.LOADING, Event.LOADED): State.READY,
    (State.LOADING, Event.LOAD_FAILED): State.UNAVAILABLE,
    (State.READY, Event.UNLOAD): State.UNLOADING,
    (State.UNLOADING, Event.UNLOADED): State.UNAVAILABLE,
}


class IllegalMoveError(RuntimeError):
    """An event that the state does not allow: a bug in the caller, never a caller's mistake on the wire."""


def advance(state: State, event: Event) -> State:
    """Return the state after `event`; raise `IllegalMoveError` where the table has no such move."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        legal = [legal_event.value for from_state, legal_event in TRANSITIONS if from_state is state]
        raise IllegalMoveError(f"Event '{event.value}' is illegal in state {state.value}: legal are {legal}.") from None


def diagram() -> str:
    """Draw the table as a Mermaid state diagram."""
    moves = [f"    {old.value} --> {new.value}: {event.value}" for (old, event), new in TRANSITIONS.items()]
    return "\n".join(["stateDiagram-v2", "    [*] --> UNAVAILABLE", *moves]) + "\n"
