"""Archives are unpacked whole and inside, or not at all."""

from __future__ import annotations

import errno
import gzip
import io
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from serving.errors import InsufficientDiskError, InvalidArtifactError
from serving.repository.store import Store, UnpackLimits
from tests.unit.repository import packs
from tests.unit.repository.packs import file_member, member, tar_of, zip_of

LIMITS = UnpackLimits(max_bytes=40 << 20, max_files=50, max_ratio=200)


def unpacked(tmp_path: Path, data: bytes, limits: UnpackLimits = LIMITS) -> Path:
    archive = tmp_path / "m.archive"
    archive.write_bytes(data)
    return Store(tmp_path / "cache", 1 << 30, limits).open(archive).path


def global_header(**records: str) -> bytes:
    data = b"".join(packs.pax_record(key, value) for key, value in records.items())
    return tar_of((member("g", tarfile.XGLTYPE, size=len(data)), data))[: 512 + -(-len(data) // 512) * 512]


def _header(name: str, kind: bytes, size: int) -> bytes:
    return member(name, kind, size=size).tobuf(tarfile.GNU_FORMAT)


def encrypted_zip() -> bytes:
    data = bytearray(zip_of({"m.onnx": b"x"}))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= 1
    return bytes(data)


def lying_zip(size: int) -> bytes:
    """A zip whose directory claims another size for its member than the data has."""
    data = bytearray(zip_of({"m.onnx": b"abc" * 100}))
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, size)
    return bytes(data)


def lzma_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("m.onnx", b"x")
    return out.getvalue()


def nul_zip() -> bytes:
    return zip_of({"a.onnxZ.txt": b"x"}).replace(b"a.onnxZ", b"a.onnx\0")


def sparse_tar() -> bytes:
    return _header("s", tarfile.GNUTYPE_SPARSE, 512) + bytes(512 * 3)


def pax_sparse_tar() -> bytes:
    info, data = file_member("s")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1000000000"}
    return tar_of((info, data))


ZEROS = bytes(32 << 20)
NESTED_LINKS = (member("a", tarfile.SYMTYPE, "."), member("a/b", tarfile.SYMTYPE, ".."), file_member("a/b/out"))
CHAINED_LINKS = (member("sub/d", tarfile.SYMTYPE, ".."), member("sub/e", tarfile.SYMTYPE, "d/.."))

HOSTILE: dict[str, tuple[bytes, str]] = {
    "absolute path": (tar_of(file_member("/etc/evil")), "is absolute"),
    "parent path": (tar_of(file_member("../evil")), "leads out"),
    "parent path inside": (tar_of(file_member("a/../../evil")), "leads out"),
    "zip slip": (zip_of({"../evil": b"x"}), "leads out"),
    "zip absolute": (zip_of({"/evil": b"x"}), "is absolute"),
    "zip backslash": (zip_of({"..\\evil": b"x"}), "backslash"),
    "zip NUL in name": (nul_zip(), "cannot be shown"),
    "symlink out": (tar_of(member("l", tarfile.SYMTYPE, "../../x")), "link"),
    "symlink absolute": (tar_of(member("l", tarfile.SYMTYPE, "/etc/passwd")), "link"),
    "symlink dangling": (tar_of(member("l", tarfile.SYMTYPE, "nothing")), "link"),
    "symlink circle": (tar_of(member("l", tarfile.SYMTYPE, "l")), "link"),
    "symlink empty": (tar_of(member("l", tarfile.SYMTYPE, "")), "link"),
    "zip symlink out": (zip_of({"l": b"/etc/passwd"}, {"l": stat.S_IFLNK | 0o777}), "link"),
    "zip device": (zip_of({"d": b""}, {"d": stat.S_IFBLK | 0o666}), "device"),
    "file through symlink": (tar_of(member("l", tarfile.SYMTYPE, "/tmp"), file_member("l/evil")), "below the symbolic"),
    "file over symlink": (tar_of(member("l", tarfile.SYMTYPE, "/tmp/evil"), file_member("l")), "twice"),
    "file below a file": (tar_of(file_member("f"), file_member("f/g")), "below the file"),
    "nested links": (tar_of(*NESTED_LINKS), "below the symbolic link"),
    "links that combine to lead out": (tar_of(*CHAINED_LINKS), "link"),
    "hard link out": (tar_of(member("h", tarfile.LNKTYPE, "/etc/passwd")), "is absolute"),
    "hard link to parent": (tar_of(member("h", tarfile.LNKTYPE, "../m.archive")), "leads out"),
    "hard link to a symlink": (tar_of(member("l", tarfile.SYMTYPE, "/etc"), member("h", tarfile.LNKTYPE, "l")), "link"),
    "hard link to what comes later": (tar_of(member("h", tarfile.LNKTYPE, "f"), file_member("f")), "link"),
    "character device": (tar_of(member("null", tarfile.CHRTYPE)), "character device"),
    "block device": (tar_of(member("sda", tarfile.BLKTYPE)), "block device"),
    "named pipe": (tar_of(member("pipe", tarfile.FIFOTYPE)), "named pipe"),
    "unknown type": (tar_of(member("odd", b"Q")), "unknown type"),
    "sparse": (sparse_tar(), "sparse"),
    "sparse by pax": (pax_sparse_tar(), "sparse"),
    "control characters": (tar_of(file_member("a\x1b[31m")), "cannot be shown"),
    "not UTF-8": (tar_of(file_member("caf\udce9"), fmt=tarfile.GNU_FORMAT), "cannot be shown"),
    "long part": (tar_of(file_member("n" * 256)), "255"),
    "long name": (tar_of(file_member("/".join(["n" * 200] * 6)[0:1100])), "1024"),
    "duplicate": (tar_of(file_member("f"), file_member("./f")), "twice"),
    "gzip bomb": (gzip.compress(tar_of(file_member("z", ZEROS))), "WHARF_UNPACK_MAX_RATIO"),
    "zip bomb": (zip_of({"z": ZEROS}), "WHARF_UNPACK_MAX_RATIO"),
    "bomb after the end": (gzip.compress(packs.tar() + ZEROS), "WHARF_UNPACK_MAX_RATIO"),
    "too many files": (tar_of(*(file_member(f"f{n}") for n in range(51))), "WHARF_UNPACK_MAX_FILES"),
    "too many folders": (tar_of(file_member("/".join("abcdefghijklmnopqrstuvwxyz" * 2))), "WHARF_UNPACK_MAX_FILES"),
    "zip of too many files": (zip_of({f"f{n}": b"" for n in range(51)}), "WHARF_UNPACK_MAX_FILES"),
    "zip of a huge directory": (zip_of({f"{n:0200}": b"" for n in range(2000)}), "WHARF_UNPACK_MAX_FILES"),
    "too many bytes": (tar_of(*(file_member(f"f{n}", bytes(21 << 20)) for n in range(2))), "WHARF_UNPACK_MAX_BYTES"),
    "huge declared size": (_header("f", tarfile.REGTYPE, 1 << 40), "WHARF_UNPACK_MAX_BYTES"),
    "huge declared size in a zip": (lying_zip(0xFFFFFFF0), "WHARF_UNPACK_MAX_BYTES"),
    "small declared size in a zip": (lying_zip(5), "damaged"),
    "negative size": (_header("f", tarfile.REGTYPE, -5), "negative"),
    "huge pax header": (_header("x", tarfile.XHDTYPE, 1 << 30), "extended header"),
    "pax size that is none": (global_header(size="-1") + packs.tar(), "size"),
    "pax header that does not add up": (_header("x", tarfile.XHDTYPE, 10) + b"99 path=a\n".ljust(512, b"\0"), "pax"),
    "chain of headers": (global_header(comment="x") * 9 + packs.tar(), "in a row"),
    "encrypted zip": (encrypted_zip(), "encrypted"),
    "zip with LZMA": (lzma_zip(), "compression type"),
    "truncated gzip": (packs.tar_gz()[:-9], "damaged or cut short"),
    "truncated tar": (packs.tar()[:2000], "cut short"),
    "tar without an end": (packs.tar()[: 512 + 7168], "cut short"),
    "truncated zip": (packs.zip_of()[:-30], "damaged or cut short"),
    "gzip of no tar": (gzip.compress(b"hello" * 500), "damaged tar header"),
    "damaged header": (packs.tar().replace(b"code/labels", b"code/lobels"), "damaged tar header"),
    "bzip2": (b"BZh91AY" + bytes(600), "bzip2"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_by_name_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    """400 that names the archive and the fault; nothing in the cache, nothing beside it."""
    data, fault = HOSTILE[case]
    with pytest.raises(InvalidArtifactError, match=fault) as caught:
        unpacked(tmp_path, data)
    assert "m.archive" in caught.value.message
    assert caught.value.message.isprintable()
    left = {each.name for each in tmp_path.rglob("*")}
    assert left <= {"m.archive", "cache", ".wharf-lock"}


@pytest.mark.parametrize("data", [packs.tar(), packs.tar_gz(), packs.zip_of(), packs.zip_of(deflate=False)])
def test_every_kind_of_archive_gives_its_files(tmp_path: Path, data: bytes) -> None:
    """The same files come out, whatever the file is called."""
    assert packs.tree(unpacked(tmp_path, data)) == packs.FILES


@pytest.mark.parametrize("fmt", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_of_tar_gives_its_names(tmp_path: Path, fmt: int) -> None:
    """Names past 100 characters, names past ASCII and files of no bytes."""
    files = {"d" * 90 + "/" + "f" * 90: b"1", "größe/naïve.txt": b"", "./plain": b"2" * 512}
    found = packs.tree(unpacked(tmp_path, tar_of(*(file_member(*item) for item in files.items()), fmt=fmt)))
    assert found == {name.removeprefix("./"): data for name, data in files.items()}


def test_long_names_and_long_links_of_gnu_and_pax(tmp_path: Path) -> None:
    """Names and targets past what one header holds."""
    name = "/".join(["n" * 60] * 5)
    link = member("l" * 120, tarfile.SYMTYPE, name)
    for fmt in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        found = unpacked(tmp_path, tar_of(file_member(name, b"hi"), link, fmt=fmt))
        assert (found / ("l" * 120)).read_bytes() == b"hi"


def test_a_tar_of_gnu_tars_own_root_entry_unpacks(tmp_path: Path) -> None:
    """`tar cf m.tar .` begins with './'."""
    assert packs.tree(unpacked(tmp_path, tar_of(member("./", tarfile.DIRTYPE), file_member("./f")))) == {"f": b"x"}


def test_links_that_stay_inside_are_kept(tmp_path: Path) -> None:
    """Shared libraries and caches of weights are full of them."""
    blob, hard_link = file_member("blobs/1", b"so"), member("h", tarfile.LNKTYPE, "blobs/1")
    found = unpacked(tmp_path, tar_of(member("lib/l.so", tarfile.SYMTYPE, "../blobs/1"), blob, hard_link))
    assert (found / "lib" / "l.so").read_bytes() == (found / "h").read_bytes() == b"so"
    assert (found / "lib" / "l.so").is_symlink()


def test_a_link_of_a_zip_is_kept(tmp_path: Path) -> None:
    """Its target is its content."""
    found = unpacked(tmp_path, zip_of({"f": b"x", "l": b"f"}, {"l": stat.S_IFLNK | 0o777}))
    assert (found / "l").readlink() == Path("f")


def test_modes_lose_all_but_the_right_to_run(tmp_path: Path) -> None:
    """No setuid, no setgid, nothing that others may write."""
    found = unpacked(tmp_path, tar_of(file_member("run", mode=0o6777), file_member("read", mode=0o666)))
    assert stat.S_IMODE((found / "run").stat().st_mode) & ~0o755 == 0
    assert (found / "run").stat().st_mode & 0o100
    assert not (found / "read").stat().st_mode & 0o111


def test_case_is_kept(tmp_path: Path) -> None:
    """Two names that differ in case alone are two files."""
    assert packs.tree(unpacked(tmp_path, tar_of(file_member("Model"), file_member("model", b"y")))) == {
        "Model": b"x",
        "model": b"y",
    }


def test_a_small_archive_may_have_any_ratio(tmp_path: Path) -> None:
    """An empty tar.gz is 100:1 by its padding alone."""
    assert packs.tree(unpacked(tmp_path, packs.tar_gz({"z": bytes(1 << 20)}))) == {"z": bytes(1 << 20)}


def test_a_limit_in_the_middle_of_a_lying_zip_counts_what_comes(tmp_path: Path) -> None:
    """The directory says 5 bytes for a member of 300; nobody believes it."""
    with pytest.raises(InvalidArtifactError):
        unpacked(tmp_path, lying_zip(5))


def test_a_full_disk_is_507_and_leaves_nothing(tmp_path: Path) -> None:
    """ENOSPC of the disk itself, whatever the budget says."""
    from serving.repository.archives import ArchiveKind
    from serving.repository.limits import Meter
    from serving.repository.unpack import unpack

    def charge(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = tmp_path / "m.tar"
    archive.write_bytes(packs.tar())
    with archive.open("rb") as file, pytest.raises(InsufficientDiskError, match="WHARF_CACHE_DIR"):
        unpack(file, ArchiveKind.TAR, tmp_path, Meter("m.tar", 1, LIMITS), charge)
