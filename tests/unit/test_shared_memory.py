"""Regions that clients register: read, written, refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.errors import BadRequestError, UnsupportedError
from serving.shared_memory import Regions


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

    regions.write("r", 1, 4, b"abcd")

    assert (tmp_path / "key").read_bytes()[4:10] == bytes([4]) + b"abcd" + bytes([9])


def test_regions_are_described_by_name_and_all_together(regions: Regions) -> None:
    """As the status route has them."""
    described = {"name": "r", "key": "/key", "offset": 4, "byte_size": 8}
    assert regions.status("r") == regions.status() == [described]


@pytest.mark.parametrize(("offset", "count"), [(0, 9), (8, 1), (-1, 2), (0, -1)])
def test_nothing_outside_of_the_region_is_read(regions: Regions, offset: int, count: int) -> None:
    """Though the file goes on."""
    with pytest.raises(BadRequestError, match="Invalid offset"):
        regions.read("r", offset, count)


def test_an_output_larger_than_its_room_is_refused(regions: Regions) -> None:
    """And nothing is written."""
    with pytest.raises(BadRequestError, match="at least 5 bytes to hold"):
        regions.write("r", 0, 4, b"abcde")
    assert bytes(regions.read("r", 0, 4)) == bytes([4, 5, 6, 7])


def test_a_file_that_its_client_cuts_short_is_an_error_and_no_crash(regions: Regions, tmp_path: Path) -> None:
    """A mapping would end the process with SIGBUS."""
    os.truncate(tmp_path / "key", 6)
    with pytest.raises(BadRequestError, match="cut short: 2 of 8"):
        regions.read("r", 0, 8)


@pytest.mark.parametrize("key", ["", "/", "a/b", "../key", "..", "missing", "link", "folder"])
def test_keys_are_files_of_that_folder_alone(regions: Regions, tmp_path: Path, key: str) -> None:
    """No path, no link, no folder, nothing that is not there."""
    (tmp_path / "link").symlink_to("/etc/hostname")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadRequestError):
        regions.register("other", key, 0, 1)


@pytest.mark.parametrize(("offset", "size"), [(0, 17), (16, 1), (0, 0)])
def test_a_region_larger_than_its_file_is_refused(regions: Regions, offset: int, size: int) -> None:
    """With both sizes."""
    with pytest.raises(BadRequestError, match="the key has 16"):
        regions.register("other", "key", offset, size)


def test_a_name_is_taken_until_it_is_let_go(regions: Regions) -> None:
    """An unknown one is let go without an error, as with Triton."""
    with pytest.raises(BadRequestError, match="already in manager"):
        regions.register("r", "key", 0, 1)
    regions.unregister("r")
    regions.unregister("r")
    with pytest.raises(BadRequestError, match="Unable to find system shared memory region: 'r'"):
        regions.read("r", 0, 1)
    regions.register("r", "key", 0, 1)
    regions.unregister()
    assert regions.status() == []


def test_off_is_off(tmp_path: Path) -> None:
    """The default: whoever may register reads other programs' memory."""
    off = Regions(is_on=False, folder=tmp_path)
    for call in (off.status, off.unregister, lambda: off.register("r", "key", 0, 1), lambda: off.read("r", 0, 1)):
        with pytest.raises(UnsupportedError, match="WHARF_SHARED_MEMORY"):
            call()
