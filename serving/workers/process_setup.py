"""What a worker does to itself before people's code comes: title, folder, paths, limits, threads, random numbers.

Called by `main` in the worker, after the fork or in a fresh interpreter; every step holds for this process alone.
Standard library alone, CPython 3.9 on; what is imported already (numpy, torch) is set up, nothing is imported for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import random
import resource
import sys
from pathlib import Path
from typing import Any

from serving import dev_shm
from serving.workers import deepspeed_shim
from serving.workers.handler import Launch
from serving.workers.local_store import keep_local

_NICENESS = 5
_blas: list[Any] = []
# From linux/prctl.h.
_PR_SET_NAME = 15
_COMPAT = Path(__file__).resolve().parent / "compat"
# Their code imports djl_python or triton_python_backend_utils: ours, whatever else is installed.
_WITH_COMPAT = ("djl", "triton_python")
# Their code may import sagemaker_inference or sagemaker_containers: the real one where there is one, hence ours last.
_WITH_COMPAT_LAST = ("sagemaker", "tensorflow")
# The processes of the machine itself: PROC_PID_INIT_INO of linux/proc_ns.h.
_FIRST_NAMESPACE = "pid:[4026531836]"
# Of one limit: what all workers of a server may come to while each stays within its own.
_OTHERS = 16
# Dialects whose texts may be made in a thread beside the main one (`stepwise`), with megabytes of blocks a token.
_WITH_ONE_ARENA = ("djl", "huggingface")
# mallopt's numbers, from malloc.h: what freed memory stays at an arena's end, from which size a block is a mapping of
# its own, and how many arenas there are. A thread's own arena is handed back after each text and faulted in again for
# the next: 6,000 page faults for 8 tokens of a model of 50 million parameters, 300 with these. The sizes are the
# largest that glibc itself comes to in a process that has freed a block as large. The server's own are in
# `serving.memory`, which Python 3.9 cannot import.
_MALLOC = {-1: 64 << 20, -3: 32 << 20, -8: 1}
# What shares the core budget: OpenMP, OpenBLAS, MKL and numexpr each read their own variable.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def set_up(launch: Launch) -> None:
    """Make this process the worker of one model."""
    gc.enable()  # the zygote had it off
    set_title(f"wharf worker: {launch.name} #{launch.instance}" + f" rank {launch.rank}" * (launch.ranks > 0))
    os.environ.update({name: str(launch.threads) for name in _THREAD_VARIABLES})
    os.environ.update(launch.environ)
    os.chdir(launch.folder)
    # A repository is never written to, and two models' caches of one name would be each other's.
    sys.dont_write_bytecode = True
    _limit(launch)
    if launch.dialect in _WITH_ONE_ARENA:
        _share_arena()
    _set_paths(launch)
    reseed(int.from_bytes(os.urandom(4), "little"))  # workers of one zygote would all draw the same numbers
    _set_threads(launch.threads)
    if launch.ranks:
        _prepare_rank(launch)
    faulthandler.enable(2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a TextIOWrapper, as Python made it


def _prepare_rank(launch: Launch) -> None:
    keep_local(os.environ["MASTER_ADDR"])
    shortage = dev_shm.shortage(launch.ranks, os.environ, is_cpu=launch.device == "cpu")
    if shortage and launch.rank == 0:
        print(shortage, file=sys.stderr)  # noqa: T201  the model's log
    deepspeed_shim.watch(launch.device)


def set_title(title: str) -> None:
    """Name this process for ps and top: wholly where setproctitle is installed, else its first 15 characters."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, title.encode()[:15])
    else:
        setproctitle(title)


def flush_output() -> None:
    """Hand over what was printed and not flushed, as far as anybody takes it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _limit(launch: Launch) -> None:
    wanted = [
        (resource.RLIMIT_AS, launch.address_space_bytes),
        (resource.RLIMIT_NOFILE, launch.open_files),
        (resource.RLIMIT_NPROC, _process_limit(launch.processes)),
        (resource.RLIMIT_CORE, None),
    ]
    # When the kernel must kill for memory, a worker is to go before the server and the zygote (proc(5): up to 1000).
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    # The server and the zygote come first when all want the processor: a fork bomb was ended in 1.4-3.9 s, not 7, and
    # with 0.5 of its 2.7 GB. What a worker gets on an idle processor is the same.
    os.nice(_NICENESS)
    for kind, value in wanted:
        hard = resource.getrlimit(kind)[1]
        if value == 0:
            continue
        soft = value or 0
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (soft, soft))


def _share_arena() -> None:
    """Let all threads use the main thread's memory, before there is another one."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        for key, value in _MALLOC.items():
            mallopt(key, value)


def _process_limit(processes: int) -> int:
    """Return RLIMIT_NPROC, the second line of defence behind the zygote's own count of each worker's processes.

    The kernel counts all threads of the user, the server's and the other workers' too, and does not count for root.
    In a container it would count those of other containers too, which we do not see: no limit there.
    """
    if not processes or os.getuid() == 0 or str(Path("/proc/self/ns/pid").readlink()) != _FIRST_NAMESPACE:
        return 0
    count = _OTHERS * processes
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if folder.stat().st_uid == os.getuid():
                    count += sum(1 for _ in (folder / "task").iterdir())
    return count


def _set_paths(launch: Launch) -> None:
    extra = [str(_COMPAT)] if launch.dialect in _WITH_COMPAT else []
    sys.path[:0] = [each for each in (*launch.paths, *extra) if each not in sys.path]
    if launch.dialect in _WITH_COMPAT_LAST:
        sys.path.append(str(_COMPAT))
    sys.argv = [launch.file or launch.dialect]


def reseed(seed: int) -> None:
    """Have random, numpy and torch begin anew from `seed` (32 bits), as far as they are imported."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def _set_threads(count: int) -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    for library in _blas if count > 1 else ():  # loaded with one thread, so that the zygote has one
        library.set_num_threads(count)


def find_blas() -> None:
    """Look up the BLAS libraries that are loaded, once in the zygote: in each worker it would take 3 ms and more."""
    with contextlib.suppress(ImportError):
        from threadpoolctl import ThreadpoolController

        _blas[:] = ThreadpoolController().select(user_api="blas").lib_controllers
