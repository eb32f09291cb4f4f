"""The torch backend: TorchScript and exported programs, run in this process, on the CPU or on a GPU.

Knows how numpy meets torch without a copy, and which models go to a device. What is in the files is the business of
`torchscript` and `torch_export`, what they weigh that of `torch_footprint`, what errors mean that of `torch_errors`;
who runs where is said by `threads` on the CPU and by `torch_device` on a GPU. The manager calls it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from serving.backends.base import Footprint, InProcessBackend, InProcessModel, LoadedModel
from serving.backends.threads import TorchThreads, threads_for
from serving.backends.torch_cuda import open_cuda
from serving.backends.torch_device import DeviceSettings, TorchDevice, TorchDevices, plain
from serving.backends.torch_errors import is_of_device, is_out_of_memory, run_error, summary
from serving.backends.torch_export import load_exported
from serving.backends.torch_footprint import on_device, on_host
from serving.backends.torch_program import Program
from serving.backends.torchscript import load_torchscript
from serving.errors import (
    BadRequestError,
    InsufficientMemoryError,
    InvalidArtifactError,
    LoadFailedError,
    ServingError,
    UnavailableError,
)
from serving.repository.layouts import ModelSpec
from serving.tensors import Array, Signature, Tensors
from serving.workers.handler import Reply, Request

# What torch's readers raise about the bytes of a file.
_BAD_FILE = (RuntimeError, ValueError, KeyError, AssertionError)

_READ_AHEAD_BYTES = 1 << 20


class TorchModel(InProcessModel):
    """A torch program that is ready to run on the CPU."""

    def __init__(self, spec: ModelSpec, program: Program, threads: int, pool: TorchThreads) -> None:
        self._name = spec.name
        self._bytes = spec.bytes
        self._program: Program | None = program
        self._threads = threads
        self._pool = pool
        self._signature = program.signature

    @property
    def signature(self) -> Signature:
        """Inputs and outputs; outputs are empty where neither the file nor a sample run tells them."""
        return self._signature

    @property
    def threads(self) -> int:
        """CPU threads that one run uses."""
        return self._threads

    def run(self, inputs: Tensors) -> Tensors:
        """Compute the outputs by name, on this thread or on a compute thread.

        Arrays of the caller are read in place: a model that writes to its inputs writes to them. Raises
        `BadRequestError` for a type that torch has not; `ModelFailedError`, `InsufficientMemoryError` as `base` says.
        """
        program = _open(self._name, self._program)
        return self._pool.run(self._threads, self._bytes, lambda: self._compute(program, inputs))

    def close(self) -> None:
        """Let go of the program."""
        self._program = None

    def _compute(self, program: Program, inputs: Tensors) -> Tensors:
        import torch

        try:
            with torch.inference_mode():
                outputs = program({name: self._to_torch(name, array) for name, array in inputs.items()})
                return {name: _to_numpy(tensor) for name, tensor in outputs.items()}
        except ServingError:
            raise
        except Exception as error:
            raise run_error(self._name, error) from error

    def _to_torch(self, name: str, array: Array) -> Any:
        import torch

        try:
            return torch.from_numpy(np.ascontiguousarray(array))
        except TypeError as error:
            raise BadRequestError(
                f"Input '{name}' of model '{self._name}' is of type {array.dtype} and torch has no such type: "
                "send numbers."
            ) from error


class DeviceModel(InProcessModel):
    """A torch program that is ready to run on a device.

    It is called like a model outside: its requests wait for their turn on the device, and hold no core meanwhile.
    """

    is_outside = True
    threads = 0

    def __init__(self, name: str, program: Program, device: TorchDevice, device_bytes: int) -> None:
        self._name = name
        self._program: Program | None = program
        self._device = device
        self._device_bytes = device_bytes
        self.signature = program.signature

    def device_bytes(self) -> int:
        """Return what its load took on the device."""
        return self._device_bytes

    def run(self, inputs: Tensors, deadline: float | None = None) -> Tensors:
        """Compute the outputs by name; errors as `base` says, `DeviceFailedError` where the device is lost."""
        try:
            return self._device.run(self._name, _open(self._name, self._program), inputs, deadline)
        except ServingError:
            raise
        except Exception as error:
            raise run_error(self._name, error) from error

    def invoke(self, request: Request, deadline: float) -> Reply:
        """Answer a request's tensors before `deadline` (of the monotonic clock)."""
        return Reply(tensors=self.run(request.tensors or {}, deadline))

    def close(self) -> None:
        """Let go of the program and give what it held back to the driver."""
        if self._program is not None:
            self._program = None
            self._device.release()


