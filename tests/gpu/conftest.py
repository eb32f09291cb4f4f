"""Cards for the tests: fake ones always, a real GPU where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.cards import Cards, FakeCards, RealCards


@pytest.fixture(params=["fake", "real"])
def cards(request: pytest.FixtureRequest, tmp_path: Path) -> Cards:
    """One card with room for 24 units and more; the real one is skipped with the reason."""
    if request.param == "fake":
        return FakeCards(tmp_path)
    if why := RealCards.why_not():
        pytest.skip(f"no GPU here: {why}")
    return RealCards()
