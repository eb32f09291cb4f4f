"""Archives are unpacked once, kept while in use, and give way by least recent use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.errors import InsufficientDiskError, InvalidArtifactError, LoadFailedError, ModelNotFoundError
from serving.repository.store import Opened, Store
from tests.unit.repository import packs

MIB = 1 << 20


def archive(folder: Path, name: str, size: int = MIB, seed: int = 0) -> Path:
    """A tar of one file of `size` bytes and of its own digest."""
    path = folder / name
    path.write_bytes(packs.tar({"model.onnx": bytes((seed,)) * size}))
    return path


def entries(cache: Path) -> list[str]:
    return sorted(each.name for each in cache.iterdir() if len(each.name) == 64)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", 3 * MIB + (64 << 10))


def test_a_folder_is_handed_out_as_it_lies(store: Store, tmp_path: Path) -> None:
    """No copy, no cache, no digest."""
    (tmp_path / "m").mkdir()
    with store.open(tmp_path / "m") as opened:
        assert (opened.path, opened.digest, store.used_bytes) == (tmp_path / "m", None, 0)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("data", [packs.TORCHSCRIPT, packs.EXPORTED, packs.STATE_DICT, packs.onnx(), b"", b"hello"])
def test_a_model_file_is_handed_out_as_it_lies(store: Store, tmp_path: Path, data: bytes) -> None:
    """TorchScript and torch.export are zips, and no archives."""
    (tmp_path / "model").write_bytes(data)
    assert store.open(tmp_path / "model").path == tmp_path / "model"


def test_the_bytes_decide_what_an_archive_is(store: Store, tmp_path: Path) -> None:
    """A platform may name a file anything."""
    (tmp_path / "model.onnx").write_bytes(packs.tar_gz())
    assert packs.tree(store.open(tmp_path / "model.onnx").path) == packs.FILES


def test_the_same_bytes_are_unpacked_once_whatever_their_name(store: Store, tmp_path: Path) -> None:
    """The address is the digest of the bytes."""
    first, second = (store.open(archive(tmp_path, name)) for name in ("a.tar", "b.tar"))
    assert first.path == second.path == tmp_path / "cache" / (first.digest or "")


def test_eight_threads_unpack_one_archive_once(store: Store, tmp_path: Path) -> None:
    """All get the same folder, whole; its files were written once."""
    path = archive(tmp_path, "a.tar", 2 * MIB)
    start = threading.Barrier(8)

    def load(_: int) -> tuple[Path, int]:
        start.wait()
        opened = store.open(path)
        return opened.path, (opened.path / "model.onnx").stat().st_ino

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load, range(8)))) == 1
    assert len(entries(tmp_path / "cache")) == 1
    assert store.used_bytes == 2 * MIB  # and the budget has no room for a second copy


def test_eight_threads_share_eight_archives_within_the_budget(store: Store, tmp_path: Path) -> None:
    """Room for three of one MiB: all are served, none is evicted in use, the budget holds at all times."""
    paths = [archive(tmp_path, f"{n}.tar", MIB // 4, n) for n in range(8)]

    def load(turn: int) -> bool:
        with store.open(paths[turn % 8]) as opened:
            size = (opened.path / "model.onnx").stat().st_size
            return size == MIB // 4 and store.used_bytes <= store.budget_bytes

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(load, range(200)))


def test_the_least_recently_used_gives_way(store: Store, tmp_path: Path) -> None:
    """Exact LRU over opens and releases."""
    paths = [archive(tmp_path, f"{n}.tar", seed=n) for n in range(4)]
    digests = []
    for path in (*paths[:3], paths[0], paths[3]):
        with store.open(path) as opened:
            digests.append(opened.digest)
    assert entries(tmp_path / "cache") == sorted(str(digests[n]) for n in (0, 2, 4))
    assert store.used_bytes <= store.budget_bytes


def test_what_is_in_use_is_never_evicted(store: Store, tmp_path: Path) -> None:
    """507 with both figures, and everything is as before; a release makes room."""
    held = [store.open(archive(tmp_path, f"{n}.tar", seed=n)) for n in range(3)]
    before = store.used_bytes
    with pytest.raises(InsufficientDiskError, match=r"needs at least 1.0 MiB .* 3.1 MiB .*WHARF_DISK_BUDGET"):
        store.open(archive(tmp_path, "3.tar", seed=3))
    assert store.used_bytes == before
    assert all((each.path / "model.onnx").exists() for each in held)
    held[0].release()
    assert store.open(archive(tmp_path, "3.tar", seed=3)).path.exists()
    assert not held[0].path.exists()


def test_two_holds_need_two_releases_and_a_third_does_nothing(store: Store, tmp_path: Path) -> None:
    """Each handle counts once."""
    path = archive(tmp_path, "a.tar", 2 * MIB)
    first, second = store.open(path), store.open(path)
    first.release()
    first.release()
    with pytest.raises(InsufficientDiskError):
        store.open(archive(tmp_path, "b.tar", 2 * MIB, 1))
    second.release()
    store.open(archive(tmp_path, "b.tar", 2 * MIB, 1)).release()


def test_nobody_is_evicted_in_vain(store: Store, tmp_path: Path) -> None:
    """An archive that is too large even packed is refused before anybody gives way."""
    store.open(archive(tmp_path, "a.tar")).release()
    with pytest.raises(InsufficientDiskError):
        store.open(archive(tmp_path, "b.tar", 4 * MIB, 1))
    assert len(entries(tmp_path / "cache")) == 1


def test_an_archive_that_outgrows_the_budget_leaves_nothing(tmp_path: Path) -> None:
    """Its size is known only as it comes."""
    store = Store(tmp_path / "cache", MIB)
    (tmp_path / "a.tgz").write_bytes(packs.tar_gz({"z": bytes(2 * MIB)}))
    with pytest.raises(InsufficientDiskError, match="WHARF_DISK_BUDGET"):
        store.open(tmp_path / "a.tgz")
    assert (store.used_bytes, list((tmp_path / "cache").glob("[!.]*"))) == (0, [])
    assert list((tmp_path / "cache").glob(".wharf-u*")) == []


def test_a_refused_archive_gives_back_what_it_took(store: Store, tmp_path: Path) -> None:
    """The budget is as before, and the next archive fits."""
    (tmp_path / "bad.tar").write_bytes(packs.tar({"z": bytes(2 * MIB)})[: 2 * MIB])
    with pytest.raises(InvalidArtifactError):
        store.open(tmp_path / "bad.tar")
    assert store.used_bytes == 0
    store.open(archive(tmp_path, "a.tar", 2 * MIB))


def test_a_changed_archive_is_another_one(store: Store, tmp_path: Path) -> None:
    """Same name, other bytes; also with the old time stamp and the old size."""
    path = archive(tmp_path, "a.tar")
    os.utime(path, (1e9, 1e9))
    first = store.open(path)
    archive(tmp_path, "a.tar", seed=1)
    os.utime(path, (1e9, 1e9))
    assert store.open(path).digest != first.digest


def test_what_was_unpacked_is_found_after_a_restart_in_its_order(store: Store, tmp_path: Path) -> None:
    """The next server unpacks nothing twice, knows what the disk holds and evicts the oldest first."""
    opened = [store.open(archive(tmp_path, f"{n}.tar", seed=n)) for n in range(3)]
    for age, each in enumerate(opened):
        os.utime(each.path, (1e9 + age, 1e9 + age))
    inode = (opened[2].path / "model.onnx").stat().st_ino
    store.close()
    again = Store(tmp_path / "cache", store.budget_bytes)
    assert again.used_bytes == store.used_bytes
    assert (again.open(tmp_path / "2.tar").path / "model.onnx").stat().st_ino == inode
    again.open(archive(tmp_path, "3.tar", seed=3))
    assert [each.path.exists() for each in opened] == [False, True, True]


def test_leftovers_of_a_killed_process_are_swept_at_the_start(tmp_path: Path) -> None:
    """Half unpacked and half removed folders go, whole ones and foreign files stay."""
    for name in (".wharf-unpacking-x", ".wharf-trash-y", "foreign"):
        (tmp_path / name / "deep").mkdir(parents=True)
    Store(tmp_path, MIB)
    assert sorted(each.name for each in tmp_path.iterdir()) == [".wharf-lock", "foreign"]


def test_an_entry_that_somebody_removed_is_unpacked_again(store: Store, tmp_path: Path) -> None:
    """Cleaners of /tmp exist."""
    path = archive(tmp_path, "a.tar")
    opened = store.open(path)
    opened.release()
    shutil.rmtree(opened.path)
    assert (store.open(path).path / "model.onnx").exists()
    assert store.used_bytes < 2 * MIB


def test_a_cache_folder_that_cannot_be_made_fails_an_archive_and_not_the_start(tmp_path: Path) -> None:
    """Folders and model files are served all the same."""
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "cache", MIB)
    assert isinstance(store.open(tmp_path), Opened)
    with pytest.raises(LoadFailedError, match="WHARF_CACHE_DIR"):
        store.open(archive(tmp_path, "a.tar"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere; the next test drops root")
def test_a_read_only_cache_folder_fails_an_archive_and_not_the_start(tmp_path: Path) -> None:
    """The error names the folder and the setting."""
    (tmp_path / "cache").mkdir(mode=0o555)
    with pytest.raises(LoadFailedError, match="WHARF_CACHE_DIR"):
        Store(tmp_path / "cache", MIB).open(archive(tmp_path, "a.tar"))


_AS_NOBODY = """
import os, sys
from pathlib import Path
from serving.errors import LoadFailedError
from serving.repository.store import Store
os.setuid(65534)
store = Store(Path(sys.argv[1]), 1 << 30)
try:
    store.open(Path(sys.argv[2]))
