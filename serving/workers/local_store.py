"""Has torch's store, at which the ranks of a group meet, listen on loopback alone.

torch listens on all interfaces and asks for no password, and has no setting for that; but its store takes a socket that
listens already. So in the ranks the name by which `torch.distributed.rendezvous` makes stores is another function; who
makes a store by himself gets torch's. Runs in workers, under foreign interpreters too: standard library alone, CPython
3.9 on. `process_setup` calls it.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from typing import Any

_MODULE = "torch.distributed.rendezvous"
_OTHER_NAMES = ("localhost", "::1")  # of loopback, for who meets at a place of his own


def keep_local(address: str) -> None:
    """Have stores for loopback, `address` or its other names, listen there alone; without torch do nothing."""
    try:
        importlib.import_module("torch.distributed")
        module: Any = sys.modules[_MODULE]
        make = module.TCPStore
    except Exception:  # whatever is the matter with this torch is its user's to see
        return

    def local(
        host_name: str, port: int, world_size: Any = None, is_master: bool = False, *rest: Any, **more: Any
    ) -> Any:
        if not is_master or host_name not in (address, *_OTHER_NAMES):
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
