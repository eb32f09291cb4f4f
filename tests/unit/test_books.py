"""The host's ledger and the devices' as one."""

from __future__ import annotations

import pytest

from serving.books import Books, Demand
from serving.devices import NOWHERE, Placement
from serving.errors import InsufficientMemoryError, InvalidArtifactError
from serving.ledger import Ledger, Wording


def books(host: int = 100, *devices: int) -> Books:
    """Books of such budgets."""
    named = {
        index: Ledger(count, wording=Wording(f" of cuda:{index}", "lower it", "use a larger device"))
        for index, count in enumerate(devices)
    }
    return Books(Ledger(host), named)


def held(of: Books, name: str) -> list[int]:
    """What a model holds in all books, the devices' first."""
    return [each.reservations.get(name, 0) for each in of.all]


def test_a_load_is_put_where_there_is_most_room() -> None:
    """And is in both books."""
    all_books = books(100, 50, 60)
    assert all_books.reserve("a", Demand(10, 40)) == Placement((1,))
    assert all_books.reserve("b", Demand(10, 40)) == Placement((0,))
    assert (held(all_books, "a"), held(all_books, "b")) == ([0, 40, 10], [40, 0, 10])


def test_of_equal_devices_it_is_the_first() -> None:
    """So that runs can be repeated."""
    assert books(100, 50, 50).reserve("a", Demand(10, 40)) == Placement((0,))


def test_a_load_without_bytes_on_a_device_is_nowhere() -> None:
    """Also where one with such bytes finds no device known: the backend's own business."""
    assert books(100, 50).reserve("a", Demand(10)) == NOWHERE
    assert books(100).reserve("b", Demand(10, 5)) == NOWHERE


def test_a_load_that_names_devices_is_on_all_of_them() -> None:
    """Or nowhere, where one of them is full."""
    all_books = books(100, 50, 50, 50)
    assert all_books.reserve("a", Demand(10, 40, (0, 2))) == Placement((0, 2))
    assert held(all_books, "a") == [40, 0, 40, 10]
    with pytest.raises(InsufficientMemoryError, match=r"'b' needs 20 B of cuda:2"):
        all_books.reserve("b", Demand(10, 20, (1, 2)))
    assert held(all_books, "b") == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("demand", "said"),
    [
        (Demand(30, 10), "'b' needs 30 B while it loads and the budget of 100 B has 20 B free: unload a model or"),
        (Demand(10, 30), "'b' needs 30 B of cuda:0 while it loads and the budget of 50 B has 10 B free: unload"),
        (Demand(10, 51), "'b' needs 51 B of cuda:0 while it loads and the whole budget is 50 B: lower it or use"),
        (Demand(101, 5), "'b' needs 101 B while it loads and the whole budget is 100 B: raise WHARF_MEMORY_BUDGET or"),
    ],
)
def test_what_does_not_fit_changes_nothing_and_says_where(demand: Demand, said: str) -> None:
    """507, with the figures of the book that is too small."""
    all_books = books(100, 50)
    all_books.reserve("a", Demand(80, 40))
    with pytest.raises(InsufficientMemoryError, match=said):
        all_books.reserve("b", demand)
    assert (held(all_books, "b"), held(all_books, "a")) == ([0, 0], [40, 80])


def test_of_what_fits_on_no_device_the_largest_is_named() -> None:
    """That is the one to enlarge."""
    with pytest.raises(InsufficientMemoryError, match="of cuda:1 .* budget is 60 B"):
        books(100, 50, 60, 40).check_possible("a", Demand(1, 70))


def test_devices_that_are_too_small_are_no_choice() -> None:
    """Even where they have the most room."""
    all_books = books(100, 50, 90)
    all_books.reserve("a", Demand(1, 60))
    assert all_books.check_possible("b", Demand(1, 55)) == [Placement((1,))]


def test_a_device_that_is_not_there_is_the_configurations_fault() -> None:
    """400, with those that are."""
    with pytest.raises(InvalidArtifactError, match=r"device 3 and there are \[0\]: correct its configuration"):
        books(100, 50).reserve("a", Demand(1, 1, (3,)))


def test_a_release_is_in_all_books() -> None:
    """A correction may pass a budget; the books say so."""
    all_books = books(100, 50)
    all_books.reserve("a", Demand(10, 40))
    assert not all_books.is_over
    all_books.devices[0].correct("a", 60)
    assert (held(all_books, "a"), all_books.is_over) == ([60, 10], True)
    all_books.release("a")
    assert (held(all_books, "a"), all_books.is_over) == ([0, 0], False)