except LoadFailedError as error:
    print(error.message)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
def test_another_users_cache_folder_fails_an_archive_and_not_the_start(tmp_path: Path) -> None:
    """A child without root's rights meets a read-only folder of root's."""
    for each in (tmp_path, *tmp_path.parents[:2]):
        each.chmod(0o755)
    (tmp_path / "cache").mkdir(mode=0o755)
    command = [sys.executable, "-c", _AS_NOBODY, str(tmp_path / "cache"), str(archive(tmp_path, "a.tar"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "WHARF_CACHE_DIR" in done.stdout
    assert "Permission denied" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
def test_a_cache_folder_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    """Its owner could change what is unpacked there between the unpacking and the load."""
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 65534, 65534)
    with pytest.raises(LoadFailedError, match="another user"):
        Store(tmp_path / "cache", MIB).open(archive(tmp_path, "a.tar"))


def test_a_cache_folder_that_somebody_removed_is_made_again(store: Store, tmp_path: Path) -> None:
    """Whole, while the server runs."""
    store.open(archive(tmp_path, "a.tar")).release()
    shutil.rmtree(tmp_path / "cache")
    assert store.open(archive(tmp_path, "b.tar", seed=1)).path.exists()


def test_an_archive_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """What is unpacked under a digest is what was hashed; half of two versions is neither."""
    path, is_touched, is_done = archive(tmp_path, "a.tar", 32 * MIB), threading.Event(), threading.Event()

    def touch() -> None:
        count = 0
        while not is_done.is_set():
            os.utime(path, ns=(count, count))
            count += 1
            is_touched.set()

    toucher = threading.Thread(target=touch)
    toucher.start()
    is_touched.wait()
    try:
        with pytest.raises(LoadFailedError, match="changed while it was read"):
            Store(tmp_path / "cache", 64 * MIB).open(path)
    finally:
        is_done.set()
        toucher.join()
    assert entries(tmp_path / "cache") == []


_FULL_DISK = """
import sys
from pathlib import Path
from serving.errors import InsufficientDiskError
from serving.repository.store import Store
cache, first, second, third = map(Path, sys.argv[1:])
store = Store(cache, 1 << 30)
store.open(first).release()
held = store.open(second)
print("made room", store.used_bytes)
try:
    store.open(third)
except InsufficientDiskError as error:
    print(error.status, error.message, store.used_bytes, len(list(cache.iterdir())))
"""


def test_a_full_disk_evicts_what_is_idle_and_then_is_507(tmp_path: Path) -> None:
    """A file system of 3 MiB under a budget of 1 GiB: the idle one gives way, the one in use does not."""
    (tmp_path / "cache").mkdir()
    paths = [str(archive(tmp_path, f"{n}.tar", 2 * MIB, n)) for n in range(3)]
    mount = f'mount -t tmpfs -o size=3m tmpfs {tmp_path}/cache && exec "$@"'
    private = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*private, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no private mounts here")
    command = [*private, sys.executable, "-c", _FULL_DISK, f"{tmp_path}/cache", *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    made_room, refused = done.stdout.splitlines()
    assert made_room == f"made room {2 * MIB}"
    assert refused.startswith("507 Archive '2.tar' does not fit the disk")
    assert refused.endswith(f"{2 * MIB} 2")


_HOLD = """
import sys
from pathlib import Path
from serving.repository.store import Store
store = Store(Path(sys.argv[1]), 1 << 30)
print("owned", flush=True)
sys.stdin.read()
"""


def test_one_process_owns_a_cache_folder_until_it_is_killed(tmp_path: Path) -> None:
    """A second server is told so and never sweeps the first one's work; a killed owner leaves the folder free."""
    (tmp_path / "cache").mkdir()
    path = archive(tmp_path, "a.tar")
    command = [sys.executable, "-c", _HOLD, str(tmp_path / "cache")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "owned\n"
        (tmp_path / "cache" / ".wharf-unpacking-live").mkdir()
        store = Store(tmp_path / "cache", 1 << 30)
        with pytest.raises(LoadFailedError, match="another server"):
            store.open(path)
        assert (tmp_path / "cache" / ".wharf-unpacking-live").exists()
        owner.kill()
    assert store.open(path).path.exists()


def test_what_is_no_file_and_what_is_gone_are_errors_by_name(store: Store, tmp_path: Path) -> None:
    """A named pipe would hang whoever opens it."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidArtifactError, match="neither a file nor a folder"):
        store.open(tmp_path / "pipe")
    with pytest.raises(ModelNotFoundError, match=r"gone\.tar"):
        store.open(tmp_path / "gone.tar")


def test_nothing_is_written_beside_the_archive(store: Store, tmp_path: Path) -> None:
    """The model repository may be mounted read-only."""
    root = tmp_path / "models"
    root.mkdir()
    path = archive(root, "a.tar")
    before = root.stat().st_mtime_ns, path.stat().st_ctime_ns
    store.open(path)
    assert (root.stat().st_mtime_ns, path.stat().st_ctime_ns) == before
