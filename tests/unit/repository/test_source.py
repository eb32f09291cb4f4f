"""Names and urls in, an artifact on disk with its spec out; nothing outside the root."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.errors import BadRequestError, InvalidArtifactError, ModelNotFoundError, UnsupportedError
from serving.repository.overrides import Override
from serving.repository.source import Artifact, ModelSource, validate
from serving.repository.store import Store
from tests.models import make_fake
from tests.unit.repository.packs import onnx, tar_gz, zip_of

FAKE = {"fake.json": b"{}"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty model root."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def _source(
    root: Path, *, single_dir: Path | None = None, allow_fake: bool = True, may_take_files: bool = False
) -> ModelSource:
    store = Store(root.parent / "cache", 1 << 30)
    return ModelSource(root, store, single_dir, allow_fake=allow_fake, may_take_files=may_take_files)


@pytest.mark.parametrize("name", ["iris", "iris.tar.gz"])
def test_a_name_finds_its_archive_with_and_without_suffix(root: Path, name: str) -> None:
    """One canonical name for both."""
    (root / "iris.tar.gz").write_bytes(tar_gz(FAKE))

    assert _source(root).find(name) == ("iris.tar.gz", str(root / "iris.tar.gz"))


def test_what_is_found_is_available_and_can_be_opened(root: Path) -> None:
    """Folders, archives, files."""
    make_fake(root, "folder")
    (root / "packed.zip").write_bytes(zip_of(FAKE))
    (root / "net.onnx").write_bytes(onnx())
    source = _source(root)

    assert source.available() == ["folder", "net.onnx", "packed.zip"]
    formats = [source.open(name, source.find(name)[1]).spec.format for name in source.available()]
    assert formats == ["fake", "onnx", "fake"]


@pytest.mark.parametrize("url", ["/etc", "relative", "s3://b/k", "{root}/../other", "{root}"])
def test_a_url_outside_the_root_is_refused(root: Path, url: str) -> None:
    """400, by `check` and by `open` alike: a folder may have become a link meanwhile."""
    (root.parent / "other").mkdir()
    source = _source(root)
    for ask in (source.check, lambda each: source.open("m", each)):
        with pytest.raises(BadRequestError):
            ask(url.format(root=root))


def test_a_link_out_of_the_root_is_refused(root: Path) -> None:
    """Links are followed before anything is decided."""
    outside = make_fake(root.parent, "outside")
    (root / "link").symlink_to(outside)

    with pytest.raises(BadRequestError):
        _source(root).check(str(root / "link"))
    with pytest.raises(BadRequestError):
        _source(root).find("link")


def test_the_single_models_folder_is_the_one_place_beside_the_root(root: Path) -> None:
    """A single-model endpoint's artifact lies elsewhere; what is below it still does not count."""
    single = make_fake(root.parent, "single")
    source = _source(root, single_dir=single)

    assert source.check(str(single)) == single
    assert source.open("model", str(single)).spec.file == single / "fake.json"
    with pytest.raises(BadRequestError):
        source.check(str(single / "fake.json"))
    with pytest.raises(BadRequestError):
        _source(root).check(str(single))


def test_an_open_archive_stays_on_disk_until_it_is_released(root: Path) -> None:
    """The store may not take it away under a model."""
    (root / "m.tar.gz").write_bytes(tar_gz(FAKE))
    source = _source(root)
    artifact = source.open("m", str(root / "m.tar.gz"))

    assert not source._store._clear()
    artifact.release()
    assert source._store._clear()
    assert not artifact.spec.file.exists()


def test_an_archive_that_cannot_be_served_is_released_at_once(root: Path) -> None:
    """A refusal keeps no disk."""
    (root / "m.tar.gz").write_bytes(tar_gz({"readme.txt": b"nothing"}))
    source = _source(root)
    with pytest.raises(InvalidArtifactError):
        source.open("m", str(root / "m.tar.gz"))

    assert source._store._clear()


