"""The torch backend: TorchScript and exported programs, run in this process.

Knows how numpy meets torch without a copy, which torch errors are about memory, and what a model of this brand weighs.
What is in the files is the business of `torchscript` and `torch_export`, who runs where that of `threads`. The manager
calls it. On `cuda` the same code moves weights and inputs to the device; that path is unverified: no GPU was at hand.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from serving.backends.base import Footprint, InProcessBackend, InProcessModel, LoadedModel
from serving.backends.threads import TorchThreads, threads_for
from serving.backends.torch_export import load_exported
from serving.backends.torch_program import Program
from serving.backends.torchscript import has_convolutions, load_torchscript
from serving.errors import (
    BadRequestError,
    InsufficientMemoryError,
    InvalidArtifactError,
    LoadFailedError,
    ModelFailedError,
    ServingError,
    UnavailableError,
)
from serving.repository.layouts import ModelSpec
from serving.tensors import Array, Signature, Tensors

# MiB measured by benchmarks/footprint.py (torch 2.13, one thread, one sample of batch 1, weights of float32):
#
#                           file   resident   peak
#   linear, TorchScript      1.0        1.3    1.4
#   linear, TorchScript     19.1       19.4   19.5
#   BERT-base, TorchScript 418.0      451.6  469.3
#   ResNet-50, TorchScript  98.1      155.2  267.2   packed for inference
#   ResNet-50, TorchScript  98.1      145.2  170.7   kept plain
#   linear, export           1.0        1.4    1.4
#   linear, export          19.1       19.5   19.5
#   BERT-base, export      419.0      433.3  448.8
#   ResNet-50, export       99.8      119.8  149.2
#
# So: peak and resident bytes for each byte of the file, and a fixed part for the graph. A convolution adds scratch
# memory and, packed, a second copy while it loads; TorchScript files tell whether they have any, exported ones do not.
_LINEAR = (1.15, 1.08)
_PLAIN_CONVOLUTIONS = (1.70, 1.45)
_PACKED_CONVOLUTIONS = (2.70, 1.55)
_EXPORTED = (1.45, 1.12)
_GRAPH_BYTES = {"torchscript": 1 << 20, "torch_export": 4 << 20}

# The CPU allocator has no error type of its own: this is its whole message, the last line of a plain RuntimeError. What
# a model raises itself arrives as torch.jit.Error and is never taken for it.
_CPU_ALLOCATOR = re.compile(
    r"(RuntimeError: )?\[enforce fail at alloc_cpu\.cpp:\d+\] err == 0\. DefaultCPUAllocator: can't allocate memory: "
    r"you tried to allocate \d+ bytes\. Error code \d+ \(Cannot allocate memory\)"
)
# What torch's readers raise about the bytes of a file.
_BAD_FILE = (RuntimeError, ValueError, KeyError, AssertionError)


_READ_AHEAD_BYTES = 1 << 20


class TorchModel(InProcessModel):
    """A torch program that is ready."""

    def __init__(self, spec: ModelSpec, program: Program, device: str, threads: int, pool: TorchThreads) -> None:
        self._name = spec.name
        self._bytes = spec.bytes
        self._program: Program | None = program
        self._device = device
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
        program = self._program
        if program is None:
            raise UnavailableError(f"Model '{self._name}' is closed: load it again.")
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
            if is_out_of_memory(error):
                raise InsufficientMemoryError(
                    f"Model '{self._name}' found no memory for this request: {_summary(error)}: send a smaller batch "
                    "or unload a model."
                ) from error
            raise ModelFailedError(f"Model '{self._name}' failed on this input: {_summary(error)}") from error

    def _to_torch(self, name: str, array: Array) -> Any:
        import torch

        try:
            tensor = torch.from_numpy(np.ascontiguousarray(array))
        except TypeError as error:
            raise BadRequestError(
                f"Input '{name}' of model '{self._name}' is of type {array.dtype} and torch has no such type: "
                "send numbers."
            ) from error
        return tensor if self._device == "cpu" else tensor.to(self._device)


class TorchBackend(InProcessBackend):
    """TorchScript and exported programs on `device` ("cpu" or "cuda"), within `cores` CPU cores."""

    name = "torch"

    def __init__(self, device: str, cores: int) -> None:
        self._device = device
        self._cores = cores
        self._pool = TorchThreads(cores)

    def prepare(self) -> bool:
        """Import torch; return whether this call did."""
        is_new = "torch" not in sys.modules
        _prepare()
        if is_new:
            # torch's objects stay: a collection after each unload that walks them all stops every thread for 0.1 s.
            # What else is frozen here (models of other brands) holds no cycles and goes by its reference counts as
            # before.
            gc.collect()
            gc.freeze()
        return is_new

    def footprint(self, spec: ModelSpec) -> Footprint:
        """Predict from the size of the file and, for TorchScript, whether its code speaks of convolutions."""
        (peak, resident), graph_bytes = _weight(spec), _GRAPH_BYTES[spec.format]
        return Footprint(int(spec.bytes * peak) + graph_bytes, int(spec.bytes * resident) + graph_bytes)

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Make the model ready; errors as `base` says."""
        device = spec.device or self._device
        _prepare()
        _check_device(spec.name, device)
        load = {"torchscript": load_torchscript, "torch_export": load_exported}[spec.format]
        threads = threads_for(spec, self._cores)
        try:
            _read_ahead(spec.file)
            program = self._pool.load(lambda: load(spec, device))
        except ServingError:
            raise
        except Exception as error:
            raise _load_error(spec, error) from error
        return TorchModel(spec, program, device, threads, self._pool)


