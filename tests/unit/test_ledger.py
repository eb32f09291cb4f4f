"""Reservations against the budget."""

from __future__ import annotations

import pytest

from serving.errors import InsufficientMemoryError
from serving.ledger import Ledger, format_bytes


def test_a_reservation_takes_from_the_budget_until_it_is_released() -> None:
    """Reserve, correct and release keep the sum right."""
    ledger = Ledger(100)
    ledger.reserve("a", 60)
    ledger.correct("a", 50)

    assert (ledger.used_bytes, ledger.free_bytes, dict(ledger.reservations)) == (50, 50, {"a": 50})
    assert ledger.release("a") == 50
    assert (ledger.used_bytes, ledger.release("a")) == (0, 0)


def test_what_does_not_fit_now_is_refused_with_both_figures_and_changes_nothing() -> None:
    """507 names what is wanted and what is free."""
    ledger = Ledger(3 << 20)
    ledger.reserve("a", 2 << 20)

    with pytest.raises(
        InsufficientMemoryError, match=r"'b' needs 2\.0 MiB while it loads and the budget of 3\.0 MiB has 1\.0 MiB free"
    ):
        ledger.reserve("b", 2 << 20)
    assert dict(ledger.reservations) == {"a": 2 << 20}


def test_what_can_never_fit_says_so() -> None:
    """A model over the whole budget is told apart from one that must wait."""
    with pytest.raises(InsufficientMemoryError, match=r"101 B while it loads and the whole budget is 100 B"):
        Ledger(100).check_possible("big", 101)


def test_a_correction_may_pass_the_budget() -> None:
    """The memory is in use already; the ledger says by how much."""
    ledger = Ledger(100)
    ledger.reserve("a", 90)
    ledger.correct("a", 120)

    assert ledger.free_bytes == -20
    assert ledger.missing_bytes(10) == 30


def test_a_correction_without_a_reservation_is_a_bug() -> None:
    """Nothing is counted that was never reserved."""
    with pytest.raises(KeyError):
        Ledger(100).correct("ghost", 1)


def test_runtimes_are_paid_from_a_share_of_the_container_only() -> None:
    """A budget in bytes is for models; a share of the container also pays for torch."""
    exact, share = Ledger(100), Ledger(100, pays_for_runtimes=True)
    for ledger in (exact, share):
        ledger.runtime_grew(30)

    assert (exact.budget_bytes, share.budget_bytes) == (100, 70)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_288_490_189, "1.2 GiB"), (-2048, "-2.0 KiB")],
)
def test_bytes_are_written_for_people(count: int, text: str) -> None:
    """Units are powers of 1,024."""
    assert format_bytes(count) == text
