"""A GPU as torch models share it: whose turn it is, how a run goes there and back, and what its failures mean.

A run, on the request's thread but for 3:
1. It takes one of a few places: only so many have tensors on the device, those who wait have none there. Where runs
   wait, the model that used the fewest device seconds goes next.
2. Inputs go to the device on the copy stream, beside what other models compute.
3. The device's one thread computes, one run after the other: cuBLAS and cuDNN keep handles and workspaces for every
   thread that ever ran. (Loads compute their samples on threads of their own, on the same stream.)
4. Outputs come back on the copy stream, while the next run computes.

A full memory: torch's cache is trimmed and the run tried once more; then it is the request's 507. Any other error: the
device is asked whether it still answers. Where it does, the model failed; where not, its context is lost to the whole
process for ever, and so everything on it is 500 and the server is unhealthy (`fault`).
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from serving.backends.staging import Copier, Mark, Staging
from serving.backends.torch_errors import is_out_of_memory, summary
from serving.backends.torch_program import Program, TorchTensors
from serving.cores import CoreBudget
from serving.errors import BadRequestError, DeviceFailedError, ServingError, UnavailableError
from serving.logs import quoted
from serving.tensors import Tensors

log = logging.getLogger("wharf.backends.torch")

Result = TypeVar("Result")

# One on its way there, one that computes, one on its way back.
_PLACES = 3


class Driver(Copier, Protocol):
    """What CUDA does for a device; `torch_cuda` has it."""

    name: str

    def computing(self) -> AbstractContextManager[None]:
        """Have this thread's operations go to the compute stream for the length of a `with`."""

    def compute_after(self, mark: Mark) -> None:
        """Have the compute stream wait for a mark; this thread goes on."""

    def computed(self) -> Mark:
        """Return the mark of all that the compute stream was given so far."""

    def synchronize(self) -> None:
        """Wait for all streams; raises what went wrong on them since."""

    def trim(self) -> None:
        """Give what torch's allocator caches back to the driver."""

    def allocated_bytes(self) -> int:
        """Return what tensors hold on the device, by torch's allocator."""

    def reserved_bytes(self) -> int:
        """Return what torch's allocator holds on the device, its cache included."""


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """Pinned memory for copies, in bytes, and the longest wait for a place where nobody gave a deadline."""

    pinned_bytes: int = 64 << 20
    timeout_s: float = 60.0