def test_a_fake_is_served_only_where_it_is_allowed(root: Path) -> None:
    """Load tests set WHARF_FAKE_BACKEND."""
    make_fake(root, "m")
    with pytest.raises(InvalidArtifactError, match="WHARF_FAKE_BACKEND"):
        _source(root, allow_fake=False).open("m", str(root / "m"))


def test_a_folder_may_link_to_files_elsewhere_in_the_repository(root: Path) -> None:
    """Weights that several models share."""
    real = make_fake(root, "real") / "fake.json"
    linked = root / "linked"
    linked.mkdir()
    (linked / "fake.json").symlink_to(real)

    assert _source(root).open("m", str(linked)).spec.format == "fake"


def test_a_closed_source_gives_its_cache_to_the_next(root: Path) -> None:
    """One process owns a cache folder."""
    (root / "m.tar.gz").write_bytes(tar_gz(FAKE))
    first = _source(root)
    first.open("m", str(root / "m.tar.gz"))
    first.close()

    _source(root).open("m", str(root / "m.tar.gz"))


@pytest.mark.parametrize("kind", ["folder", "archive", "file"])
def test_validate_says_what_a_path_would_be_served_as(root: Path, kind: str) -> None:
    """And leaves nothing behind."""
    before = set(Path("/tmp").glob("wharf-validate-*"))
    path = {"folder": root / "m", "archive": root / "m.tar.gz", "file": root / "m.onnx"}[kind]
    make_fake(root, "m")
    (root / "m.tar.gz").write_bytes(tar_gz(FAKE))
    (root / "m.onnx").write_bytes(onnx())

    assert validate(path).format == ("onnx" if kind == "file" else "fake")
    assert set(Path("/tmp").glob("wharf-validate-*")) <= before


def test_validate_of_nothing_says_so(root: Path) -> None:
    """404's error, with what to give."""
    with pytest.raises(ModelNotFoundError, match="There is nothing at"):
        validate(root / "nothing")


@pytest.mark.parametrize(("name", "count"), [("folder", 2), ("m.tar.gz", None), ("missing", 0)])
def test_the_size_of_an_artifact_is_what_lies_there(root: Path, name: str, count: int | None) -> None:
    """Packed, files of folders together, 0 for what is not to be had."""
    make_fake(root, "folder")
    (root / "m.tar.gz").write_bytes(tar_gz(FAKE))
    wanted = (root / name).stat().st_size if count is None else count

    assert _source(root).size_bytes(str(root / name)) == wanted


# ---- what comes with a load ------------------------------------------------------------------------------------------

MODEL = b"class TritonPythonModel:\n    def execute(self, requests): return []\n"
CONFIG = b'backend: "python" max_batch_size: 8'


def _python(root: Path, name: str = "m", config: bytes = CONFIG) -> Path:
    folder = root / name
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.py").write_bytes(MODEL)
    (folder / "config.pbtxt").write_bytes(config)
    return folder


def _most(opened: Artifact) -> object:
    return (opened.spec.triton or {}).get("max_batch_size")


def test_a_configuration_that_comes_is_used_instead_of_the_models_own(root: Path) -> None:
    """Of a folder, which stays as it is, and of an archive."""
    folder = _python(root)
    (root / "packed.zip").write_bytes(zip_of({"1/model.py": MODEL, "config.pbtxt": CONFIG}))
    source = _source(root)
    for name in ("m", "packed"):
        canonical, hold = source.take(name, Override('{"backend": "python", "max_batch_size": 3}'))
        opened = source.open(canonical, hold.url)
        assert (_most(opened), opened.spec.name) == (3, canonical)
        assert _most(source.open(canonical, source.find(name)[1])) == 8
        hold.release()
        assert source.check(hold.url).exists()
        opened.release()
        with pytest.raises(ModelNotFoundError):
            source.check(hold.url)

    assert (folder / "config.pbtxt").read_bytes() == CONFIG


