"""Whatever the bytes of an archive, the answer is its files or an error of ours, and never a trace outside."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.errors import ServingError
from serving.repository.store import Store, UnpackLimits
from tests.unit.repository import packs
from tests.unit.repository.test_unpack import HOSTILE

SMALL = {"model.onnx": b"weights", "code/labels.txt": b"cat"}
SEEDS = [packs.tar(SMALL), packs.tar_gz(SMALL), packs.zip_of(SMALL), packs.zip_of(SMALL, deflate=False)]
SEEDS += [data for data, _ in HOSTILE.values() if len(data) < 64 << 10]
EDITS = st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=12), st.booleans()), min_size=1, max_size=6)


def edited(data: bytes, edits: list[tuple[int, bytes, bool]]) -> bytes:
    """Overwrite or replace (by other lengths) pieces of `data`."""
    for at, piece, keeps_length in edits:
        place = at % (len(data) + 1)
        data = data[:place] + piece + data[place + (len(piece) if keeps_length else 1) :]
    return data


def check(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "m").write_bytes(data)
        try:
            with Store(folder / "cache", 1 << 20, UnpackLimits(1 << 20, 100, 50)).open(folder / "m") as opened:
                assert opened.path.is_relative_to(folder)
                assert all(each.resolve().is_relative_to(folder) for each in opened.path.rglob("*"))
        except ServingError as error:
            assert error.status in (400, 507), error
            assert not list((folder / "cache").glob("*"))[1:]
        assert {each.name for each in folder.iterdir()} <= {"m", "cache"}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(SEEDS), EDITS)
def test_an_archive_with_edits_is_answered(seed: bytes, edits: list[tuple[int, bytes, bool]]) -> None:
    """Headers, names, sizes, checksums and directories get other bytes."""
    check(edited(seed, edits))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SEEDS), EDITS)
def test_an_edited_tar_under_an_honest_gzip_is_answered(seed: bytes, edits: list[tuple[int, bytes, bool]]) -> None:
    """The checksum of gzip would hide most edits from the reader of tars."""
    check(gzip.compress(edited(seed, edits)))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SEEDS), st.floats(0, 1))
def test_an_archive_cut_short_is_answered(seed: bytes, share: float) -> None:
    """At every length."""
    check(seed[: int(len(seed) * share)])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([b"", b"\x1f\x8b\x08\0", b"PK\x03\x04", b"PK\x05\x06"]), st.binary(max_size=2000))
def test_any_bytes_behind_a_magic_number_are_answered(magic: bytes, data: bytes) -> None:
    """Noise is refused like any damaged file."""
    check(magic + data)
