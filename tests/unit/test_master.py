"""What is ours in the master: the port, the closed streams, the hang-up. Its processes are tests/life's business."""

from __future__ import annotations

import multiprocessing.process
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from serving.errors import BadRequestError
from serving.master import _check_grpc, _exit_code, _hangup_handling, _hold_port, _shown, _tune
from serving.settings import SettingError, Settings


def test_a_free_port_is_found_and_stays_ours() -> None:
    """Held without listening: nobody connects to it, and a child that shares it may."""
    with _hold_port("127.0.0.1", 0) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with socket.socket() as child:
            child.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            child.bind(("127.0.0.1", port))
            child.listen()


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_port_in_use_is_refused_also_by_a_server_that_shares(is_shared: bool) -> None:
    """Two of ours on one port would get half of the requests each."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(is_shared))
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BadRequestError, match=rf"Port {port} of 127\.0\.0\.1 cannot be bound \(Address already"):
            _hold_port("127.0.0.1", port)


def test_a_port_for_grpc_in_use_is_told_at_start() -> None:
    """By the setting that changes it; also where it is the HTTP port itself."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = Settings.from_env({"WHARF_HOST": "127.0.0.1", "WHARF_GRPC_PORT": str(port)})
        with pytest.raises(BadRequestError, match=rf"Port {port} of .* set WHARF_GRPC_PORT"):
            _check_grpc(settings, 1)
    with pytest.raises(SettingError, match="which is the HTTP port"):
        _check_grpc(settings, port)
    _check_grpc(settings, 1)
    _check_grpc(Settings.from_env({}), 1)


def test_grpc_without_its_libraries_is_told_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [each for each in sys.meta_path if "editable" not in repr(each).lower()])
    for name in [each for each in sys.modules if each.partition(".")[0] in ("grpc", "tritonclient")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SettingError, match="grpc and tritonclient cannot be imported: install wharf's extra `triton`"):
        _check_grpc(Settings.from_env({"WHARF_GRPC_PORT": "0"}), 1)


def test_a_port_that_was_left_a_moment_ago_is_free() -> None:
    """A restart does not wait for the kernel to forget old connections."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as both HTTP servers do
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = server.getsockname()
        with socket.create_connection(address):
            accepted, _ = server.accept()
            accepted.close()  # the server closes first: TIME_WAIT is on its side

    _hold_port(*address).close()


@pytest.mark.parametrize(
    ("host", "family"),
    [("localhost", None), ("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6), ("0.0.0.0", None)],
)
def test_hosts_may_be_names_and_addresses(host: str, family: int | None) -> None:
    """What is bound is an address: the servers below take no names."""
    with _hold_port(host, 0) as holder:
        assert family in (None, holder.family)
        socket.inet_pton(holder.family, holder.getsockname()[0])


def test_a_host_that_does_not_exist_is_told() -> None:
    """Not as a traceback."""
    with pytest.raises(BadRequestError, match=r"nowhere\.invalid cannot be bound"):
        _hold_port("nowhere.invalid", 0)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("10.0.0.1", "10.0.0.1"), ("x", "x")],
)
def test_the_address_that_is_shown_can_be_clicked(host: str, shown: str) -> None:
    """Nobody can call 0.0.0.0."""
    assert _shown(host) == shown


@pytest.fixture
def signals() -> Iterator[None]:
    """Put the handlers back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_hang_up_ends_the_master_like_sigterm(signals: None) -> None:
    """A terminal that is gone ends what it started."""
    got: list[int] = []
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    on_ready = _hangup_handling()
    signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    on_ready()
    os.kill(os.getpid(), signal.SIGHUP)

    assert got == [signal.SIGTERM]


def test_under_nohup_a_hang_up_stays_ignored(signals: None) -> None:
    """Though the master below would take it for a reload."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    on_ready = _hangup_handling()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # what Granian and gunicorn do, more or less
    on_ready()

    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2), (0,), ()])
def test_closed_standard_streams_are_held_by_the_null_device(closed: tuple[int, ...]) -> None:
    """No socket gets number 2, and its lines."""
    code = """if True:
        import os, sys
        from serving.master import _hold_standard_streams
        _hold_standard_streams()
        sys.stderr.write("x")
        opened = os.open("/etc/hostname", os.O_RDONLY)
        sys.exit(0 if opened > 2 and all(os.fstat(number) for number in range(3)) else 1)
    """
    redirects = "".join(f" {number}{'<' if number == 0 else '>'}&-" for number in closed)
    ended = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -c "$1"{redirects}', sys.executable, code],
        stderr=subprocess.PIPE, timeout=60, check=False,
    )  # fmt: skip

    assert (ended.returncode, ended.stderr) == (0, b"" if 2 in closed else b"x")


class _Late(multiprocessing.process.BaseProcess):
    """A dead child that another thread has reaped and will note in a moment."""

    looks = 0

    @property
    def exitcode(self) -> int | None:
        self.looks += 1
        return None if self.looks < 5 else -9


def test_an_exit_status_that_another_thread_reaped_is_waited_for() -> None:
    """Two threads wait for Granian's child; in one of 150 ends it had no status yet, which read as a failure."""
    assert _exit_code(_Late()) == -9


def test_the_libraries_variables_are_set_and_wrong_ones_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Before any child is started, which then has them."""
    environ = {"OMP_PROC_BIND": "true"}
    _tune(Settings.from_env({"WHARF_CPU_CORES": "3"}), environ)

    assert environ["OMP_NUM_THREADS"] == "3"
    assert environ["OMP_PROC_BIND"] == "true"
    assert "wharf: OMP_PROC_BIND is true" in capsys.readouterr().err
