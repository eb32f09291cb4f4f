"""The tritonserver of the Triton flavour: our child, on loopback alone, in explicit mode, over a repository of our own.

Started with the first model that needs it, watched, and started again when it dies; whoever has models in it is told
then (`on_restart`) and loads them again. It ends with us, however we end. Its log lines are ours. Strict readiness is
off: one model that failed would keep the strict one red for ever. Knows no model; `triton` calls it.
"""

from __future__ import annotations

import logging
import mmap
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from serving import memory
from serving.backends import triton_memory
from serving.backends.triton_memory import Regions
from serving.errors import LoadFailedError, UnavailableError
from serving.workers.process_tree import families, kill_families

log = logging.getLogger("wharf.tritonserver")

# 1 is PR_SET_PDEATHSIG (linux/prctl.h): it comes when the thread that started it ends, which is the one that waits.
_BOOT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
# A dead server is started again at once, then later and later while it does not live.
_BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 5.0)
# One that lived so long has earned a start without delay.
_SETTLED_S = 30.0
_START_TIMEOUT_S = 60.0
_PROBE_S = 0.02
_STOP_TIMEOUT_S = 5.0
_REGION_PREFIX = "wharf_triton_"


@dataclass(frozen=True, slots=True)
class Link:
    """How one that lives is spoken to: its client, and the memory that we share with it."""

    stub: Any
    regions: Regions


