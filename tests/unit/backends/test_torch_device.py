"""A device that torch models share, over a stand-in for CUDA: turns, copies beside computing, what goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from serving.backends.torch import DeviceModel
from serving.backends.torch_device import DeviceSettings, TorchDevice, TorchDevices
from serving.backends.torch_program import Program
from serving.errors import (
    BadRequestError,
    DeviceFailedError,
    InsufficientMemoryError,
    ModelFailedError,
    UnavailableError,
)
from serving.tensors import Signature, TensorSpec
from serving.workers.handler import Request
from tests.unit.backends.standin_device import FULL, ILLEGAL_ACCESS, StandInDriver
from tests.waiting import until

pytestmark = pytest.mark.torch

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def driver() -> StandInDriver:
    """A device with all the memory of the world."""
    return StandInDriver()


@pytest.fixture
def device(driver: StandInDriver) -> TorchDevice:
    """The device over it."""
    return TorchDevice(driver, DeviceSettings(timeout_s=10))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for requests."""
    with ThreadPoolExecutor(8) as threads:
        yield threads


def program(call: Callable[[Any], Any]) -> Program:
    """Make a program of a function of the tensor x."""
    signature = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("output", "FP32", (-1, 3)),))
    return Program(signature, lambda tensors: call(tensors["x"]))


def model_of(device: TorchDevice, call: Callable[[Any], Any]) -> DeviceModel:
    """Put a function on a device as the model m."""
    return DeviceModel("m", program(call), device, 0)


# --- a run


def test_a_run_goes_there_and_back(device: TorchDevice) -> None:
    """Outputs are arrays of their own, sparse and bfloat16 ones as numpy can have them."""
    import torch

    answers = device.run("m", program(lambda x: (x + 1, x.to_sparse(), x.to(torch.bfloat16), x.t(), x)), {"x": X})
    for name, wanted in zip(answers, (X + 1, X, X, X.T, X), strict=True):
        np.testing.assert_array_equal(answers[name], wanted)
        assert answers[name].dtype == np.float32
        assert answers[name].flags.owndata


def test_a_type_that_torch_has_not_is_a_bad_request(device: TorchDevice) -> None:
    """The message names input and model."""
    with pytest.raises(BadRequestError, match="Input 'x' of model 'm' is of type object"):
        device.run("m", program(lambda x: x), {"x": np.array(["a"], object)})


