"""How many CPU threads a model's run uses, and for torch: which threads they are.

torch keeps its thread count per calling thread, and every thread that enters a parallel region gets a team of OpenMP
threads of its own, for ever. With 256 request threads that would be hundreds of teams. So a run of one thread happens
on the thread of the request, and a run of several on one of the few threads kept here, whose teams are all there are.
Both backends ask for the number; the torch backend runs here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serving.repository.layouts import ModelSpec

log = logging.getLogger("wharf.backends.threads")

Result = TypeVar("Result")

# Below this much weight a second thread costs more than it gives: at batch 1 a linear network of 8 MiB takes 116 us
# with one thread and with two; ResNet-50 (98 MiB) 49 and 28 ms.
SMALL_BYTES = 16 << 20
# More threads than this gain little on one request and starve the other models.
MOST_THREADS = 8


def threads_for(spec: ModelSpec, cores: int) -> int:
    """Return the threads of one run: what the configuration says, else 1 for a small model; never more than `cores`."""
    if spec.threads is None:
        return 1 if spec.bytes < SMALL_BYTES else max(1, min(cores, MOST_THREADS))
    if spec.threads > cores:
        log.warning("event=threads_capped model=%s wanted=%d cores=%d", spec.name, spec.threads, cores)
    return max(1, min(spec.threads, cores))


class TorchThreads:
    """Runs functions with a number of torch threads each, and never on more than `cores` threads in all."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self._lock = threading.Lock()

    def run(self, threads: int, function: Callable[[], Result]) -> Result:
        """Call `function` with `threads` torch threads and return its result or raise its error.

        One thread: on the calling thread (setting the count costs 0.1 us). More: on a thread of the pool for that
        count; the hop costs about 40 us, against milliseconds for models large enough to want it.
        """
        if threads == 1:
            _use_threads(1)
            return function()
        return self._pool(threads).submit(function).result()

    def _pool(self, threads: int) -> ThreadPoolExecutor:
        with self._lock:
            if threads not in self._pools:
                self._pools[threads] = ThreadPoolExecutor(
                    max(1, self._cores // threads),
                    thread_name_prefix=f"torch-{threads}",
                    initializer=_use_threads,
                    initargs=(threads,),
                )
            return self._pools[threads]


def _use_threads(count: int) -> None:
    import torch

    # The first question makes torch set this thread up from a process-wide default, which would undo the count later.
    torch.get_num_threads()
    torch.set_num_threads(count)
