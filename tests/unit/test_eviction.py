"""Exact LRU as a pure function."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.eviction import Candidate, lru

candidates = st.lists(
    st.builds(Candidate, st.text(min_size=1), st.integers(0, 1000), st.integers(1, 10**9)),
    unique_by=lambda each: each.last_used,
)


def test_nothing_wanted_means_nobody_goes() -> None:
    """A fit needs no victims."""
    assert lru([Candidate("a", 10, 1)], 0) == ()


def test_the_least_recently_used_goes_first() -> None:
    """Order of use decides, not size."""
    old, new = Candidate("old", 10, 1), Candidate("new", 10, 2)

    assert lru([new, old], 10) == (old,)


def test_nobody_goes_in_vain() -> None:
    """When all of them together do not suffice, all of them stay."""
    assert lru([Candidate("a", 10, 1), Candidate("b", 10, 2)], 21) is None


@given(candidates, st.integers(0, 5000))
def test_victims_are_the_shortest_sufficient_run_of_the_oldest(given_: list[Candidate], wanted: int) -> None:
    """They free enough, without the last of them they would not, and no older candidate stays."""
    victims = lru(given_, wanted)
    if victims is None:
        assert sum(each.bytes for each in given_) < wanted
        return

    oldest_first = sorted(given_, key=lambda each: each.last_used)
    assert list(victims) == oldest_first[: len(victims)]
    assert sum(each.bytes for each in victims) >= wanted
    assert not victims or sum(each.bytes for each in victims[:-1]) < wanted