class TorchBackend(InProcessBackend):
    """TorchScript and exported programs on `device` ("cpu", "cuda", "cuda:1"), within `cores` CPU cores.

    A model's own configuration goes before `device`, and the house's placement before a device without a number.
    """

    name = "torch"

    def __init__(self, device: str, cores: int, devices: TorchDevices | None = None) -> None:
        self._device = device
        self._cores = cores
        self._pool = TorchThreads(cores)
        self._devices = devices or TorchDevices(open_cuda, DeviceSettings())

    @property
    def fault(self) -> str:
        """Why a device computes no more; empty while all do."""
        return self._devices.fault

    def prepare(self) -> bool:
        """Import torch and open the server's own device; return whether this call did one of them."""
        is_new = "torch" not in sys.modules
        _prepare()
        if is_new:
            # torch's objects stay: a collection after each unload that walks them all stops every thread for 0.1 s.
            # What else is frozen here (models of other brands) holds no cycles and goes by its reference counts as
            # before.
            gc.collect()
            gc.freeze()
        if self._device != "cpu":
            # Its context is the server's, not the first model's; where there is no GPU, the load says so.
            opened = len(self._devices.opened)
            with contextlib.suppress(ServingError):
                self._devices.device(int(self._device.partition(":")[2] or 0))
            is_new |= len(self._devices.opened) > opened
        return is_new

    def footprint(self, spec: ModelSpec) -> Footprint:
        """Predict from the size of the file and, for TorchScript, whether its code speaks of convolutions."""
        index = self._index(spec)
        if index is None:
            return on_host(spec)
        has_number = ":" in (spec.device or self._device)
        return on_device(spec, (index,) if has_number else ())

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Make the model ready; errors as `base` says."""
        _prepare()
        index = self._index(spec)
        try:
            _read_ahead(spec.file)
            if index is not None:
                return self._load_on_device(spec, index)
            program = self._pool.load(lambda: _make(spec, "cpu"))
        except ServingError:
            raise
        except Exception as error:
            raise _load_error(spec, error) from error
        return TorchModel(spec, program, threads_for(spec, self._cores), self._pool)

    def _load_on_device(self, spec: ModelSpec, index: int) -> DeviceModel:
        try:
            device = self._devices.device(index)
        except ServingError as error:
            raise type(error)(f"Model '{spec.name}' is to run on cuda: {error}") from error
        program, device_bytes = self._pool.load(lambda: device.load(spec.name, lambda name: _make(spec, name)))
        return DeviceModel(spec.name, program, device, device_bytes)

    def _index(self, spec: ModelSpec) -> int | None:
        """Return the number of the device that a model goes to, None for the CPU."""
        kind, _, number = (spec.device or self._device).partition(":")
        if kind == "cpu":
            return None
        return spec.placement.device if spec.placement.device is not None else int(number or 0)


def _read_ahead(file: Path) -> None:
    """Read a file once into the page cache: torch's readers hold the interpreter while they wait for the disk.

    /ping beside the load of BERT-base (438 MB) took up to 875 ms from a cold file, 256 ms from a warm one.
    """
    buffer = bytearray(_READ_AHEAD_BYTES)
    with file.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass


def _make(spec: ModelSpec, device: str) -> Program:
    return {"torchscript": load_torchscript, "torch_export": load_exported}[spec.format](spec, device)


def _open(model: str, program: Program | None) -> Program:
    if program is None:
        raise UnavailableError(f"Model '{model}' is closed: load it again.")
    return program


_prepared = threading.Lock()


def _prepare() -> None:
    """Import torch, once with few threads between operators."""
    # OpenMP reads this once, while torch is imported. By default its threads spin while they wait for each other, which
    # under load (7 runnable threads on 2 cores) made ResNet-50 with 2 threads cost 630 CPU ms instead of 64.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import torch
    except ImportError as error:
        raise LoadFailedError("TorchScript and torch.export models need torch: install torch==2.13.0.") from error
    # Request bodies are read-only and we only read them; torch says so once a process.
    warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
    with _prepared:
        if torch.get_num_interop_threads() != 1:
            # When somebody ran operators in parallel before us, the number can no longer change.
            with contextlib.suppress(RuntimeError):
                torch.set_num_interop_threads(1)


def _load_error(spec: ModelSpec, error: Exception) -> ServingError:
    """Tell a full memory and a fault of ours from a file that is not what its name claims."""
    if is_out_of_memory(error):
        return InsufficientMemoryError(f"Model '{spec.name}' found no memory to load: {summary(error)}")
    if isinstance(error, _BAD_FILE) and not is_of_device(error):
        return InvalidArtifactError(
            f"Model '{spec.name}': {spec.file.name} is not a {spec.format} file that torch can load: {summary(error)}"
        )
    return LoadFailedError(f"Model '{spec.name}': {spec.file.name} could not be loaded: {summary(error)}")


def _to_numpy(tensor: Any) -> Array:
    array: Array = plain(tensor).cpu().contiguous().numpy()
    return array
