"""torch's store is made to listen on loopback, where it is a group's own and torch can be told; else it is torch's."""

from __future__ import annotations

import socket
import sys
import threading
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from serving.workers import local_store
from serving.workers.local_store import keep_local
from tests.workers.processes import files_of, in_background

pytestmark = pytest.mark.torch

LOOPBACK = "127.0.0.1"


@pytest.fixture
def rendezvous(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch's room, left as it was."""
    pytest.importorskip("torch.distributed")
    module: Any = sys.modules["torch.distributed.rendezvous"]
    monkeypatch.setattr(module, "TCPStore", module.TCPStore)
    return module


def free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_store_of_the_group_gets_a_socket_that_listens_on_loopback(rendezvous: Any) -> None:
    """The rest of what it is given stays."""
    made: list[Any] = []
    rendezvous.TCPStore = lambda *given, **named: made.append((given, named))
    keep_local(LOOPBACK)
    port = free_port()
    rendezvous.TCPStore(host_name=LOOPBACK, port=port, world_size=2, is_master=True, multi_tenant=True)
    ((given, named),) = made
    with socket.socket(fileno=named.pop("master_listen_fd")) as listener:
        assert listener.getsockname() == (LOOPBACK, port)
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    assert (given, named) == ((LOOPBACK, port, 2, True), {"multi_tenant": True})


@pytest.mark.parametrize("host", [LOOPBACK, "localhost", "::1"])
def test_loopback_is_kept_by_every_name(rendezvous: Any, host: str) -> None:
    """And a real store answers there, by the name that it was given."""
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    keep_local(LOOPBACK)
    port = free_port()
    store = rendezvous.TCPStore(host, port, 1, True)
    store.set("key", "value")
    listening = {address for address, number in addresses() if number == port}
    assert listening == {"00000000000000000000000001000000" if host == "::1" else "0100007F"}


def addresses() -> list[tuple[str, int]]:
    """Where somebody listens, as the kernel writes it."""
    rows = [line.split() for each in ("tcp", "tcp6") for line in Path(f"/proc/net/{each}").read_text().splitlines()[1:]]
    ends = [row[1].split(":") for row in rows if row[3] == "0A"]
    return [(address, int(number, 16)) for address, number in ends]


def test_a_second_store_shares_the_first_ones_port(rendezvous: Any) -> None:
    """As torch has it, where something still holds the first."""
    keep_local(LOOPBACK)
    port = free_port()
    first = rendezvous.TCPStore(LOOPBACK, port, 1, True, multi_tenant=True)
    second = rendezvous.TCPStore(LOOPBACK, port, 1, True, multi_tenant=True)
    first.set("key", "value")
    assert second.get("key") == b"value"


def test_who_comes_before_the_store_finds_it_at_once(rendezvous: Any) -> None:
    """Each time; torch alone sleeps for 0.25 to 0.75 s."""
    keep_local(LOOPBACK)
    for port in [free_port() for _ in range(4)]:
        with in_background(partial(arrive, rendezvous, port)) as found:
            threading.Event().wait(0.1)
            store = rendezvous.TCPStore(LOOPBACK, port, 2, True, wait_for_workers=False)
            listens = time.monotonic()
        early, arrived = found[0]
        assert arrived - listens < 0.2
        store.set("key", "value")
        assert early.get("key") == b"value"


def arrive(rendezvous: Any, port: int) -> tuple[Any, float]:
    """Make the store of a rank that is not the first; return it, and when that was."""
    return rendezvous.TCPStore(LOOPBACK, port, 2, False), time.monotonic()


@pytest.mark.parametrize(
    ("given", "looks"),
    [
        ((LOOPBACK, 1, 2, False), [(LOOPBACK, 1, local_store._LOOKS_S)]),
        ((LOOPBACK, 1, 2, False, 9), [(LOOPBACK, 1, local_store._LOOKS_S)]),
        ((LOOPBACK, 1, 2, False, timedelta(seconds=3)), [(LOOPBACK, 1, 3.0)]),
        (("10.0.0.1", 1, 2, True), []),
        (("10.0.0.1", 1, 2, False), []),
    ],
)
def test_stores_of_others_are_made_as_ever(
    rendezvous: Any, given: tuple[Any, ...], looks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that only asks looks before, no longer than it would wait; one that is elsewhere is torch's business."""
    made: list[Any] = []
    looked: list[Any] = []
    rendezvous.TCPStore = lambda *given, **named: made.append((given, named))
    monkeypatch.setattr(local_store, "_await_listener", lambda *where: looked.append(where))
    keep_local(LOOPBACK)
    rendezvous.TCPStore(*given)
    assert made == [(given, {})]
    assert looked == looks


def test_a_look_in_vain_ends_in_time() -> None:
    """Where nobody listens, and where there is no such address."""
    began = time.monotonic()
    local_store._await_listener(LOOPBACK, free_port(), 0.1)
    assert 0.1 <= time.monotonic() - began < 1
    local_store._await_listener("no.such.host.invalid", 1, 0.1)
    assert time.monotonic() - began < 5


def test_a_torch_that_takes_no_socket_makes_its_store_as_ever(rendezvous: Any) -> None:
    """And ours is closed."""
    port, made = free_port(), []

    def old(host_name: str, port: int, world_size: int, is_master: bool) -> None:
        made.append((host_name, port, world_size, is_master))

    rendezvous.TCPStore = old
    keep_local(LOOPBACK)
    before = files_of("self")
    rendezvous.TCPStore(LOOPBACK, port, 2, True)
    assert made == [(LOOPBACK, port, 2, True)]
    assert files_of("self") == before


def test_without_torch_there_is_nothing_to_do(rendezvous: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group may meet by other means."""
    before = rendezvous.TCPStore
    monkeypatch.setitem(sys.modules, "torch.distributed", None)
    keep_local(LOOPBACK)
    assert rendezvous.TCPStore is before
