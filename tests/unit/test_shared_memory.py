"""Regions that clients register: read, written, refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from serving.errors import BadRequestError, PayloadTooLargeError, UnavailableError, UnsupportedError
from serving.shared_memory import RegionFailedError, Regions, RegionTakenError, UnknownRegionError


@pytest.fixture
def regions(tmp_path: Path) -> Regions:
    """One region `r` of 8 bytes at 4 of a file of 16."""
    (tmp_path / "key").write_bytes(bytes(range(16)))
    made = Regions(is_on=True, folder=tmp_path)
    made.register("r", "/key", 4, 8)
    return made


def test_bytes_are_read_and_written_at_an_offset_of_the_region(regions: Regions, tmp_path: Path) -> None:
    """Which itself begins at an offset of the file."""
    assert bytes(regions.read("r", 2, 3)) == bytes([6, 7, 8])

    regions.write("r", 1, 4, b"abcd", "y")

    assert (tmp_path / "key").read_bytes()[4:10] == bytes([4]) + b"abcd" + bytes([9])


def test_regions_are_described_by_name_and_all_together(regions: Regions) -> None:
    """As the status route has them."""
    described = {"name": "r", "key": "/key", "offset": 4, "byte_size": 8}
    assert regions.status("r") == regions.status() == [described]


PLACES: list[tuple[int, int, str]] = [
    (0, 9, "offset + byte size for"),
    (8, 1, "offset for"),
    (-1, 2, "offset for"),
    (0, -1, "offset + byte size for"),
    (0, 0, "offset + byte size for"),
]


@pytest.mark.parametrize(("offset", "count", "what"), PLACES)
def test_nothing_outside_of_the_region_is_read(regions: Regions, offset: int, count: int, what: str) -> None:
    """Though the file goes on; an output's place is checked in the same way."""
    for ask in (regions.read, regions.check):
        with pytest.raises(BadRequestError, match=re.escape(f"Invalid {what} shared memory region: 'r'")):
            ask("r", offset, count)
    regions.check("r", 0, 8)


def test_an_output_larger_than_its_room_is_refused(regions: Regions) -> None:
    """By the output's name, and nothing is written."""
    text = r"request for output 'y' \(4 bytes\) should be at least 5 bytes to hold the results"
    with pytest.raises(RegionFailedError, match=text):
        regions.write("r", 0, 4, b"abcde", "y")
    assert bytes(regions.read("r", 0, 4)) == bytes([4, 5, 6, 7])


def test_room_that_is_larger_than_the_output_stays_as_it_was(regions: Regions) -> None:
    """Behind the output's bytes."""
    regions.write("r", 0, 4, b"ab", "y")
    assert bytes(regions.read("r", 0, 4)) == b"ab" + bytes([6, 7])


def test_a_file_that_its_client_cuts_short_is_an_error_and_no_crash(regions: Regions, tmp_path: Path) -> None:
    """A mapping would end the process with SIGBUS."""
    os.truncate(tmp_path / "key", 6)
    with pytest.raises(BadRequestError, match="cut short: 2 of 8"):
        regions.read("r", 0, 8)


def test_what_is_read_and_held_stays_below_a_limit(tmp_path: Path) -> None:
    """A sparse file may claim any size; what is in flight counts until its last array is gone."""
    with (tmp_path / "key").open("wb") as file:
        file.truncate(1 << 40)
    regions = Regions(is_on=True, folder=tmp_path, max_bytes=1000)
    regions.register("r", "key", 0, 1 << 40)
    with pytest.raises(PayloadTooLargeError, match=r"^1073741824 bytes are to be read .* 'r' and at most 1000 are"):
        regions.read("r", 0, 1 << 30)
    array = np.frombuffer(regions.read("r", 0, 600), np.uint8)
    with pytest.raises(UnavailableError, match=r"hold 600 of 1000 bytes \(WHARF_BODY_MEMORY\)"):
        regions.read("r", 0, 401)
    assert len(regions.read("r", 0, 400)) == 400
    del array
    assert regions.read("r", 0, 1000).readonly


def test_bytes_that_the_machine_has_not_are_given_back(
    regions: Regions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The allocator says no, and the next one is not refused for it."""
    regions = Regions(is_on=True, folder=tmp_path, max_bytes=8)
    regions.register("r", "key", 0, 8)
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr("serving.shared_memory._Read", _no_memory)
        regions.read("r", 0, 8)
    assert len(regions.read("r", 0, 8)) == 8


def _no_memory(_: int) -> bytearray:
    raise MemoryError


@pytest.mark.parametrize("key", ["", "/", "a/b", "../key", "..", "missing", "link"])
def test_keys_are_files_of_that_folder_alone(
    regions: Regions, tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No path, no link, nothing that is not there; the log has the reason."""
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(RegionFailedError, match=f"Unable to open shared memory region: '{re.escape(key)}'$"):
        regions.register("other", key, 0, 1)
    assert f"event=region_not_opened key={key!r} reason=" in caplog.text


def test_a_folder_is_no_region(regions: Regions, tmp_path: Path) -> None:
    """Nor anything else that has no bytes."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadRequestError, match="invalid args"):
        regions.register("other", "pipe", 0, 1)


@pytest.mark.parametrize(
    ("offset", "size", "reason"),
    [(0, 17, "invalid args"), (16, 1, "invalid args"), (0, 0, "unable to process address spaceInvalid argument")],
)
def test_a_region_larger_than_its_file_is_refused(regions: Regions, offset: int, size: int, reason: str) -> None:
    """And one of nothing."""
    with pytest.raises(BadRequestError, match=f"failed to register shared memory region 'other': {reason}$"):
        regions.register("other", "key", offset, size)


def test_a_name_is_taken_until_it_is_let_go(regions: Regions) -> None:
    """An unknown one is let go without an error, as with Triton."""
    with pytest.raises(RegionTakenError, match="already in manager"):
        regions.register("r", "key", 0, 1)
    regions.unregister("r")
    regions.unregister("r")
    with pytest.raises(UnknownRegionError, match="Unable to find shared memory region: 'r'"):
        regions.read("r", 0, 1)
    with pytest.raises(UnknownRegionError, match="Unable to find system shared memory region: 'r'"):
        regions.status("r")
    regions.register("r", "key", 0, 1)
    regions.unregister()
    assert regions.status() == []


def test_a_region_has_a_name(regions: Regions) -> None:
    """In the path or the message."""
    with pytest.raises(BadRequestError, match="'region name' is necessary to register"):
        regions.register("", "key", 0, 1)


def test_statuses_are_tritons() -> None:
    """Over both wires."""
    kinds = (UnknownRegionError, RegionTakenError, RegionFailedError)
    assert [(kind.status, kind.grpc_code) for kind in kinds] == [
        (404, "NOT_FOUND"),
        (400, "ALREADY_EXISTS"),
        (500, "INTERNAL"),
    ]


def test_off_is_off(tmp_path: Path) -> None:
    """The default: whoever may register reads other programs' memory."""
    off = Regions(is_on=False, folder=tmp_path)
    for call in (off.status, off.unregister, lambda: off.register("r", "key", 0, 1), lambda: off.read("r", 0, 1)):
        with pytest.raises(UnsupportedError, match="WHARF_SHARED_MEMORY"):
            call()
