"""Pinned buffers: arrays there and back, within a budget, none overwritten while it is read."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.backends.staging import BUFFER_BYTES, Staging
from serving.errors import UnavailableError
from tests.unit.backends.standin_device import StandInDriver
from tests.waiting import until

pytestmark = pytest.mark.torch

RANDOM = np.random.default_rng(0)
LARGE = RANDOM.integers(0, 256, 3 * BUFFER_BYTES + 5, np.uint8)


@pytest.mark.parametrize(
    "array",
    [
        np.float32(3.5) * np.ones(()),
        np.zeros((0, 4), np.float32),
        RANDOM.standard_normal((7, 3)).astype(np.float16),
        RANDOM.integers(0, 9, (4, 5))[::2, ::-1],
        np.array([[True, False]]),
        np.arange(5, dtype=np.uint16),
        LARGE,
    ],
    ids=["a number", "nothing", "half", "strided", "bool", "uint16", "more than a buffer"],
)
def test_an_array_comes_back_as_it_went(array: np.ndarray) -> None:
    """Whatever its shape, type and size; in memory of its own."""
    driver = StandInDriver()
    staging = Staging(driver, 0, 10)
    tensor, mark = staging.upload(array)
    assert (mark is None) == (array.size == 0)
    if mark is not None:
        mark.synchronize()
    back = staging.download(tensor)
    np.testing.assert_array_equal(back, array)
    assert (back.dtype, back.shape, back.flags.owndata) == (array.dtype, array.shape, True)


def test_an_array_may_be_changed_as_soon_as_its_copy_has_begun() -> None:
    """It lies in a buffer then, whenever the device comes to it."""
    driver = StandInDriver()
    driver.gate.clear()
    array = np.ones(4, np.float32)
    tensor, mark = Staging(driver, 0, 10).upload(array)
    array[:] = 2
    driver.gate.set()
    assert mark is not None
    mark.synchronize()
    assert tensor.tolist() == [1, 1, 1, 1]


def test_a_buffer_is_not_filled_again_before_its_copy_ended() -> None:
    """Four pieces through two buffers: the third waits while the device is held, and all come out right."""
    driver = StandInDriver()
    driver.gate.clear()
    staging = Staging(driver, 2 * BUFFER_BYTES, 10)
    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(staging.upload, LARGE)
        until(lambda: driver.copies == 2)
        assert not upload.done()
        driver.gate.set()
        tensor, mark = upload.result(10)
    assert mark is not None
    mark.synchronize()
    np.testing.assert_array_equal(tensor.numpy(), LARGE)


def test_no_more_is_pinned_than_the_budget_says() -> None:
    """With eight callers at once; the rest take turns."""
    driver = StandInDriver()
    staging = Staging(driver, 3 * BUFFER_BYTES, 10)
    arrays = [np.full(BUFFER_BYTES + 1, number, np.uint8) for number in range(8)]

    def there_and_back(array: np.ndarray) -> bool:
        tensor, mark = staging.upload(array)
        assert mark is not None
        mark.synchronize()
        return bool((staging.download(tensor) == array).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, arrays))
    assert driver.pinned_bytes == staging.pinned_bytes == 3 * BUFFER_BYTES


def test_nothing_is_pinned_before_it_is_needed() -> None:
    """A server whose models stay on the CPU pays nothing."""
    driver = StandInDriver()
    Staging(driver, 1 << 30, 10)
    assert driver.pinned_bytes == 0


def test_a_buffer_that_does_not_come_free_is_a_503() -> None:
    """Nothing hangs behind a device that does not copy."""
    driver = StandInDriver()
    driver.gate.clear()
    staging = Staging(driver, 0, 0.01)
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(staging.upload, LARGE) for _ in range(2)]
        until(lambda: driver.copies == 2)
        until(lambda: _is_refused(staging))
        driver.gate.set()
        for each in held:
            # They too met buffers that were not free: their own limit is as short.
            assert each.exception(10) is None or isinstance(each.exception(), UnavailableError)


def _is_refused(staging: Staging) -> bool:
    try:
        staging.upload(np.ones(1))
    except UnavailableError as error:
        assert "WHARF_PINNED_MEMORY" in str(error)
        return True
    return False


def test_memory_that_cannot_be_pinned_serves_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """Copies are slower then, and the log says so."""
    driver = StandInDriver()
    driver.can_pin = False
    staging = Staging(driver, 0, 10)
    tensor, mark = staging.upload(np.arange(3))
    assert mark is not None
    mark.synchronize()
    assert staging.download(tensor).tolist() == [0, 1, 2]
    assert "event=not_pinned" in caplog.text


def test_a_type_that_torch_has_not_is_a_type_error() -> None:
    """Before anything is copied."""
    driver = StandInDriver()
    with pytest.raises(TypeError):
        Staging(driver, 0, 10).upload(np.array(["a"], object))
    assert driver.copies == 0


def test_threads_share_the_buffers_without_mixing_them() -> None:
    """Many small arrays through two buffers."""
    staging, lock, wrong = Staging(StandInDriver(), 0, 10), threading.Lock(), []

    def client(number: int) -> None:
        for size in range(1, 60):
            array = np.full(size, number, np.int64)
            tensor, mark = staging.upload(array)
            assert mark is not None
            mark.synchronize()
            if staging.download(tensor).tolist() != array.tolist():
                with lock:
                    wrong.append((number, size))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(client, range(6)))
    assert wrong == []