class TritonServer:
    """One tritonserver; `repository` is where models are laid for it, `shared_bytes` what we share with it at most."""

    def __init__(self, binary: Path, folder: Path, shared_bytes: int = 0) -> None:
        self.binary = binary
        self.repository = folder / "repository"
        self.on_restart: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._process: subprocess.Popen[bytes] | None = None
        self._shared_bytes = shared_bytes
        self._link: Link | None = None
        self._channel: Any = None
        self._is_closed = False
        self._watcher: threading.Thread | None = None
        self._stillborn = ""  # how the last one ended that never lived
        self._has_lived = False
        self.starts = 0
        self._region_prefix = f"{_REGION_PREFIX}{secrets.token_hex(8)}_"

    @property
    def pid(self) -> int | None:
        """The process, None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> bool:
        """Start it if it does not run, and wait until it is live; return whether this call did.

        Raises `LoadFailedError` when it does not come up, with where its reasons are.
        """
        with self._lock:
            if self._watcher is not None:
                return False
            self._stillborn = ""
            shutil.rmtree(self.repository, ignore_errors=True)  # of a server process before this one
            self.repository.mkdir(parents=True)
            self._take_over_regions()
            self._watcher = threading.Thread(target=self._watch, name="tritonserver", daemon=True)
            self._watcher.start()
        self.stub(_START_TIMEOUT_S)
        return True

    def stub(self, timeout_s: float = 0.0) -> Any:
        """Return the client of the server that lives now; waits and raises as `link` does."""
        return self.link(timeout_s).stub

    def link(self, timeout_s: float = 0.0) -> Link:
        """Return how the server that lives now is spoken to; wait up to `timeout_s` for one.

        Raises `LoadFailedError` where a wait was in vain, `UnavailableError` without one.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while self._link is None:
                left_s = deadline - time.monotonic()
                if self._is_closed or timeout_s == 0:
                    raise UnavailableError("tritonserver is being started again: try again.")
                if self._stillborn or left_s <= 0:
                    how = self._stillborn or f"was not live within {timeout_s:g} s"
                    raise LoadFailedError(
                        f"tritonserver ({self.binary}) {how}: the log has its own words (room=wharf.tritonserver)."
                    )
                self._changed.wait(left_s)
            return self._link

    def held_bytes(self) -> int:
        """Return what it and its children hold, in bytes: private pages and their shares of common ones."""
        leader = self.pid
        return sum(map(memory.share_bytes, families([leader])[leader])) if leader else 0

    def shared_bytes(self) -> int:
        """Return what it may share with us at most, in bytes; 0 while it does not live."""
        link = self._link
        return link.regions.max_bytes if link is not None else 0

    def close(self) -> None:
        """End it; returns when it is gone."""
        with self._lock:
            self._is_closed = True
            self._changed.notify_all()
            process, watcher = self._process, self._watcher
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                kill_families([process.pid])
        if watcher is not None:
            watcher.join(_STOP_TIMEOUT_S)

    # ---- the thread that waits for it -------------------------------------------------------------------------------

    def _watch(self) -> None:
        failures = 0
        while not self._is_closed:
            began, status = time.monotonic(), -1
            try:
                status = self._live_once()
            except Exception:  # no process, no thread: the machine's trouble, which may pass
                log.exception("event=tritonserver_not_started")
                self._disconnect("could not be started")
            if self._is_closed:
                return
            if not self._has_lived:  # nothing is in it yet: whoever wants it next tries anew
                with self._lock:
                    self._watcher = None
                return
            failures = 0 if time.monotonic() - began > _SETTLED_S else failures + 1
            pause_s = _BACKOFF_S[min(max(0, failures - 1), len(_BACKOFF_S) - 1)]
            log.error("event=tritonserver_died status=%d again_in_s=%g", status, pause_s)
            with self._lock:
                self._changed.wait_for(lambda: self._is_closed, pause_s)

    def _live_once(self) -> int:
        """Start one, wait for its end, clear up after it; return its status."""
        process, port = self._spawn()
        is_live = False
        try:
            is_live = self._connect(process, port)
            if is_live and self._has_lived:
                threading.Thread(target=self.on_restart, name="tritonserver-reload", daemon=True).start()
            self._has_lived |= is_live
            return process.wait()
        finally:
            self._clear_up(process.pid)
            self._disconnect("" if is_live else f"ended with status {process.wait()} before it was live")

    def _take_over_regions(self) -> None:
        """Remove what a server process before this one left that was killed, and note ours for the next.

        The Python backend's processes outlive a killed tritonserver; the names of their regions are in their commands.
        """
        note = self.repository.parent / "regions"
        if note.exists() and (before := note.read_text()).startswith(_REGION_PREFIX):
            _kill_who_has(before)
            self._remove_regions(before)
        note.write_text(self._region_prefix)

    def _remove_regions(self, prefix: str) -> None:
        for region in triton_memory.FOLDER.glob(f"{prefix}*"):
            region.unlink(missing_ok=True)

    def _clear_up(self, leader: int) -> None:
        """Remove what one that was killed left: the Python backend's processes, and their shared memory."""
        kill_families([leader])
        self._remove_regions(self._region_prefix)

    def _spawn(self) -> tuple[subprocess.Popen[bytes], int]:
        port = _free_port()
        process = subprocess.Popen(  # noqa: S603  the operator's own binary
            [sys.executable, "-c", _BOOT, str(os.getpid()), *self._command(port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environ(),
        )
        threading.Thread(target=_relay, args=(process,), name="tritonserver-log", daemon=True).start()
        with self._lock:
            self._process = process
            self.starts += 1
        return process, port

    def _command(self, port: int) -> list[str]:
        backends = self.binary.parent.parent / "backends"
        return [
            str(self.binary),
            f"--model-repository={self.repository}",
            *([f"--backend-directory={backends}"] if backends.is_dir() else []),
            "--model-control-mode=explicit",
            "--strict-readiness=false",
            "--allow-http=false",
            "--allow-metrics=false",
            "--allow-grpc=true",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={port}",
            *(["--allow-client-shm=true"] if _has_option(self.binary, "allow-client-shm") else []),
            f"--exit-timeout-secs={int(_STOP_TIMEOUT_S) - 1}",
            "--log-verbose=0",
            f"--backend-config=python,shm-region-prefix-name={self._region_prefix}",
        ]

    def _connect(self, process: subprocess.Popen[bytes], port: int) -> bool:
        """Wait until it is live; say whether it is."""
        import grpc
        from tritonclient.grpc import service_pb2 as pb
        from tritonclient.grpc import service_pb2_grpc

        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[*unlimited, ("grpc.enable_retries", 0)])
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while process.poll() is None and not self._is_closed and time.monotonic() < deadline:
            try:
                is_live = stub.ServerLive(pb.ServerLiveRequest(), timeout=1, wait_for_ready=True).live
            except grpc.RpcError:
                is_live = False
            if is_live:
                link = Link(stub, Regions(stub, self._region_prefix, self._shared_bytes))
                log.info("event=tritonserver_live pid=%d port=%d", process.pid, port)
                with self._lock:
                    self._channel, self._link, self._stillborn = channel, link, ""
                    self._changed.notify_all()
                return True
            time.sleep(_PROBE_S)
        channel.close()
        if process.poll() is None:
            process.kill()
        return False

    def _disconnect(self, stillborn: str) -> None:
        with self._lock:
            channel, link, self._channel, self._link = self._channel, self._link, None, None
            self._stillborn = stillborn
            self._changed.notify_all()
        if link is not None:
            link.regions.close()
        if channel is not None:
            channel.close()


def _environ() -> dict[str, str]:
    """Return our environment without our secret, and without our own Python, which its models are not to find."""
    own = str(Path(sys.executable).parent)
    path = os.pathsep.join(each for each in os.environ.get("PATH", "").split(os.pathsep) if each != own)
    return {name: value for name, value in os.environ.items() if name != "WHARF_ADMIN_TOKEN"} | {"PATH": path}


def _relay(process: subprocess.Popen[bytes]) -> None:
    """Write its lines to our log; what it says at length is for who asks for it."""
    with cast("IO[bytes]", process.stdout) as lines:
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip()
            level = {"E": logging.ERROR, "W": logging.WARNING}.get(text[:1], logging.DEBUG)
            if text:
                log.log(level, "event=tritonserver text=%r", text[:2000])


def _has_option(binary: Path, name: str) -> bool:
    """Say whether a server knows an option: one that it does not know ends it, and those that it knows are in it."""
    try:
        with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return text.find(name.encode()) >= 0
    except (OSError, ValueError):  # no file, an empty one: its start says so
        return False


def _free_port() -> int:
    """Return a port of loopback that nobody has now: the server takes none by itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _kill_who_has(word: str) -> None:
    """Kill the processes whose command has `word`, which is random, in it."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if word.encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:  # it has ended, or is somebody else's
                continue
