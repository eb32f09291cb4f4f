"""What an error of torch means: no memory, or the model's own failure; and what of it a caller reads.

torch has a type for a GPU's full memory and none for the CPU's; TorchScript's interpreter turns either into a plain
RuntimeError that quotes it. What a TorchScript model raises itself arrives as torch.jit.Error and is never taken for
one. Whether a GPU is beyond use is not read from words: `torch_device` asks the device. Called by all rooms of torch.
"""

from __future__ import annotations

import re

from serving.errors import InsufficientMemoryError, ModelFailedError, ServingError

# The CPU allocator has no error type of its own: this is its whole message, the last line of a plain RuntimeError.
_CPU_ALLOCATOR = (
    r"\[enforce fail at alloc_cpu\.cpp:\d+\] err == 0\. DefaultCPUAllocator: can't allocate memory: "
    r"you tried to allocate \d+ bytes\. Error code \d+ \(Cannot allocate memory\)"
)
# What c10/cuda/CUDACachingAllocator.cpp says with its OutOfMemoryError, as the interpreter quotes it.
_CUDA_ALLOCATOR = r"CUDA out of memory\. Tried to allocate [\d.]+ (bytes|[KMG]iB)\. GPU \d+ has a total capacity of .*"
# Libraries allocate beside the allocator: the driver (modules, streams), cuBLAS and cuDNN (handles).
_CUDA_LIBRARIES = r"CUDA error: out of memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED.*|.* error: CU\w+_STATUS_ALLOC_FAILED.*"
_FULL = re.compile(rf"(RuntimeError: )?({_CPU_ALLOCATOR}|{_CUDA_ALLOCATOR}|{_CUDA_LIBRARIES})")
# cudaErrorMemoryAllocation of driver_types.h.
_MEMORY_ALLOCATION = 2
_INTERPRETER = "TorchScript interpreter"


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether `error` is an allocator's: by type or code, or by a whole line of an allocator's own message."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, torch.AcceleratorError):
        return getattr(error, "error_code", None) == _MEMORY_ALLOCATION
    return type(error) is RuntimeError and any(_FULL.fullmatch(line.strip()) for line in _said(error))


def is_of_device(error: BaseException) -> bool:
    """Say whether a device's driver raised it, whatever was being done."""
    import torch

    return isinstance(error, torch.AcceleratorError)


def run_error(model: str, error: Exception) -> ServingError:
    """Return what a request of `model` is answered when its run raised `error`."""
    if is_out_of_memory(error):
        return InsufficientMemoryError(
            f"Model '{model}' found no memory for this request: {summary(error)}: send a smaller batch or unload a "
            "model."
        )
    return ModelFailedError(f"Model '{model}' failed on this input: {summary(error)}")


def summary(error: BaseException) -> str:
    """Return the line of a torch error that says what happened: the last of a TorchScript traceback, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if _INTERPRETER in lines[0] else 0][:300]


def _said(error: BaseException) -> list[str]:
    """Return the lines that may be an allocator's own: CUDA's are followed by advice, the CPU's come last."""
    lines = str(error).strip().splitlines()
    if not lines or _INTERPRETER not in lines[0]:
        return [*lines[:1], *lines[-1:]]
    return [line for line in lines if line.startswith("RuntimeError: ")] or lines[-1:]
