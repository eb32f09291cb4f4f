"""System shared memory that clients on this machine register, so that tensors need not go over the wire.

A region is a file of /dev/shm by its key, an offset in it and a size; tensors are read from and written to it by its
name. Only there while WHARF_SHARED_MEMORY is on: whoever may register reads and writes what lies in /dev/shm, other
programs' memory too. Keys are names in that folder and never paths. It is read and written by calls, not mapped: a
client that cuts its file short would end a server that has it mapped (SIGBUS). What is read is memory of ours: all that
is in flight stays below a limit, whatever a sparse file claims to hold. Texts and statuses are Triton's.
`http/v2_settings` and `grpc/server_settings` register, the rooms that read and write tensors ask for bytes.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import BadRequestError, PayloadTooLargeError, ServingError, UnavailableError, UnsupportedError

log = logging.getLogger("wharf.shared_memory")

SHM = Path("/dev/shm")  # noqa: S108  the kernel's own folder of POSIX shared memory
_KEY = re.compile(r"/?[^/\0]{1,254}")
_KEY_SHOWN_CHARS = 80


class UnknownRegionError(BadRequestError):
    """No region of that name is registered."""

    status = 404
    grpc_code = "NOT_FOUND"


class RegionTakenError(BadRequestError):
    """A region of that name is registered already: over HTTP 400, as Triton has it."""

    grpc_code = "ALREADY_EXISTS"


class RegionFailedError(ServingError):
    """What the client made and described does not serve: Triton's 500."""


class _File:
    """A descriptor that is closed when nobody holds it any more: a region may go while a request reads it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class _Read(bytearray):
    """Bytes that were read; they count until nobody holds them any more, an array that is a view of them neither."""

    give_back: Callable[[int], None] | None = None

    def __del__(self) -> None:
        if self.give_back is not None:
            self.give_back(len(self))


@dataclass(frozen=True, slots=True)
class _Region:
    name: str
    key: str
    offset: int
    byte_size: int
    file: _File

    def document(self) -> dict[str, Any]:
        return {"name": self.name, "key": self.key, "offset": self.offset, "byte_size": self.byte_size}


class Regions:
    """Registered regions by name; nothing but refusals unless `is_on`. `max_bytes` are those in flight at once."""

    def __init__(self, *, is_on: bool, folder: Path = SHM, max_bytes: int = sys.maxsize) -> None:
        self._is_on = is_on
        self._max_bytes = max_bytes
        self._read_bytes = 0
        self._counting = threading.RLock()  # a collection may end a `_Read` on a thread that counts another
        self._folder = folder
        self._lock = threading.Lock()
        self._regions: dict[str, _Region] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open a region; raises what says that its name is taken or its memory not there."""
        self._refuse_when_off()
        if not name:
            raise BadRequestError("'region name' is necessary to register system shared memory region")
        with self._lock:
            if name in self._regions:
                raise RegionTakenError(f"shared memory region '{name}' already in manager")
            self._regions[name] = _Region(name, key, offset, byte_size, self._open(name, key, offset, byte_size))

    def unregister(self, name: str = "") -> None:
        """Let go of a region, of all without a name; an unknown one is no error, as with Triton."""
        self._refuse_when_off()
        with self._lock:
            for each in [name] if name else list(self._regions):
                self._regions.pop(each, None)

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """Describe a region, all without a name; raises `UnknownRegionError`."""
        self._refuse_when_off()
        with self._lock:
            if not name:
                return [each.document() for _, each in sorted(self._regions.items())]
            if name not in self._regions:
                raise UnknownRegionError(f"Unable to find system shared memory region: '{name}'")
            return [self._regions[name].document()]

    def check(self, name: str, offset: int, count: int) -> None:
        """Raise what `read` of that place would: outputs are checked before a model runs for them."""
        self._place(name, offset, count)

    def read(self, name: str, offset: int, count: int) -> memoryview:
        """Return `count` bytes at `offset` of a region.

        Raises `PayloadTooLargeError` (413) for more than may be in flight, `UnavailableError` (503) where others hold
        too much of it.
        """
        region = self._place(name, offset, count)
        data = self._taken(name, count)
        found = os.preadv(region.file.number, [data], region.offset + offset)
        if found != count:
            raise BadRequestError(f"shared memory region '{name}' was cut short: {found} of {count} bytes are left.")
        return memoryview(data).toreadonly()

    def _taken(self, name: str, count: int) -> _Read:
        if count > self._max_bytes:
            raise PayloadTooLargeError(
                f"{count} bytes are to be read from shared memory region '{name}' and at most {self._max_bytes} are "
                "(WHARF_BODY_MEMORY): send less."
            )
        with self._counting:
            others = self._read_bytes
            is_taken = others + count <= self._max_bytes
            self._read_bytes += count if is_taken else 0
        if not is_taken:
            raise UnavailableError(
                f"Tensors from shared memory hold {others} of {self._max_bytes} bytes (WHARF_BODY_MEMORY): try again."
            )
        try:
            data = _Read(count)
        except MemoryError:
            self._give_back(count)
            raise
        data.give_back = self._give_back
        return data

    def _give_back(self, count: int) -> None:
        with self._counting:
            self._read_bytes -= count

    def write(self, name: str, offset: int, limit: int, data: bytes, output: str) -> None:
        """Write an output; raises `RegionFailedError` where it is larger than the `limit` that was given for it."""
        if len(data) > limit:
            raise RegionFailedError(
                f"shared memory size specified with the request for output '{output}' ({limit} bytes) should be at "
                f"least {len(data)} bytes to hold the results"
            )
        region = self._place(name, offset, limit)
        done = 0
        while done < len(data):
            done += os.pwrite(region.file.number, memoryview(data)[done:], region.offset + offset + done)

    def _place(self, name: str, offset: int, count: int) -> _Region:
        self._refuse_when_off()
        with self._lock:
            region = self._regions.get(name)
        if region is None:
            raise UnknownRegionError(f"Unable to find shared memory region: '{name}'")
        if not 0 <= offset < region.byte_size:
            raise BadRequestError(f"Invalid offset for shared memory region: '{name}'")
        if not 0 < count <= region.byte_size - offset:
            raise BadRequestError(f"Invalid offset + byte size for shared memory region: '{name}'")
        return region

    def _open(self, name: str, key: str, offset: int, byte_size: int) -> _File:
        try:
            if not _KEY.fullmatch(key) or key.strip("/") in ("", ".", ".."):
                raise FileNotFoundError(0, f"a key is a name in {SHM}, without slashes")
            number = os.open(self._folder / key.lstrip("/"), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as fault:
            shown = key[:_KEY_SHOWN_CHARS]
            log.warning("event=region_not_opened key=%r reason=%r", shown, fault.strerror)
            raise RegionFailedError(f"Unable to open shared memory region: '{shown}'") from None
        file = _File(number)
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode) or offset + byte_size > found.st_size:
            raise BadRequestError(f"failed to register shared memory region '{name}': invalid args")
        if byte_size == 0:
            raise BadRequestError(
                f"failed to register shared memory region '{name}': unable to process address spaceInvalid argument"
            )
        return file

    def _refuse_when_off(self) -> None:
        if not self._is_on:
            raise UnsupportedError("shared memory is off on this server: set WHARF_SHARED_MEMORY=true to allow it.")
