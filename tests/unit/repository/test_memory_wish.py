"""What a load must find free: at least what is needed, and what is to stay free beside it."""

from __future__ import annotations

import pytest

from serving.repository.memory_wish import NO_WISH, MemoryWish


@pytest.mark.parametrize(
    ("wish", "host", "device"),
    [
        (NO_WISH, 10, 5),
        (MemoryWish(30, 0, 40, 0), 30, 40),
        (MemoryWish(3, 0, 4, 0), 10, 5),
        (MemoryWish(0, 7, 0, 8), 17, 13),
        (MemoryWish(30, 7, 40, 8), 37, 48),
    ],
)
def test_a_wish_raises_the_peak_and_never_lowers_it(wish: MemoryWish, host: int, device: int) -> None:
    """Of a model that is predicted to take 10 on the host and 5 on a device."""
    assert (wish.peak(10), wish.device_peak(5)) == (host, device)


def test_a_model_without_a_device_wants_nothing_of_one() -> None:
    """Whatever its file says of GPUs."""
    assert MemoryWish(0, 0, 40, 8).device_peak(0) == 0
