"""Where the ranks of a group meet: a port on loopback, the environment that tells each of them, what is named after it.

The names are those that torch.distributed, mpirun's users, DeepSpeed (LOCAL_SIZE) and DJL's handlers read. The port is
one that the kernel gives to nobody unasked; rank 0 listens there (torch's store: see `local_store`). `group` makes one
for each generation of ranks and closes it when they are gone.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import threading
from collections.abc import Collection
from pathlib import Path

from serving.devices import VISIBLE
from serving.errors import LoadFailedError

_ADDRESS = "127.0.0.1"
# DJL's begin at 19000; from 32768 on the kernel hands ports to whoever connects (net.ipv4.ip_local_port_range).
_PORTS = range(19000, 32000)
_SHARED = Path("/dev/shm")  # noqa: S108  where the kernel has it
_lock = threading.Lock()
_taken: set[int] = set()


class Rendezvous:
    """The place of one generation of `ranks` processes, on `devices` (none: the CPU)."""

    def __init__(self, ranks: int, devices: Collection[str] = ()) -> None:
        self._ranks = ranks
        self._devices = tuple(devices)
        self.port = _free_port()

    def environ(self, rank: int) -> dict[str, str]:
        """Return what `rank` finds in its environment."""
        size, mine = str(self._ranks), str(rank)
        found = dict.fromkeys(("RANK", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"), mine)
        sizes = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")
        found |= dict.fromkeys((*sizes, "TENSOR_PARALLEL_DEGREE"), size)
        found |= {"MASTER_ADDR": _ADDRESS, "MASTER_PORT": str(self.port), "MKL_DYNAMIC": "FALSE"}
        if self._devices:
            found[VISIBLE] = ",".join(self._devices)
        return found

    def close(self, pids: Collection[int]) -> None:
        """Give the port back, and remove the shared memory that these processes of the group left when they ended.

        DeepSpeed names its buffers by address and port and unlinks none; torch's tensors carry a pid.
        """
        patterns = [f"deepspeed_allreduce_buffer_*_{_ADDRESS}_{self.port}*", *(f"torch_{pid}_*" for pid in pids if pid)]
        for file in itertools.chain.from_iterable(_SHARED.glob(pattern) for pattern in patterns):
            with contextlib.suppress(OSError):
                file.unlink()
        with _lock:
            _taken.discard(self.port)


def _free_port() -> int:
    """Return a port that nobody has: several servers of one machine begin at different ones."""
    with _lock:
        for port in random.sample(_PORTS, len(_PORTS)):  # a guess, no secret
            if port not in _taken and _is_free(port):
                _taken.add(port)
                return port
    raise LoadFailedError(f"No port from {_PORTS.start} to {_PORTS.stop - 1} is free for a group of ranks: end others.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", port))  # on all interfaces, as a store that people make by themselves will
        return True
    return False
