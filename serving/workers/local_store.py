"""Has torch's store, at which the ranks of a group meet, listen on loopback alone, and who comes early wait briefly.

torch listens on all interfaces and asks for no password, and has no setting for that; but its store takes a socket that
listens already. A rank that comes before the store listens torch sends to sleep for 0.25 to 0.75 s, which is several
times what a small group takes to load. So in the ranks the name by which `torch.distributed.rendezvous` makes stores is
another function; who makes a store by himself gets torch's. Runs in workers, under foreign interpreters too: standard
library alone, CPython 3.9 on. `process_setup` calls it.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import time
from typing import Any

_MODULE = "torch.distributed.rendezvous"
_OTHER_NAMES = ("localhost", "::1")  # of loopback, for who meets at a place of his own
# How often, and how long, a rank looks whether the store listens; after that torch waits, for as long as it was told.
_LOOK_S = 0.005
_LOOKS_S = 10.0


def keep_local(address: str) -> None:
    """Have stores for loopback, `address` or its other names, listen there alone and be found at once.

    Without torch do nothing.
    """
    try:
        importlib.import_module("torch.distributed")
        module: Any = sys.modules[_MODULE]
        make = module.TCPStore
    except Exception:  # whatever is the matter with this torch is its user's to see
        return

    def local(
        host_name: str, port: int, world_size: Any = None, is_master: bool = False, *rest: Any, **more: Any
    ) -> Any:
        if host_name not in (address, *_OTHER_NAMES):
            return make(host_name, port, world_size, is_master, *rest, **more)
        if not is_master:
            timeout: Any = more.get("timeout", rest[0] if rest else None)
            _await_listener(host_name, port, timeout.total_seconds() if hasattr(timeout, "total_seconds") else _LOOKS_S)
            return make(host_name, port, world_size, is_master, *rest, **more)
        family = socket.AF_INET6 if ":" in host_name else socket.AF_INET
        try:
            number = socket.create_server((host_name, port), family=family).detach()  # the store's from now on
        except OSError:  # as a rule this process has a store there, which torch shares; else torch says what is wrong
            return make(host_name, port, world_size, is_master, *rest, **more)
        try:
            return make(host_name, port, world_size, is_master, *rest, master_listen_fd=number, **more)
        except TypeError:  # a torch of before that parameter
            os.close(number)
            return make(host_name, port, world_size, is_master, *rest, **more)

    module.TCPStore = local


def _await_listener(host_name: str, port: int, most_s: float) -> None:
    """Return when somebody listens there, or when it was looked for long enough."""
    until = time.monotonic() + min(most_s, _LOOKS_S)
    while (left_s := until - time.monotonic()) > 0:
        try:
            socket.create_connection((host_name, port), timeout=left_s).close()
            return
        except ConnectionRefusedError:
            time.sleep(_LOOK_S)
        except OSError:  # no such address here: torch says so
            return
