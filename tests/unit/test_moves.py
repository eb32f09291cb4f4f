"""A growth of memory is one's own only where nobody else moved."""

from __future__ import annotations

from serving.moves import Moves


def test_memory_stood_still_only_for_a_move_that_was_alone() -> None:
    """A move before is over, one meanwhile or at the start disturbs, even one that has ended."""
    moves = Moves()
    with moves.move():
        pass
    with moves.move() as alone:
        assert moves.stood_still(alone)
        with moves.move() as beside:
            assert not moves.stood_still(beside)
        assert not moves.stood_still(alone)
