"""Regions of memory shared with a real tritonserver: lent, bounded, given up, and never left behind."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.backends import triton_memory
from serving.backends.triton import TritonBackend
from serving.backends.triton_memory import FOLDER, Regions
from serving.errors import BadRequestError
from tests.unit.backends.grpc_errors import Failed
from tests.waiting import until

KIB = 1 << 10


@pytest.fixture
def regions(backend: TritonBackend) -> Iterator[Regions]:
    """Regions of a megabyte in all, with names of their own."""
    found = Regions(backend.server.stub(), f"wharf_triton_{os.getpid()}_", 1024 * KIB)
    yield found
    while found._free:
        assert found._let_go(found._free.pop())


def names(regions: Regions) -> list[str]:
    """Files that are there by name."""
    return [each.name for each in FOLDER.glob(f"{regions._prefix}*")]


def registered(regions: Regions) -> set[str]:
    """Names that the server knows, of these."""
    found = regions._stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest()).regions
    return {name for name in found if name.startswith(regions._prefix)}


def test_a_region_has_no_name_in_the_file_system(regions: Regions) -> None:
    """The server has it mapped; nothing is left when both are gone, however they go."""
    with regions.lent(100) as region:
        assert region is not None
        assert registered(regions) == {region.name}
        assert names(regions) == []
        assert region.size == regions.held_bytes == 64 * KIB


def test_it_is_lent_again_and_to_one_at_a_time(regions: Regions) -> None:
    """The smallest that fits."""
    with regions.lent(100 * KIB) as one, regions.lent(100 * KIB) as other, regions.lent(300 * KIB) as large:
        assert one is not None
        assert other is not None
        assert one is not other
    with regions.lent(90 * KIB) as again, regions.lent(290 * KIB) as large_again:
        assert again in (one, other)
        assert large_again is large
    assert regions.made == 3


def test_there_are_never_more_bytes_than_allowed(regions: Regions) -> None:
    """Who comes then has none, and goes by gRPC; what is free makes room for another size."""
    with regions.lent(600 * KIB) as one, regions.lent(600 * KIB) as none, regions.lent(2000 * KIB) as too_large:
        assert one is not None
        assert none is too_large is None
    with regions.lent(800 * KIB) as other:
        assert other is not None
        assert registered(regions) == {other.name}
        assert regions.held_bytes == other.size
    with regions.lent(0) as nothing:
        assert nothing is None


@pytest.mark.parametrize(
    ("code", "text", "is_over"),
    [
        ("INVALID_ARGUMENT", "no such input", True),
        ("INTERNAL", "ValueError: no", True),
        ("UNAVAILABLE", "[request id: a] Exceeds maximum queue size", True),
        ("UNAVAILABLE", "Socket closed", False),
        ("INTERNAL", "Received RST_STREAM with error code 2", False),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", False),
        ("CANCELLED", "", False),
        (None, "our own mistake", False),
    ],
)
def test_it_is_lent_again_only_when_the_server_has_answered(
    regions: Regions, code: str | None, text: str, *, is_over: bool
) -> None:
    """A request that was cut off may still be read: its region is unmapped when the server is ready for that."""
    error = ValueError(text) if code is None else Failed(grpc.StatusCode[code], text)
    with pytest.raises(type(error)), regions.lent(100) as region:
        raise error
    with regions.lent(100) as again:
        assert (again is region) is is_over
        assert again is not None
        assert registered(regions) == {again.name}


def test_a_request_that_is_refused_before_it_is_sent_keeps_no_region(regions: Regions) -> None:
    """A client's mistake costs nobody shared memory."""
    with pytest.raises(BadRequestError), regions.lent(100) as region:
        raise BadRequestError("a parameter of no type that Triton has")
    with regions.lent(100) as again:
        assert again is region


def test_a_server_that_answers_nothing_is_asked_for_one_region(regions: Regions, backend: TritonBackend) -> None:
    """A request that wants another size waits for that and no more; the next ones do not ask."""
    pid = backend.server.pid
    assert pid is not None
    with regions.lent(250 * KIB), regions.lent(250 * KIB), regions.lent(250 * KIB):
        pass
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            with regions.lent(900 * KIB) as none:
                assert none is None
            assert (len(regions._free), len(regions._abandoned)) == (2, 1)
        with regions.lent(250 * KIB) as free:
            assert free is not None
    finally:
        os.kill(pid, signal.SIGCONT)
    regions._next_try = regions._next_question = 0.0
    with regions.lent(900 * KIB) as region:
        assert region is not None
    assert (len(regions._free), len(regions._abandoned)) == (1, 0)


def test_a_full_dev_shm_is_no_error(regions: Regions, caplog: pytest.LogCaptureFixture) -> None:
    """Docker gives 64 MiB. It is said once, and tried again later; nothing is left of the attempt."""
    with _files_of_at_most(100 * KIB), regions.lent(200 * KIB) as none:
        assert none is None
    with regions.lent(200 * KIB) as still_none:
        assert still_none is None
    assert caplog.text.count("event=no_shared_memory") == 1
    assert (names(regions), regions.held_bytes) == ([], 0)
    regions._next_try = 0
    with regions.lent(200 * KIB) as region:
        assert region is not None


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_refusal_is_no_error(regions: Regions, backend: TritonBackend) -> None:
    """Of a name that is taken, say."""
    taken = f"{regions._prefix}io_1"
    with regions.lent(100) as first:
        assert first is not None
        assert first.name == taken
    again = Regions(backend.server.stub(), regions._prefix, 1024 * KIB)
    with again.lent(100) as refused:
        assert refused is None
    assert (names(again), again.held_bytes) == ([], 0)


def test_there_are_none_where_they_are_off_or_not_safe(backend: TritonBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers before 2.51 unmap a region under a request that runs."""
    stub = backend.server.stub()
    assert Regions(stub, "x", 0).max_bytes == 0
    assert Regions(stub, "x", 1 << 60).max_bytes == triton_memory._folder_bytes() // 4
    with monkeypatch.context() as patch:
        patch.setattr(triton_memory, "_COUNTS_FROM", (99, 0))
        newer = Regions(stub, "x", KIB)
    with newer.lent(100) as none:
        assert none is None
    monkeypatch.setattr(triton_memory, "FOLDER", Path("/nowhere"))
    assert Regions(stub, "x", KIB).max_bytes == 0


def test_a_server_that_was_killed_takes_them_with_it(backend: TritonBackend) -> None:
    """The next one has regions of its own; one that was lent meanwhile never comes to it."""
    pid, before = backend.server.pid, backend.server.link().regions
    assert pid is not None
    with before.lent(100 * KIB) as lent, before.lent(100 * KIB):
        assert lent is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: backend.server.pid not in (None, pid), 30)
        np.frombuffer(lent.map, np.uint8)[:] = 1  # still ours
    after = backend.server.link(30).regions
    assert after is not before
    assert (before._free, before._abandoned, before.max_bytes) == ([], [], 0)
    with before.lent(100) as none, after.lent(100) as region:
        assert none is None
        assert region is not None
    assert names(after) == []
