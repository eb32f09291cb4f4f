"""The life of a model is a table."""

from __future__ import annotations

import itertools

import pytest

from serving.lifecycle import TRANSITIONS, Event, IllegalMoveError, State, advance, diagram


def test_a_whole_life_leads_back_to_unavailable() -> None:
    """Load, use, unload ends where it began."""
    state = State.UNAVAILABLE
    for event in (Event.LOAD, Event.LOADED, Event.UNLOAD, Event.UNLOADED):
        state = advance(state, event)

    assert state is State.UNAVAILABLE


def test_a_failed_load_leads_back_to_unavailable() -> None:
    """A failure leaves no ghost state."""
    assert advance(State.LOADING, Event.LOAD_FAILED) is State.UNAVAILABLE


_ILLEGAL = [move for move in itertools.product(State, Event) if move not in TRANSITIONS]


@pytest.mark.parametrize(("state", "event"), _ILLEGAL)
def test_every_other_move_is_refused_by_name(state: State, event: Event) -> None:
    """An illegal move names the event and the state."""
    with pytest.raises(IllegalMoveError, match=f"'{event.value}' is illegal in state {state.value}"):
        advance(state, event)


def test_the_diagram_draws_every_move() -> None:
    """The picture in the docs has one arrow a row of the table."""
    assert diagram().count("-->") == len(TRANSITIONS) + 1
