"""The torch backend: TorchScript and exported programs, run in this process.

Knows how many threads a run may use, how numpy meets torch without a copy, and which torch errors are about memory.
What is in the files is the business of `torchscript` and `torch_export`. The manager calls it. On `cuda` the same code
moves weights and inputs to the device; that path is unverified: no GPU was at hand.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from serving.backends.base import Footprint, LoadedModel
from serving.backends.torch_export import load_exported
from serving.backends.torch_program import Program
from serving.backends.torchscript import load_torchscript
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

Result = TypeVar("Result")

# Below this much weight a second thread costs more than it gives: at batch 1 a linear network of 8 MiB takes 116 us
# with one thread and with two; ResNet-50 (98 MiB) 49 and 28 ms.
SMALL_BYTES = 16 << 20
# More threads than this gain little on one request and starve the other models.
MOST_THREADS = 8

# The CPU allocator has no error type of its own: this is its whole message, the last line of a plain RuntimeError. What
# a model raises itself arrives as torch.jit.Error and is never taken for it.
_CPU_ALLOCATOR = re.compile(
    r"(RuntimeError: )?\[enforce fail at alloc_cpu\.cpp:\d+\] err == 0\. DefaultCPUAllocator: can't allocate memory: "
    r"you tried to allocate \d+ bytes\. Error code \d+ \(Cannot allocate memory\)"
)