def test_labels_are_looked_for_in_the_models_own_folder(root: Path) -> None:
    """Where the configuration lies does not matter."""
    (_python(root) / "labels.txt").write_text("cat\ndog\n")
    source = _source(root)
    output = {"name": "y", "data_type": "TYPE_FP32", "dims": [2], "label_filename": "labels.txt"}
    name, hold = source.take("m", Override(json.dumps({"backend": "python", "output": [output]})))

    outputs = source.open(name, hold.url).spec.outputs
    assert outputs is not None
    assert outputs[0].labels == ("cat", "dog")


def test_an_ensemble_may_be_nothing_but_its_configuration(root: Path) -> None:
    """Its steps are other models."""
    (root / "both").mkdir()
    (root / "both/notes.txt").write_text("see the load")
    tensor = {"name": "x", "data_type": "TYPE_FP32", "dims": [2]}
    step = {"model_name": "m", "input_map": {"x": "x"}, "output_map": {"y": "y"}}
    config: dict[str, object] = {"platform": "ensemble", "input": [tensor], "output": [tensor | {"name": "y"}]}
    config["ensemble_scheduling"] = {"step": [step]}
    source = _source(root)
    name, hold = source.take("both", Override(json.dumps(config)))

    assert source.open(name, hold.url).spec.format == "ensemble"


def test_files_that_come_are_the_whole_model(root: Path) -> None:
    """Whether the repository has one of that name or not."""
    _python(root)
    source = _source(root, may_take_files=True)
    for name in ("m", "from_nowhere"):
        canonical, hold = source.take(name, Override("{}", {"7/model.py": MODEL}))
        opened = source.open(canonical, hold.url)
        assert (canonical, opened.spec.version, _most(opened)) == (name, "7", 0)
        assert str(opened.spec.file).startswith(hold.url)


def test_files_are_refused_unless_the_operator_takes_them(root: Path) -> None:
    """They are code."""
    with pytest.raises(UnsupportedError, match="set WHARF_LOAD_FILES to true"):
        _source(root).take("m", Override("{}", {"1/model.py": MODEL}))


def test_a_single_file_has_no_configuration(root: Path) -> None:
    """What came would do nothing."""
    (root / "net.onnx").write_bytes(onnx())
    source = _source(root)
    name, hold = source.take("net", Override("{}"))

    with pytest.raises(InvalidArtifactError, match="is a single file"):
        source.open(name, hold.url)
    hold.release()
    assert source.size_bytes(hold.url) == 0


def test_a_configuration_for_another_model_is_refused(root: Path) -> None:
    """Of the repository's folder, and of a load; not where a model is loaded under another name."""
    _python(root, config=CONFIG + b' name: "another"')
    _python(root, "named", CONFIG + b' name: "named"')
    source = _source(root, may_take_files=True)
    other = '{"backend": "python", "name": "another"}'
    holds = [
        source.take(*each)[1] for each in (("named", Override(other)), ("new", Override(other, {"1/model.py": MODEL})))
    ]
    urls = {"m": str(root / "m"), "named": holds[0].url, "new": holds[1].url}
    for name, url in urls.items():
        with pytest.raises(InvalidArtifactError, match=f"The configuration of '{name}' is for a model 'another'"):
            source.open(name, url)

    assert source.open("named", str(root / "named")).spec.name == "named"
    assert source.open("by-another-name", str(root / "m")).spec.name == "by-another-name"


def test_tritonserver_gets_the_configuration_that_came_and_the_models_own_folder(root: Path) -> None:
    """The one lies in the cache, the other in the repository."""
    folder = _python(root, config=b'platform: "tensorrt_plan"')
    source = _source(root)
    name, hold = source.take("m", Override('{"platform": "tensorrt_plan", "max_batch_size": 3}'))

    spec = source.open(name, hold.url).spec
    assert (spec.format, spec.folder, spec.file) == ("triton", folder, hold.config)
