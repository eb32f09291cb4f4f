"""What came with a load: within the disk budget, kept while somebody wants it, no file beyond its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import (
    BadRequestError,
    InsufficientDiskError,
    InvalidArtifactError,
    LoadFailedError,
    ModelNotFoundError,
    ServingError,
)
from serving.repository.limits import UnpackLimits
from serving.repository.overrides import Override, Overrides
from serving.repository.store import Store

KIB = 1 << 10
CONFIG = '{"backend": "python", "max_batch_size": 3}'


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With room for a few files."""
    return Store(tmp_path / "cache", 64 * KIB, UnpackLimits(max_files=12))


@pytest.fixture
def overrides(store: Store) -> Overrides:
    """None yet."""
    return Overrides(store)


def left(store: Store) -> list[str]:
    """What lies in the folder of loads."""
    folder = store.folder / "loads"
    return [str(each) for each in folder.iterdir()] if folder.exists() else []


def test_a_configuration_becomes_a_config_pbtxt_and_files_a_folder_of_the_models_name(overrides: Overrides) -> None:
    """What is sent as a config goes before a file of that name."""
    files = {"1/model.py": b"code", "config.pbtxt": b"another", "data/a/b": b""}
    hold = overrides.add("team/m", Override(CONFIG, files))

    assert hold.model is not None
    assert hold.model.name == "m"
    assert (hold.model / "1/model.py").read_bytes() == b"code"
    assert (hold.model / "data/a/b").read_bytes() == b""
    assert "max_batch_size: 3" in (hold.model / "config.pbtxt").read_text()
    assert hold.config.read_text() == (hold.model / "config.pbtxt").read_text()
    assert overrides.add("m", Override(CONFIG)).model is None


def test_it_is_charged_and_goes_with_its_last_hold(overrides: Overrides, store: Store) -> None:
    """A second release of one hold does nothing."""
    hold = overrides.add("m", Override(CONFIG, {"1/model.py": b"x" * 5000}))
    other = overrides.hold(hold.url)
    assert store.used_bytes >= 8 * KIB
    hold.release()
    hold.release()
    assert left(store) == [hold.url]
    assert other is not None
    other.release()

    assert (left(store), store.used_bytes) == ([], 0)
    with pytest.raises(ModelNotFoundError, match="load it again"):
        overrides.hold(hold.url)


def test_it_stays_while_a_model_may_come_back_from_it(overrides: Overrides, store: Store) -> None:
    """Until a sweep after that."""
    wanted = {"yes"}
    overrides.is_wanted = lambda _url: bool(wanted)
    overrides.add("m", Override(CONFIG)).release()
    assert len(left(store)) == 1
    wanted.clear()
    overrides.sweep()

    assert left(store) == []


def test_other_urls_are_none(overrides: Overrides, tmp_path: Path) -> None:
    """Of the model root, of a folder that is not ours."""
    assert overrides.hold(str(tmp_path / "models/m")) is None
    assert overrides.is_one(str(tmp_path / "cache/loads/x"))
    with pytest.raises(ModelNotFoundError):
        overrides.hold(str(tmp_path / "cache/loads/x"))


@pytest.mark.parametrize(
    ("override", "kind", "words"),
    [
        (Override(None, {"1/model.py": b""}), BadRequestError, "no config: send the model's"),
        (Override("{"), InvalidArtifactError, "the config of the load cannot be parsed"),
        (Override("[]"), InvalidArtifactError, "it is no JSON object"),
        (Override('{"nonsense": 1}'), InvalidArtifactError, r'no field named "nonsense" at "ModelConfig"\.\): correct'),
        (Override(CONFIG, {"../../model.py": b""}), BadRequestError, "leads out of the model's folder"),
        (Override(CONFIG, {"/etc/model.py": b""}), BadRequestError, "leads out of the model's folder"),
        (Override(CONFIG, {"a\0b": b""}), InvalidArtifactError, "The load of 'm' has a member whose name"),
        (Override(CONFIG, {"a": b"", "a/b": b""}), InvalidArtifactError, "below the file"),
        (Override(CONFIG, {"": b""}), InvalidArtifactError, "below the file"),
        (Override(CONFIG, {str(each): b"" for each in range(12)}), InvalidArtifactError, "more than 12 files"),
        (Override(CONFIG, {"1/model.py": b"x" * 70_000}), InsufficientDiskError, "WHARF_DISK_BUDGET"),
    ],
)
def test_what_cannot_be_taken_is_refused_and_leaves_nothing(
    overrides: Overrides, store: Store, tmp_path: Path, override: Override, kind: type[ServingError], words: str
) -> None:
    """Neither a file nor a charge, inside or outside."""
    with pytest.raises(kind, match=words):
        overrides.add("m", override)

    assert (left(store), store.used_bytes) == ([], 0)
    assert [each.name for each in tmp_path.iterdir()] in ([], ["cache"])


def test_a_cache_folder_that_takes_nothing_is_named(overrides: Overrides, store: Store) -> None:
    """With the setting that moves it."""
    store.own()
    (store.folder / "loads").write_bytes(b"a file where a folder should be")
    with pytest.raises(LoadFailedError, match="WHARF_CACHE_DIR"):
        overrides.add("m", Override(CONFIG))

    assert store.used_bytes == 0


def test_the_next_server_process_takes_over_what_it_loads_again_and_sweeps_the_rest(
    overrides: Overrides, store: Store
) -> None:
    """As the journal lists it."""
    kept, lost = (overrides.add(name, Override(CONFIG)).url for name in ("kept", "lost"))
    store.close()
    new = Overrides(Store(store.folder, 64 * KIB))
    new.is_wanted = lambda url: url == kept
    new.adopt([kept, "/models/other"])

    assert left(store) == [kept]
    assert new.hold(kept) is not None
    new.adopt([])
    assert left(store) == [kept], "it is ours by now"
    with pytest.raises(ModelNotFoundError):
        new.hold(lost)


def test_one_that_no_longer_fits_the_budget_does_not_keep_others_from_being_taken_over(
    overrides: Overrides, store: Store
) -> None:
    """It goes, and the others are served from and swept as ever."""
    small = [overrides.add(name, Override(CONFIG)).url for name in "ab"]
    large = overrides.add("large", Override(CONFIG, {"1/model.py": b"x" * 20_000})).url
    (store.folder / "loads/left").mkdir()
    store.close()
    new = Store(store.folder, 20 * KIB)
    Overrides(new).adopt([*small, large])

    assert sorted(left(new)) == sorted(small)
    assert new.used_bytes == 16 * KIB


def test_nothing_is_taken_over_where_there_is_nothing(overrides: Overrides, store: Store) -> None:
    """The folder is not even made."""
    overrides.adopt(["/x"])

    assert not (store.folder / "loads").exists()
