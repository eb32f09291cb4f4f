"""Shared memory: written by one side, read by the other, and nobody can take it from under the writer's hands."""

from __future__ import annotations

import errno
import os

import pytest

from serving.workers.segment import KEPT_MAX_BYTES, Mapping, Segment, read_once
from tests.workers.processes import open_files

KIB = 1 << 10
MIB = 1 << 20


def written(data: bytes) -> tuple[Segment, int]:
    """A segment that holds data, and a reader's descriptor of it."""
    segment = Segment(len(data))
    segment.write([data[:3], memoryview(data)[3:]])
    return segment, os.dup(segment.fd)


def test_what_is_written_is_read_once() -> None:
    """One copy; the reader's descriptor is closed with it."""
    segment, theirs = written(b"x" * 100 * KIB)
    assert read_once(theirs, 100 * KIB) == b"x" * 100 * KIB
    with pytest.raises(OSError, match="Bad file") as caught:
        os.fstat(theirs)
    assert caught.value.errno == errno.EBADF
    segment.close()


def test_what_is_written_is_seen_in_place() -> None:
    """Without a copy: a later write shows, which is why nobody writes before the reader has let go."""
    segment, theirs = written(b"abcdef")
    mapping = Mapping(theirs)
    assert bytes(mapping.view(6)) == b"abcdef"
    segment.write([b"ABCDEF"])
    assert bytes(mapping.view(3)) == b"ABC"
    segment.close()


def test_a_mapping_outlives_its_segment() -> None:
    """A writer that needs a larger one lets the old one go; who reads it keeps its pages."""
    segment, theirs = written(b"abcdef")
    mapping = Mapping(theirs)
    segment.close()
    assert bytes(mapping.view(6)) == b"abcdef"


def test_a_mapping_knows_whether_somebody_looks() -> None:
    """A view, a part of one or an array: each counts until it goes."""
    segment, theirs = written(b"abcdef")
    mapping = Mapping(theirs)
    assert not mapping.is_seen()
    kept = mapping.view(6)[2:4]
    assert mapping.is_seen()
    assert bytes(kept) == b"cd"
    del kept
    assert not mapping.is_seen()
    segment.close()


def test_a_mapping_knows_its_segment() -> None:
    """By the file, whatever its descriptor; and stays only as long as its writer would keep it."""
    one, theirs = written(b"abcdef")
    other = Segment(KEPT_MAX_BYTES + 1)
    mapping, larger = Mapping(theirs), Mapping(os.dup(other.fd))
    assert (mapping.is_of(one.fd), mapping.is_of(other.fd)) == (True, False)
    assert (mapping.is_worth_keeping, larger.is_worth_keeping) == (True, False)
    one.close()
    other.close()


def test_a_mapping_that_is_shorter_than_its_message_says_is_refused() -> None:
    """Nobody reads beyond its end."""
    number = os.memfd_create("test")
    os.write(number, b"abcdef")
    with pytest.raises(ValueError, match="has 6 bytes and its message says 7"):
        Mapping(number).view(7)


@pytest.mark.parametrize(
    ("wanted", "size", "is_kept"),
    [(70 * KIB, MIB, True), (MIB + 1, 2 * MIB, True), (8 * MIB, 8 * MIB, True), (8 * MIB + 1, 8 * MIB + 1, False)],
)
def test_bodies_that_differ_a_little_share_a_segment(wanted: int, size: int, is_kept: bool) -> None:
    """Powers of two up to the largest that stays; a larger one is as large as its body and goes."""
    segment = Segment(wanted)
    assert (segment.size, segment.is_worth_keeping) == (size, is_kept)
    assert segment.size <= KEPT_MAX_BYTES or not is_kept
    segment.close()


def test_the_reader_cannot_cut_it() -> None:
    """It would be a SIGBUS at the writer's next byte, and the writer is the server."""
    segment, theirs = written(b"abcdef")
    with pytest.raises(PermissionError):
        os.ftruncate(theirs, 0)
    os.close(theirs)
    segment.write([b"still here"])
    segment.close()


@pytest.mark.parametrize("size", [7, 1 << 40])
def test_memory_that_is_shorter_than_its_message_says_is_refused(size: int) -> None:
    """Before a byte of it is allotted."""
    number = os.memfd_create("test")
    os.write(number, b"abcdef")
    with pytest.raises(ValueError, match=f"has 6 bytes and its message says {size}"):
        read_once(number, size)


def test_a_file_that_is_no_memory_is_refused() -> None:
    """A pipe has no size."""
    number, other = os.pipe()
    os.close(other)
    with pytest.raises(ValueError, match="has 0 bytes"):
        read_once(number, 5)


def test_a_segment_that_cannot_be_had_leaves_no_file() -> None:
    """More than a file can be."""
    before = open_files()
    with pytest.raises((OSError, OverflowError)):
        Segment((1 << 63) - 1)
    assert open_files() == before
