"""A context told apart from models: the a of a + b*n."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.contexts import Context, fit

MIB = 1 << 20
GROWTHS_MIB = (1047, 271, 271, 271)
"""ResNet-50 by libtorch on a T4 (AWS' own rerun): the first brings the context along."""


@given(a=st.integers(0, 1000), b=st.integers(0, 5), sizes=st.lists(st.integers(1, 1000), min_size=2, max_size=10))
def test_a_line_through_exact_points_is_found(a: int, b: int, sizes: list[int]) -> None:
    """Whatever the models' sizes."""
    points = [(x, a + b * x) for x in itertools.accumulate(sizes)]
    assert list(fit(points)) == pytest.approx([a, b], abs=1e-3)


def test_the_seeds_figures_give_the_context_of_the_seeds_card() -> None:
    """Known after the second copy, and no more moved by further ones."""
    context, found = Context(), []
    for grown in GROWTHS_MIB:
        context.add(98 * MIB, grown * MIB)
        found.append(round(context.brought_bytes / MIB))
    assert found == [949, 776, 776, 776]


def test_one_load_is_taken_at_its_word() -> None:
    """What grew beyond the expected bytes is the context's until more is known."""
    context = Context()
    assert (context.is_new, context.bytes) == (True, 0)
    context.add(100, 130)
    assert (context.is_new, context.bytes, context.guessed_bytes) == (False, 30, 30)


def test_a_model_smaller_than_expected_makes_no_context_below_nothing() -> None:
    """It is booked with three quarters of that, at least."""
    context = Context()
    context.add(100, 70)
    assert context.bytes == 0
    context.add(100, 1)
    assert context.bytes == 0


@pytest.mark.parametrize("grown", [0, -900])
def test_a_load_whose_growth_is_hidden_says_nothing(grown: int) -> None:
    """A cache was trimmed meanwhile: the first model does not become context."""
    context = Context()
    context.add(100, 600)
    context.add(100, grown)
    assert context.bytes == 500


def test_a_tiny_model_does_not_tell_how_the_line_ends_far_away() -> None:
    """1 MiB that took a segment of 20; many of them do."""
    context = Context()
    context.add(100, 600)
    context.add(1, 20)
    assert context.bytes == 500
    for _ in range(10):
        context.add(10, 20)
    assert context.bytes == pytest.approx(400, abs=10)


def test_where_a_model_counts_its_bytes_the_rest_is_the_context() -> None:
    """No line: what later ones do, beside warm caches, says nothing of it."""
    context = Context()
    context.count(100, 600)
    for grown in (-900, 20, 5000):
        context.count(100, grown)
    assert (context.bytes, context.guessed_bytes) == (500, 0)


def test_what_was_there_before_comes_on_top() -> None:
    """A runtime that makes its context at its start."""
    context = Context()
    context.counted_bytes = 50
    context.add(100, 100)
    assert context.bytes == 50


def test_a_context_that_was_found_already_is_not_brought_again() -> None:
    """Two loads side by side: it is noted; what the next one adds is its own."""
    for add in (Context.add, Context.count):
        context = Context()
        context.noted_bytes = 50
        add(context, 100, 130)
        add(context, 100, 130)
        assert (context.is_new, context.bytes, context.guessed_bytes) == (False, 50, 50)


def test_a_reading_without_models_goes_before_all_guesses() -> None:
    """Where nothing is left the next model may bring it."""
    context = Context()
    context.add(100, 130)
    context.settle(10)
    context.add(100, 500)
    assert (context.bytes, context.guessed_bytes) == (10, 0)
    context.settle(0)
    assert (context.is_new, context.bytes) == (True, 0)


def test_loads_after_the_first_ones_change_it_no_more() -> None:
    """A hundredth copy that runs beside a large batch is no news of the context."""
    context = Context()
    for _ in range(20):
        context.add(10, 10)
    context.add(10, 10_000)
    assert context.bytes == 0


def test_models_without_bytes_say_nothing_of_the_slope() -> None:
    """No division by nothing."""
    context = Context()
    context.add(0, 40)
    context.add(0, 0)
    assert context.bytes == 40
