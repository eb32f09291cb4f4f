"""A SavedModel is found however it was packed, and told whole from its files alone."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from serving.errors import InvalidArtifactError
from serving.repository.artifact import available
from serving.repository.layouts import describe
from serving.repository.surroundings import Surroundings
from tests.unit.repository.written import handled, worker, write


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


# SavedModel { meta_graphs: MetaGraphDef { graph_def: GraphDef { node: NodeDef { name: "x" } } } }
GRAPH = b"\x08\x01" + _field(2, _field(2, _field(1, _field(1, b"x"))))
SHARD = "variables/variables.data-00000-of-00001"


def saved(folder: Path, *places: str, graph: bytes = GRAPH) -> Path:
    """Lay whole SavedModels into places of a folder."""
    for place in places:
        write(folder / place, "variables/variables.index", SHARD)
        (folder / place / "saved_model.pb").write_bytes(graph)
    return folder


@pytest.mark.parametrize(
    ("places", "found", "version"),
    [
        (["."], ".", "1"),
        (["1"], "1", "1"),
        (["1", "2", "10"], "10", "10"),
        (["00000123"], "00000123", "1"),
        (["0001", "0002"], "0002", "1"),
        (["1700000000"], "1700000000", "1700000000"),
        (["half_plus_two/1"], "half_plus_two/1", "1"),
        (["export/Servo/1700000000"], "export/Servo/1700000000", "1700000000"),
        (["1/model.savedmodel"], "1/model.savedmodel", "1"),
        (["model.savedmodel"], "model.savedmodel", "1"),
        (["2/anything"], "2/anything", "2"),
    ],
)
def test_a_saved_model_is_found(tmp_path: Path, places: list[str], found: str, version: str) -> None:
    """TensorFlow Serving's, Triton's and SageMaker's ways to lay it out; the highest version."""
    spec, handler = worker(saved(tmp_path / "m", *places))
    assert handler.file is not None
    assert handler.file == (tmp_path / "m" / found / "saved_model.pb").resolve()
    assert (handler.dialect, spec.format, spec.version) == ("savedmodel", "tensorflow", version)
    assert (handler.min_workers, handler.max_workers) == (1, 1)


@pytest.mark.parametrize("beside", ["code/requirements.txt", "assets.extra/x", "notes.txt"])
def test_an_export_with_other_folders_beside_is_found(tmp_path: Path, beside: str) -> None:
    """SageMaker's archives have code without an inference.py, too."""
    folder = write(saved(tmp_path / "m", "export/Servo/7", "export/Servo/12"), beside)
    assert handled(folder).file == folder / "export/Servo/12/saved_model.pb"


def test_a_script_beside_it_goes_first(tmp_path: Path) -> None:
    """And gets TensorFlow from the same zygote."""
    text = "def input_handler(data, context): ...\ndef output_handler(data, context): ..."
    spec, handler = worker(write(saved(tmp_path / "m", "export/1"), code__inference_py=text))
    assert (handler.dialect, spec.format) == ("tensorflow", "tensorflow")
    assert worker(write(tmp_path / "n", code__inference_py=text))[0].format == "worker"


def test_another_model_beside_it_goes_first(tmp_path: Path) -> None:
    """What lies deeper down is its export to TensorFlow."""
    assert describe("m", write(saved(tmp_path / "m", "tf/x"), "model.onnx")).format == "onnx"


def test_several_are_refused_and_one_can_be_named(tmp_path: Path) -> None:
    """By its folder or by its graph."""
    folder = saved(tmp_path / "m", "a/1", "b/1", "b/2")
    with pytest.raises(
        InvalidArtifactError, match=r"it has 2 SavedModels \(a, b\): keep one, or name it in a wharf\.toml"
    ):
        describe("m", folder)
    for name in ("a/1", "a/1/saved_model.pb"):
        assert handled(write(folder, wharf_toml=f'file = "{name}"')).file == folder / "a/1/saved_model.pb"


def test_tritons_configuration_rules(tmp_path: Path) -> None:
    """Its instances, threads, signature and tags; what is not acted on is named."""
    text = """platform: "tensorflow_savedmodel" max_batch_size: 8 instance_group { count: 2 kind: KIND_CPU }
    parameters { key: "TF_NUM_INTRA_THREADS" value { string_value: "3" } }
    parameters { key: "TF_SIGNATURE_DEF" value { string_value: "rank" } }
    parameters { key: "TF_GRAPH_TAG" value { string_value: "serve" } }
    parameters { key: "TF_INIT_OPS_FILE" value { string_value: "x" } }"""
    spec, handler = worker(write(saved(tmp_path / "m", "1/model.savedmodel"), config_pbtxt=text))
    assert (handler.min_workers, handler.max_workers, spec.threads) == (2, 2, 3)
    assert handler.options == {"signature": "rank", "tags": "serve"}
    assert len(spec.warnings) == 1
    assert "parameters.TF_INIT_OPS_FILE" in spec.warnings[0]