def test_one_thread_computes_and_one_run_at_a_time(
    device: TorchDevice, driver: StandInDriver, pool: ThreadPoolExecutor
) -> None:
    """Whoever asks: libraries keep handles and workspaces for each thread."""
    running, most = 0, 0

    def call(x: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        result = x * 2
        running -= 1
        return result

    runs = [pool.submit(device.run, f"m{number % 3}", program(call), {"x": X + number}) for number in range(40)]
    for number, run in enumerate(runs):
        np.testing.assert_array_equal(run.result(10)["output"], 2 * (X + number))
    assert (most, driver.computed_on) == (1, {"torch-cpu_0"})


def test_inputs_are_copied_while_another_model_computes(
    device: TorchDevice, driver: StandInDriver, pool: ThreadPoolExecutor
) -> None:
    """The copy stream does not wait for it."""
    gate = threading.Event()
    slow = pool.submit(device.run, "slow", program(lambda x: (gate.wait(10), x)[1]), {"x": X})
    until(lambda: driver.copies == 1)
    quick = pool.submit(device.run, "quick", program(lambda x: x), {"x": X})
    until(lambda: driver.copies == 2)
    assert not quick.done()
    gate.set()
    assert [len(run.result(10)) for run in (slow, quick)] == [1, 1]


def test_a_run_computes_with_inputs_that_have_arrived(
    device: TorchDevice, driver: StandInDriver, pool: ThreadPoolExecutor
) -> None:
    """Its stream waits for the copy's mark."""
    driver.gate.clear()
    run = pool.submit(device.run, "m", program(lambda x: x * 2), {"x": X})
    until(lambda: driver.copies == 1)
    driver.gate.set()
    np.testing.assert_array_equal(run.result(10)["output"], 2 * X)


def test_device_seconds_are_shared_fairly_between_models(
    device: TorchDevice, driver: StandInDriver, pool: ThreadPoolExecutor
) -> None:
    """After a long run of one, and those of it that have a place, the other goes first, whoever came before it."""
    order: list[str] = []
    gates: list[threading.Event] = []

    def ask(name: str, copies: int, waits: int) -> None:
        gates.append(gate := threading.Event())

        def call(x: Any) -> Any:
            order.append(name)
            assert gate.wait(10)
            return x

        pool.submit(device.run, name, program(call), {"x": X})
        until(lambda: (driver.copies, device.waiting) == (copies, waits))

    for copies in (1, 2, 3):
        ask("hot", copies, 0)
    for waits, name in enumerate(("hot", "hot", "cold", "cold"), 1):
        ask(name, 3, waits)

    def end(gate: threading.Event, copies: int) -> None:
        gate.set()
        until(lambda: driver.copies == copies)

    for gate, copies in zip(gates, (5, 7, 9), strict=False):  # its outputs come back, the next one's inputs go
        end(gate, copies)
    for gate in gates:
        gate.set()
    until(lambda: len(order) == 7)
    assert order[3:5] == ["cold", "cold"]


def test_runs_that_wait_have_nothing_on_the_device(
    device: TorchDevice, driver: StandInDriver, pool: ThreadPoolExecutor
) -> None:
    """Only a few have a place there; and what they hold is no weight of a model that is loaded meanwhile."""
    gate = threading.Event()
    runs = [pool.submit(device.run, "m", program(lambda x: (gate.wait(10), x)[1]), {"x": X}) for _ in range(7)]
    until(lambda: (driver.copies, device.waiting) == (3, 4))
    assert driver.allocated_bytes() == 3 * X.nbytes
    load = pool.submit(device.load, "new", weights(driver, 1000))
    until(lambda: device.waiting == 5)
    gate.set()
    assert load.result(10)[1] == 1000
    assert [len(run.result(10)) for run in runs] == [1] * 7
    assert driver.copies == 14


def test_a_run_that_gets_no_turn_in_time_is_a_503(device: TorchDevice, pool: ThreadPoolExecutor) -> None:
    """By the request's own deadline."""
    gate, has_begun = threading.Event(), threading.Event()

    def call(x: Any) -> Any:
        has_begun.set()
        assert gate.wait(10)
        return x

    held = pool.submit(device.run, "slow", program(call), {"x": X})
    assert has_begun.wait(10)
    model = model_of(device, lambda x: x)
    with pytest.raises(UnavailableError, match="cpu was not free within"):
        model.invoke(Request(tensors={"x": X}), time.monotonic() + 0.01)
    gate.set()
    assert held.result(10)


# --- full memory


def failing(times: int, error: Callable[[], Exception], calls: list[int]) -> Callable[[Any], Any]:
    """Return a network that fails so many times."""

    def call(x: Any) -> Any:
        calls.append(1)
        if len(calls) <= times:
            raise error()
        return x

    return call


def out_of_memory() -> Exception:
    """What torch's allocator raises."""
    import torch

    error: Exception = torch.OutOfMemoryError(FULL)
    return error


def quoted() -> Exception:
    """What TorchScript's interpreter makes of it."""
    return RuntimeError(
        f"The following operation failed in the TorchScript interpreter.\nTraceback\n  ...\nRuntimeError: {FULL}\n"
    )


@pytest.mark.parametrize("error", [out_of_memory, quoted])
def test_a_full_memory_is_trimmed_and_the_run_tried_once_more(
    device: TorchDevice, driver: StandInDriver, error: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """The caller notices nothing."""
    calls: list[int] = []
    model = model_of(device, failing(1, error, calls))
    np.testing.assert_array_equal(model.run({"x": X})["output"], X)
    assert (len(calls), driver.trims) == (2, 1)
    assert "event=device_full device=cpu model=m" in caplog.text


@pytest.mark.parametrize("error", [out_of_memory, quoted])
def test_a_memory_that_stays_full_is_the_requests_507(device: TorchDevice, error: Callable[[], Exception]) -> None:
    """And the next request is answered: nothing died."""
    calls: list[int] = []
    model = model_of(device, failing(2, error, calls))
    with pytest.raises(InsufficientMemoryError, match="Model 'm' found no memory for this request: .*smaller batch"):
        model.run({"x": X})
    assert model.run({"x": X})
    assert (len(calls), device.fault) == (3, "")


def test_a_cache_that_fills_the_device_makes_room_for_inputs() -> None:
    """What an earlier request left in the allocator's cache is no reason for 507."""
    driver = StandInDriver(capacity_bytes=100)
    model = model_of(TorchDevice(driver, DeviceSettings(timeout_s=10)), lambda x: x.clone())
    model.run({"x": np.ones((5, 3), np.float32)})
    assert driver.reserved_bytes() == 60
    model.run({"x": np.ones((7, 3), np.float32)})
    with pytest.raises(InsufficientMemoryError):
        model.run({"x": np.ones((9, 3), np.float32)})


def test_an_error_keeps_no_tensors(device: TorchDevice, driver: StandInDriver) -> None:
    """While it is told to the caller the device's memory is free."""
    with pytest.raises(InsufficientMemoryError) as told:
        model_of(device, failing(9, out_of_memory, [])).run({"x": X})
    assert told.value.__cause__ is not None
    assert driver.allocated_bytes() == 0


# --- other failures


def test_a_model_that_fails_is_a_failed_model(device: TorchDevice) -> None:
    """424, and the device goes on."""
    model = model_of(device, failing(1, lambda: RuntimeError("shapes do not match"), []))
    with pytest.raises(ModelFailedError, match="shapes do not match"):
        model.run({"x": X})
    assert model.run({"x": X})


def test_a_failed_run_ends_on_the_device_before_its_inputs_go(device: TorchDevice, driver: StandInDriver) -> None:
    """What it still computes must not find another's data there."""
    with pytest.raises(ModelFailedError):
        model_of(device, failing(1, lambda: RuntimeError("no"), [])).run({"x": X})
    assert driver.held_at_marks == [X.nbytes]


def lose(driver: StandInDriver) -> Callable[[Any], Any]:
    """Return a network that reads where it may not."""

    def call(_: Any) -> Any:
        import torch

        driver.is_lost = True
        raise torch.AcceleratorError(ILLEGAL_ACCESS)

    return call


def test_a_lost_device_is_500_for_everyone_on_it(
    device: TorchDevice, driver: StandInDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """For the model that did it, for its neighbours and for loads; the device says why, once and for ever."""
    neighbour = model_of(device, lambda x: x)
    with pytest.raises(DeviceFailedError, match="illegal memory access.*restart the container") as told:
        model_of(device, lose(driver)).run({"x": X})
    assert (told.value.status, told.value.has_run) == (500, True)
    driver.is_lost = False
    for ask in (lambda: neighbour.run({"x": X}), lambda: device.load("n", lambda _: program(lambda x: x))):
        with pytest.raises(DeviceFailedError, match="The device cpu failed"):
            ask()
    assert device.fault == "CUDA error: an illegal memory access was encountered"
    assert "event=device_lost device=cpu" in caplog.text


def test_a_lost_device_does_not_keep_its_models_from_being_unloaded(device: TorchDevice, driver: StandInDriver) -> None:
    """The process gives everything back at its end."""
    model = model_of(device, lambda x: x)
    driver.is_lost = True
    model.close()
    with pytest.raises(UnavailableError, match="Model 'm' is closed"):
        model.run({"x": X})


# --- loads


def weights(driver: StandInDriver, count: int) -> Callable[[str], Program]:
    """Return what makes a program that holds `count` bytes of the device."""

    def make(name: str) -> Program:
        import torch

        assert name == driver.name
        held = driver.empty((count,), torch.uint8)
        scratch = driver.empty((count,), torch.uint8)
        del scratch
        return program(lambda x: x + held.numel())

    return make


def test_a_load_says_what_it_holds_on_the_device(device: TorchDevice, driver: StandInDriver) -> None:
    """Weights alone: what it used meanwhile is trimmed; and its close gives them back to the driver."""
    loaded, count = device.load("m", weights(driver, 1000))
    assert (count, driver.reserved_bytes()) == (1000, 1000)
    model = DeviceModel("m", loaded, device, count)
    assert (model.device_bytes(), model.run({"x": X})["output"][0, 0]) == (1000, 1000)
    del loaded
    model.close()
    assert driver.reserved_bytes() == 0


def test_loads_beside_each_other_are_told_apart(
    device: TorchDevice, driver: StandInDriver, pool: ThreadPoolExecutor
) -> None:
    """One at a time on a device."""
    loads = [pool.submit(device.load, "m", weights(driver, 1000 * number)) for number in range(1, 5)]
    assert [load.result(10)[1] for load in loads] == [1000, 2000, 3000, 4000]


def test_a_load_is_tried_once_more_without_the_cache() -> None:
    """What requests left there is no reason for 507."""
    driver = StandInDriver(capacity_bytes=2500)
    device = TorchDevice(driver, DeviceSettings(timeout_s=10))
    device.run("other", program(lambda x: x), {"x": np.ones((100, 3), np.float32)})
    assert device.load("m", weights(driver, 1000))[1] == 1000


def test_a_load_that_fails_leaves_nothing_on_the_device() -> None:
    """Neither tensors nor cache."""
    driver = StandInDriver(capacity_bytes=1500)
    device = TorchDevice(driver, DeviceSettings(timeout_s=10))
    with pytest.raises(Exception, match="CUDA out of memory"):
        device.load("m", weights(driver, 1000))
    assert driver.reserved_bytes() == 0


def test_a_load_that_cannot_be_counted_leaves_nothing_on_the_device(
    driver: StandInDriver, pool: ThreadPoolExecutor
) -> None:
    """A run that does not end leaves it no moment for that."""
    device = TorchDevice(driver, DeviceSettings(timeout_s=0.5))
    gate, has_begun = threading.Event(), threading.Event()

    def call(x: Any) -> Any:
        has_begun.set()
        assert gate.wait(10)
        return x

    def make(name: str) -> Program:
        made = weights(driver, 1000)(name)
        running.append(pool.submit(device.run, "slow", program(call), {"x": X}))
        assert has_begun.wait(10)
        return made

    running: list[Any] = []
    with pytest.raises(UnavailableError, match="cpu was not free within"):
        device.load("m", make)
    assert driver.reserved_bytes() == X.nbytes
    gate.set()
    assert running[0].result(10)


# --- several devices


def test_devices_are_opened_with_their_first_model_and_tell_which_is_lost() -> None:
    """One of two that is lost is a fault of the process."""
    drivers = {0: StandInDriver(), 1: StandInDriver()}
    devices = TorchDevices(drivers.__getitem__, DeviceSettings(timeout_s=10))
    assert dict(devices.opened) == {}
    assert devices.device(1) is devices.device(1)
    assert (list(devices.opened), devices.fault) == ([1], "")
    drivers[1].is_lost = True
    with pytest.raises(DeviceFailedError):
        devices.device(1).run("m", program(lambda x: x), {"x": X})
    assert devices.device(0).run("m", program(lambda x: x), {"x": X})
    assert devices.fault == "cpu: CUDA error: an illegal memory access was encountered"
