"""How many CPU threads a model's run uses, and for torch: which threads they are.

torch keeps its thread count per calling thread. Every thread that enters a parallel region gets a team of OpenMP
threads of its own, and every thread that runs a convolution keeps oneDNN's scratch memory (14 MiB for ResNet-50), both
for ever. With 256 request threads that would be hundreds of teams and gigabytes. So only tiny models run on the thread
of the request; all others, and all loads, run on the few threads kept here. Both backends ask for the number; the torch
backend runs here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serving.logs import quoted
from serving.repository.layouts import ModelSpec

log = logging.getLogger("wharf.backends.threads")

Result = TypeVar("Result")

# Below this much weight a second thread costs more than it gives: at batch 1 a linear network of 8 MiB takes 116 us
# with one thread and with two; ResNet-50 (98 MiB) 49 and 28 ms.
SMALL_BYTES = 16 << 20
# More threads than this gain little on one request and starve the other models.
MOST_THREADS = 8
# Models below this run in tens of microseconds, and the hop to another thread costs 40; their scratch is as small.
TINY_BYTES = 1 << 20
# Loading holds Python's lock for most of its time, so more threads than this would only wait for each other.
LOADERS = 2


def threads_for(spec: ModelSpec, cores: int) -> int:
    """Return the threads of one run: what the configuration says, else 1 for a small model; never more than `cores`."""
    if spec.threads is None:
        return 1 if spec.bytes < SMALL_BYTES else max(1, min(cores, MOST_THREADS))
    if spec.threads > cores:
        log.warning("event=threads_capped model=%s wanted=%d cores=%d", quoted(spec.name), spec.threads, cores)
    return max(1, min(spec.threads, cores))


class TorchThreads:
    """Runs functions with a number of torch threads each, and never on more than `cores` threads in all."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self._lock = threading.Lock()
        self._loaders = _pool("torch-load", LOADERS, 1)

    def load(self, function: Callable[[], Result]) -> Result:
        """Call `function` on a thread for loads, with one torch thread; runs never wait for it."""
        return self._loaders.submit(function).result()

    def run(self, threads: int, weight_bytes: int, function: Callable[[], Result]) -> Result:
        """Call `function` with `threads` torch threads and return its result or raise its error.

        Tiny and of one thread: on the calling thread (setting the count costs 0.1 us). Otherwise on a thread of the
        pool for that count; there are as many as the core budget lets run at once.
        """
        if threads == 1 and weight_bytes < TINY_BYTES:
            _use_threads(1)
            return function()
        with self._lock:
            if threads not in self._pools:
                self._pools[threads] = _pool(f"torch-{threads}", max(1, self._cores // threads), threads)
        return self._pools[threads].submit(function).result()


def _pool(name: str, workers: int, torch_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix=name, initializer=_use_threads, initargs=(torch_threads,))


def _use_threads(count: int) -> None:
    import torch

    # The first question makes torch set this thread up from a process-wide default, which would undo the count later.
    torch.get_num_threads()
    torch.set_num_threads(count)