def test_tritons_file_name_and_versions_hold(tmp_path: Path) -> None:
    """As for every other platform."""
    text = 'backend: "tensorflow" default_model_filename: "net" version_policy { all { } }'
    spec = describe("m", write(saved(tmp_path / "m", "1/net", "3/net"), config_pbtxt=text))
    assert (spec.version, [each.version for each in spec.versions]) == ("3", ["1"])
    assert spec.file == (tmp_path / "m/3/net/saved_model.pb").resolve()


def test_a_platform_that_is_given_away_stays_tritonservers(tmp_path: Path) -> None:
    """Where somebody has one that still runs TensorFlow."""
    text = 'platform: "tensorflow_savedmodel"'
    folder = write(saved(tmp_path / "m", "1/model.savedmodel"), config_pbtxt=text)
    surroundings = Surroundings(triton_backends=("tensorflow_savedmodel",))
    assert describe("m", folder, surroundings=surroundings).format == "triton"


def test_a_platform_without_its_model_is_refused(tmp_path: Path) -> None:
    """With where it belongs."""
    folder = write(tmp_path / "m", "1/x", config_pbtxt='platform: "tensorflow_savedmodel"')
    with pytest.raises(InvalidArtifactError, match=r"has no saved_model\.pb: lay it into 1/model\.savedmodel/"):
        describe("m", folder)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (b"", "'saved_model.pb' is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (GRAPH[:-1], "cut short"),
        (b"\x08\x01", "holds no graph"),
        (_field(2, _field(3, b"")), "holds no graph"),
        (b"what is this", "no SavedModel"),
    ],
)
def test_a_graph_that_is_none_is_refused(tmp_path: Path, graph: bytes, words: str) -> None:
    """From its bytes."""
    with pytest.raises(InvalidArtifactError, match=words):
        describe("m", saved(tmp_path / "m", "1", graph=graph))


@pytest.mark.parametrize("gone", ["variables/variables.index", SHARD])
def test_variables_of_which_a_part_is_missing_are_refused(tmp_path: Path, gone: str) -> None:
    """By name; a model without variables has no such folder."""
    folder = saved(tmp_path / "m", ".")
    (folder / gone).unlink()
    with pytest.raises(InvalidArtifactError, match=f"lacks {gone}"):
        describe("m", folder)
    for each in (folder / "variables").iterdir():
        each.unlink()
    assert handled(folder).dialect == "savedmodel"


def test_all_pieces_of_the_variables_are_wanted(tmp_path: Path) -> None:
    """As their names say how many there are."""
    folder = saved(tmp_path / "m", ".")
    (folder / SHARD).rename(folder / "variables/variables.data-00001-of-00002")
    with pytest.raises(InvalidArtifactError, match=r"lacks variables/variables\.data-00000-of-00002"):
        describe("m", folder)
    write(folder, "variables/variables.data-00000-of-00002")
    assert handled(folder).dialect == "savedmodel"


def test_links_out_of_the_repository_are_refused(tmp_path: Path) -> None:
    """Wherever in the SavedModel they are."""
    folder = saved(tmp_path / "root/m", ".")
    (folder / SHARD).unlink()
    (tmp_path / "secret").write_text("x")
    (folder / SHARD).symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidArtifactError, match="leads outside"):
        describe("m", folder, within=tmp_path / "root")


def test_saved_models_are_listed(tmp_path: Path) -> None:
    """Plain ones, versions and Keras files."""
    saved(tmp_path, "plain", "versions/1", "deep/export/1")
    write(tmp_path, "net.keras", "old.h5")
    assert available(tmp_path) == ["deep", "net.keras", "old.h5", "plain", "versions"]


def test_a_message_of_many_bytes_is_walked(tmp_path: Path) -> None:
    """Lengths of several bytes; the weights are stepped over."""
    inner = _field(1, b"x" * 100) * 50
    sized = bytes([2 << 3 | 2]) + bytes([len(inner) & 0x7F | 0x80, len(inner) >> 7]) + inner
    whole = bytes([2 << 3 | 2]) + bytes([len(sized) & 0x7F | 0x80, len(sized) >> 7]) + sized
    folder = saved(tmp_path / "m", "1", graph=whole + struct.pack("<B", 8) + b"\x01")
    assert handled(folder).dialect == "savedmodel"
