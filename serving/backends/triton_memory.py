"""Memory that we and our tritonserver share: large tensors lie in it instead of going through gRPC.

A `Region` is a file of /dev/shm, registered once and lent to one request after another. It has its name only until the
server has mapped it, so that nothing is left there however either of us ends. `Regions` are those of one life of the
server, at most so many bytes. Whose request was cut off (a deadline, a broken connection) may still be read and written
by the server: its region is lent to nobody any more, and is let go when the server says that it has let go. Where there
is no room, no /dev/shm or a refusal, there is no region, and tensors go the other way. Knows no model and no tensor;
`triton_call` asks for regions, `triton_server` has them.
"""

from __future__ import annotations

import itertools
import logging
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from serving.backends.triton_messages import DROPPED
from serving.errors import ServingError
from serving.logs import quoted

log = logging.getLogger("wharf.tritonserver")

FOLDER = Path("/dev/shm")  # noqa: S108  where shm_open(3), which tritonserver calls, has its files
"""POSIX shared memory."""
# From here on tritonserver knows which regions its requests use, and says it: 2.49 and before unmap a region under a
# running request and crash, 2.50 counts wrongly (its issues 3207 and 7688).
_COUNTS_FROM = (2, 51)
# The Python backend needs /dev/shm, too, and Docker gives 64 MiB of it.
_FOLDER_PART = 4
# Regions differ by an eighth of a power of two, so that requests that differ a little share one: 588 KiB lie in 640.
_STEPS_BITS = 3
_LEAST_BYTES = 64 << 10
# A free region is taken for a request of a quarter of it at least.
_WASTE_MAX = 4
# A call about regions takes 0.4 ms; a server that is starved of CPU takes longer, and then the wire is the shorter way.
_CALL_TIMEOUT_S = 1.0
# After a failure, and between two questions whether the server has let go.
_RETRY_S = 30.0
_ASK_AGAIN_S = 0.5
# What gRPC says, with the code of a failed model, of a connection that broke.
_BROKEN = ("Received RST_STREAM", "Stream removed")