def is_out_of_memory(error: Exception) -> bool:
    """Say whether `error` is an allocator's: by type, or by the whole of the CPU allocator's own message."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    lines = str(error).strip().splitlines()
    return type(error) is RuntimeError and bool(lines) and bool(_CPU_ALLOCATOR.fullmatch(lines[-1].strip()))


def _weight(spec: ModelSpec) -> tuple[float, float]:
    """Return peak and resident bytes for each byte of the file."""
    if spec.format == "torch_export":
        return _EXPORTED
    if not has_convolutions(spec.file):
        return _LINEAR
    return _PACKED_CONVOLUTIONS if spec.optimize and spec.inputs else _PLAIN_CONVOLUTIONS


def _read_ahead(file: Path) -> None:
    """Read a file once into the page cache: torch's readers hold the interpreter while they wait for the disk.

    /ping beside the load of BERT-base (438 MB) took up to 875 ms from a cold file, 256 ms from a warm one.
    """
    buffer = bytearray(_READ_AHEAD_BYTES)
    with file.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass


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


def _check_device(name: str, device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise LoadFailedError(
            f"Model '{name}' is to run on cuda and torch {torch.__version__} finds no such device: set "
            "WHARF_DEVICE=cpu, or give the container a GPU and a CUDA build of torch."
        )


def _load_error(spec: ModelSpec, error: Exception) -> ServingError:
    """Tell a full memory and a fault of ours from a file that is not what its name claims."""
    if is_out_of_memory(error):
        return InsufficientMemoryError(f"Model '{spec.name}' found no memory to load: {_summary(error)}")
    if isinstance(error, _BAD_FILE):
        return InvalidArtifactError(
            f"Model '{spec.name}': {spec.file.name} is not a {spec.format} file that torch can load: {_summary(error)}"
        )
    return LoadFailedError(f"Model '{spec.name}': {spec.file.name} could not be loaded: {_summary(error)}")


def _summary(error: Exception) -> str:
    """Return the line of a torch error that says what happened: the last of a TorchScript traceback, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if "TorchScript interpreter" in lines[0] else 0][:300]


def _to_numpy(tensor: Any) -> Array:
    import torch

    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float()
    array: Array = tensor.detach().cpu().contiguous().numpy()
    return array