class TorchDevice:
    """One device of this process."""

    def __init__(self, driver: Driver, settings: DeviceSettings) -> None:
        self.name = driver.name
        self._driver = driver
        self._settings = settings
        self._staging = Staging(driver, settings.pinned_bytes, settings.timeout_s)
        self._lacking = f"{self.name} was not free within {{:g}} s: try again or add a GPU."
        self._places = CoreBudget(_PLACES, lacking=self._lacking)
        self._computer = ThreadPoolExecutor(1, f"torch-{self.name}")
        self._loading = threading.Lock()
        self._fault = ""

    @property
    def fault(self) -> str:
        """Why nothing can be computed here any more; empty while it can."""
        return self._fault

    @property
    def waiting(self) -> int:
        """How many runs wait for a place."""
        return self._places.waiting

    def run(self, model: str, program: Program, inputs: Tensors, deadline: float | None = None) -> Tensors:
        """Compute the outputs by name, as arrays of their own.

        Raises `BadRequestError` for a dtype that torch has not, `UnavailableError` where it has not begun at `deadline`
        (of the monotonic clock), `DeviceFailedError` when the device is lost, and what torch or the program raise.
        """
        deadline = time.monotonic() + self._settings.timeout_s if deadline is None else deadline
        return self._twice(model, lambda: self._once(model, program, inputs, deadline))

    def load(self, model: str, make: Callable[[str], Program]) -> tuple[Program, int]:
        """Return what `make` makes on the device of that name, and the bytes that it holds there.

        One at a time: what the allocator holds more is this load's. Raises what `make` raises, `DeviceFailedError`, and
        `UnavailableError` where runs leave it no moment to count.
        """
        with self._loading:
            before = self._settled_bytes(model)
            program = None
            try:
                program = self._twice(model, lambda: self._made(make))
                after = self._settled_bytes(model)
            except Exception:
                program = None
                self.release()
                raise
            # Tensors, or what the allocator took for them: a segment is 2 or 20 MiB.
            return program, max(0, *(now - then for now, then in zip(after, before, strict=True)))

    def release(self) -> None:
        """Give back what a dropped program held, so that the driver sees it; nothing must refer to the program."""
        gc.collect()
        with suppress(Exception):  # a device that is lost gives everything back with the process
            self._driver.synchronize()
            self._driver.trim()
        log.info("event=device_trimmed device=%s reserved_bytes=%d", self.name, self._reserved_bytes())

    def _made(self, make: Callable[[str], Program]) -> Program:
        with self._driver.computing():
            return make(self.name)

    def _settled_bytes(self, model: str) -> tuple[int, int]:
        """Return what is allocated and what reserved while no run has a place: its tensors are nobody's weights."""
        with self._places.lease(_PLACES, self._settings.timeout_s, model):
            self._answers()
            self._driver.trim()
            return self._driver.allocated_bytes(), self._driver.reserved_bytes()

    def _reserved_bytes(self) -> int:
        try:
            return self._driver.reserved_bytes()
        except Exception:
            return -1

    def _twice(self, model: str, work: Callable[[], Result]) -> Result:
        """Return what `work` returns, tried again after a full memory."""
        found = self._tried(work)
        if isinstance(found, _Failure) and is_out_of_memory(found.error):
            self._answers()
            gc.collect()
            self._driver.trim()
            log.warning("event=device_full device=%s model=%s reserved_bytes=%d action=retried", self.name,
                        quoted(model), self._reserved_bytes())  # fmt: skip
            found = self._tried(work)
        if not isinstance(found, _Failure):
            return found
        if not isinstance(found.error, ServingError):
            self._answers()
        raise found.error

    def _tried(self, work: Callable[[], Result]) -> Result | _Failure:
        if self._fault:
            raise self._lost()
        try:
            return work()
        except Exception as error:
            # The frames of a traceback hold tensors, and those the device's memory.
            return _Failure(error.with_traceback(None))

    def _once(self, model: str, program: Program, inputs: Tensors, deadline: float) -> Tensors:
        import torch

        place = self._places.lease(1, max(0.0, deadline - time.monotonic()), model)
        with torch.inference_mode(), place:
            placed, marks = self._upload(model, inputs)

            def compute() -> TorchTensors:
                place.begin()
                return self._compute(program, placed, marks)

            outputs: TorchTensors = {}
            try:
                outputs = self._in_turn(compute, deadline)
                return {name: self._staging.download(tensor) for name, tensor in outputs.items()}
            finally:  # whoever still knows of them: with the place goes what was on the device
                placed.clear()
                outputs.clear()

    def _in_turn(self, compute: Callable[[], TorchTensors], deadline: float) -> TorchTensors:
        computing = self._computer.submit(compute)
        timeout_s = max(0.0, deadline - time.monotonic())
        if not wait([computing], timeout_s).done and computing.cancel():  # it has not begun
            raise UnavailableError(self._lacking.format(timeout_s))
        return computing.result()

    def _upload(self, model: str, inputs: Tensors) -> tuple[TorchTensors, list[Mark]]:
        placed: TorchTensors = {}
        marks = []
        for name, array in inputs.items():
            try:
                placed[name], mark = self._staging.upload(array)
            except TypeError as error:
                raise BadRequestError(
                    f"Input '{name}' of model '{model}' is of type {array.dtype} and torch has no such type: "
                    "send numbers."
                ) from error
            if mark is not None:
                marks.append(mark)
        return placed, marks

    def _compute(self, program: Program, placed: TorchTensors, marks: list[Mark]) -> TorchTensors:
        import torch

        with torch.inference_mode(), self._driver.computing():
            for mark in marks:
                self._driver.compute_after(mark)
            try:
                return {name: plain(tensor).contiguous() for name, tensor in program(placed).items()}
            finally:
                # Until then the turn is held, as device seconds are what it really took; and its inputs are, even where
                # it failed: what it still runs must not find another's tokens in their place.
                self._driver.computed().synchronize()

    def _answers(self) -> None:
        """Wait for the device; raises `DeviceFailedError` where it does not answer, now and from then on."""
        if self._fault:
            raise self._lost()
        try:
            self._driver.synchronize()
        except Exception as error:
            self._fault = summary(error)
            log.critical("event=device_lost device=%s reason=%r", self.name, self._fault)
        if self._fault:
            raise self._lost()

    def _lost(self) -> DeviceFailedError:
        return DeviceFailedError(
            f"The device {self.name} failed ({self._fault}) and this process can use it no more: restart the container "
            "(/ping says so, too)."
        )


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception


class TorchDevices:
    """The devices of this process by number, each made with its first model."""

    def __init__(self, open_driver: Callable[[int], Driver], settings: DeviceSettings) -> None:
        self._open_driver = open_driver
        self._settings = settings
        self._lock = threading.Lock()
        self._devices: dict[int, TorchDevice] = {}

    def device(self, index: int) -> TorchDevice:
        """Return a device; raises what its driver raises."""
        with self._lock:
            if index not in self._devices:
                self._devices[index] = TorchDevice(self._open_driver(index), self._settings)
            return self._devices[index]

    @property
    def opened(self) -> Mapping[int, TorchDevice]:
        """The devices that models came to."""
        return dict(self._devices)

    @property
    def fault(self) -> str:
        """Why a device is of no use any more; empty while all are."""
        return "; ".join(f"{each.name}: {each.fault}" for each in self.opened.values() if each.fault)


def plain(tensor: Any) -> Any:
    """Return a tensor as numpy can have it: dense, without a gradient, of a type that numpy knows."""
    import torch

    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float()
    return tensor.detach()