class Region:
    """`size` bytes that the server knows by `name`; `map` is ours."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        file = os.open(FOLDER / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # The pages now: without room for them a write would be a SIGBUS, the server's or ours.
            os.posix_fallocate(file, 0, size)
            self.map = mmap.mmap(file, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except BaseException:
            self.unlink()
            raise
        finally:
            os.close(file)

    def unlink(self) -> None:
        """Take its name away; who has it mapped keeps it."""
        (FOLDER / self.name).unlink(missing_ok=True)


class Regions:
    """Those of the tritonserver behind `stub`, whose names begin with `prefix`; `max_bytes` in all, 0 for none."""

    def __init__(self, stub: Any, prefix: str, max_bytes: int) -> None:
        self.max_bytes = min(max_bytes, _folder_bytes() // _FOLDER_PART) if max_bytes and _counts(stub) else 0
        self.made = 0
        self._stub = stub
        self._prefix = prefix
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._held_bytes = 0
        self._free: list[Region] = []  # who was last given back comes last
        self._abandoned: list[Region] = []
        self._next_question = self._next_try = 0.0

    @property
    def held_bytes(self) -> int:
        """What all regions take, in bytes, those that are lent too."""
        return self._held_bytes

    @contextmanager
    def lent(self, size: int) -> Iterator[Region | None]:
        """Lend a region of `size` bytes at least for one request, or None; 0 asks for none.

        It is free for the next one when the block ends, or raises what the server answered or an error of ours, which
        come before a request is sent or after its answer; not after anything else.
        """
        region = self._take(size) if 0 < size <= self.max_bytes else None
        try:
            yield region
        except BaseException as error:
            if region is not None:
                self._give_back(region, is_over=_is_answer(error))
            raise
        if region is not None:
            self._give_back(region, is_over=True)

    def close(self) -> None:
        """Forget all: their server is gone."""
        with self._lock:
            self.max_bytes = 0
            self._free.clear()
            self._abandoned.clear()

    def _take(self, size: int) -> Region | None:
        with self._lock:
            fitting = [each for each in self._free if size <= each.size <= _WASTE_MAX * max(size, _LEAST_BYTES)]
            if fitting:
                found = min(reversed(fitting), key=lambda each: each.size)
                self._free.remove(found)
                return found
        if time.monotonic() < self._next_try:
            return None
        self._ask_for_abandoned()
        rounded = _rounded(size)
        while not self._reserve(rounded):
            with self._lock:
                victim = self._free.pop(0) if self._free and rounded <= self.max_bytes else None
            if victim is None:
                return None
            if not self._let_go(victim):  # a request waits: no further one is asked for
                with self._lock:
                    self._abandoned.append(victim)
                return None
        return self._make(rounded)

    def _reserve(self, size: int) -> bool:
        with self._lock:
            if self._held_bytes + size > self.max_bytes:
                return False
            self._held_bytes += size
            return True

    def _make(self, size: int) -> Region | None:
        """Make a region of bytes that are reserved; None, and none for a while, where that fails."""
        region = None
        try:
            if not self.max_bytes:
                return None
            made = Region(f"{self._prefix}io_{next(self._numbers)}", size)
            try:
                self._register(made)
            finally:
                made.unlink()
            region = made
            self.made += 1
        except Exception as error:  # no room in /dev/shm, a server that wants no regions, or is gone
            self._next_try = time.monotonic() + _RETRY_S
            log.warning("event=no_shared_memory bytes=%d again_in_s=%g error=%s", size, _RETRY_S, quoted(str(error)))
        finally:
            if region is None:
                self._forget(size)
        return region

    def _give_back(self, region: Region, *, is_over: bool) -> None:
        with self._lock:
            if self.max_bytes:
                (self._free if is_over else self._abandoned).append(region)

    def _ask_for_abandoned(self) -> None:
        """Let go of what the server has let go of; a few at a time, as a request waits for it."""
        with self._lock:
            if not self._abandoned or time.monotonic() < self._next_question:
                return
            self._next_question = time.monotonic() + _ASK_AGAIN_S
            asked, self._abandoned = self._abandoned[:4], self._abandoned[4:]
        kept = [each for each in asked if time.monotonic() < self._next_try or not self._let_go(each)]
        with self._lock:
            self._abandoned += kept

    # ---- the server's side ------------------------------------------------------------------------------------------

    def _register(self, region: Region) -> None:
        from tritonclient.grpc import service_pb2 as pb

        request = pb.SystemSharedMemoryRegisterRequest(name=region.name, key=region.name, byte_size=region.size)
        self._stub.SystemSharedMemoryRegister(request, timeout=_CALL_TIMEOUT_S)

    def _let_go(self, region: Region) -> bool:
        """Have the server unmap a region; say whether it has: it does not while a request of its uses it.

        2.51 refuses then; later ones agree and do it afterwards (its change 7743), so what counts is the list.
        """
        import grpc
        from tritonclient.grpc import service_pb2 as pb

        try:
            with suppress(grpc.RpcError):
                gone = pb.SystemSharedMemoryUnregisterRequest(name=region.name)
                self._stub.SystemSharedMemoryUnregister(gone, timeout=_CALL_TIMEOUT_S)
            all_of_them = pb.SystemSharedMemoryStatusRequest()
            found = self._stub.SystemSharedMemoryStatus(all_of_them, timeout=_CALL_TIMEOUT_S).regions
        except (grpc.RpcError, ValueError):  # no answer is no yes, and the next question would wait as long
            self._next_try = time.monotonic() + _RETRY_S
            return False
        if region.name in found:
            return False
        self._forget(region.size)
        return True

    def _forget(self, size: int) -> None:
        with self._lock:
            self._held_bytes -= size


def _is_answer(error: BaseException) -> bool:
    """Say whether an error is the server's answer to the request, or ours: it is over then, or was never sent."""
    import grpc

    if isinstance(error, ServingError):
        return True
    if not isinstance(error, grpc.RpcError):
        return False
    code, text = error.code(), str(error.details())
    if code is grpc.StatusCode.UNAVAILABLE:
        return any(words in text for words in DROPPED)
    cut_off = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
    return code not in cut_off and not text.startswith(_BROKEN)


def _counts(stub: Any) -> bool:
    """Say whether the server knows which regions are in use."""
    import grpc
    from tritonclient.grpc import service_pb2 as pb

    try:
        about = stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=_CALL_TIMEOUT_S)
    except grpc.RpcError as error:
        log.warning("event=no_shared_memory error=%s", quoted(str(error)))
        return False
    version = tuple(int(part) for part in about.version.split(".")[:2] if part.isdecimal())
    if "system_shared_memory" in about.extensions and version >= _COUNTS_FROM:
        return True
    log.info("event=no_shared_memory version=%s reason='wants 2.51 or later'", quoted(about.version))
    return False


def _folder_bytes() -> int:
    try:
        about = os.statvfs(FOLDER)
    except OSError:
        return 0
    return about.f_frsize * about.f_blocks


def _rounded(size: int) -> int:
    step = max(_LEAST_BYTES, 1 << max(0, size.bit_length() - 1 - _STEPS_BITS))
    return -(-size // step) * step
