"""The versions of a model that its policy wants are served, the highest for who names none."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import InvalidArtifactError
from serving.repository.layouts import ModelSpec, describe
from tests.unit.repository.written import TRITON, write

pytest.importorskip("tritonclient")

THREE = ("1/model.onnx", "2/model.onnx", "10/model.onnx", "011/model.onnx", "x/model.onnx")


def described(folder: Path, policy: str, *names: str) -> ModelSpec:
    return describe("m", write(folder, *(names or THREE), config_pbtxt=policy and f"version_policy {{ {policy} }}"))


@pytest.mark.parametrize(
    ("policy", "version", "others"),
    [
        ("", "10", []),
        ("latest { }", "10", []),
        ("latest { num_versions: 1 }", "10", []),
        ("latest { num_versions: 2 }", "10", ["2"]),
        ("latest { num_versions: 9 }", "10", ["1", "2"]),
        ("all { }", "10", ["1", "2"]),
        ("specific { versions: 2 }", "2", []),
        ("specific { versions: [2, 1] }", "2", ["1"]),
    ],
)
def test_the_versions_of_the_policy_are_served(tmp_path: Path, policy: str, version: str, others: list[str]) -> None:
    """Names that are no numbers or start with 0 are no versions."""
    spec = described(tmp_path, policy)
    assert (spec.version, spec.file) == (version, tmp_path / version / "model.onnx")
    assert [(each.version, each.file.parent.name, each.name) for each in spec.versions] == [
        (other, other, "m") for other in others
    ]
    assert not spec.warnings


@pytest.mark.parametrize("versions", ["3", "[1, 3]", "-1", "11"])
def test_a_version_that_is_not_there_is_refused(tmp_path: Path, versions: str) -> None:
    """By the field and the number."""
    with pytest.raises(InvalidArtifactError, match=rf"version_policy specific {versions.strip('[]').split()[-1]}\b"):
        described(tmp_path, f"specific {{ versions: {versions} }}")


def test_a_model_without_versions_is_version_1(tmp_path: Path) -> None:
    """And no other."""
    assert described(tmp_path, "specific { versions: 1 }", "model.onnx").version == "1"
    with pytest.raises(InvalidArtifactError, match="version_policy specific 2"):
        described(tmp_path, "specific { versions: 2 }", "model.onnx")


def test_python_and_named_files_follow_the_policy(tmp_path: Path) -> None:
    """Whoever handles them."""
    folder = write(tmp_path / "p", "3/x", config_pbtxt='backend: "python" version_policy { specific { versions: 2 } }')
    for version in ("2", "3"):
        write(folder, **{f"{version}__model_py": TRITON})
    assert (describe("p", folder).version, describe("p", folder).file) == ("2", folder / "2" / "model.py")
    policy = 'default_model_filename: "net.onnx" version_policy { specific { versions: 1 } }'
    folder = write(tmp_path / "f", "1/net.onnx", "2/net.onnx", config_pbtxt=policy)
    assert (describe("f", folder).version, describe("f", folder).file) == ("1", folder / "1" / "net.onnx")


def test_every_version_must_be_servable(tmp_path: Path) -> None:
    """A version that the policy wants and that holds nothing is refused, as any model without a model."""
    with pytest.raises(InvalidArtifactError, match="holds no model"):
        described(tmp_path, "all { }", "1/readme.txt", "2/model.onnx")


def test_what_a_version_weighs_is_itself(tmp_path: Path) -> None:
    """Of a model in workers, whose folder is counted: not the versions that another one is, or nobody."""
    folder = write(tmp_path, "README", config_pbtxt='backend: "python" version_policy { latest { num_versions: 2 } }')
    for version in (1, 2, 3):
        write(folder, **{f"{version}__model_py": TRITON})
        (folder / str(version) / "weights").write_bytes(b"x" * (version << 20))
    spec = describe("m", folder)
    assert [each.bytes >> 20 for each in (*spec.versions, spec)] == [2, 3]


def test_tritonserver_loads_the_versions_of_the_policy(tmp_path: Path) -> None:
    """They are its own; only the highest is asked for here, and whoever wants more is told."""
    folder = write(tmp_path, config_pbtxt='platform: "tensorrt_plan" version_policy { latest { num_versions: 2 } }')
    for version in (1, 2, 3):
        (folder / str(version)).mkdir()
        (folder / str(version) / "model.plan").write_bytes(b"x" * (version << 20))
    spec = describe("m", folder)
    assert (spec.version, spec.versions, spec.bytes >> 20) == ("3", (), 5)
    assert "2 cannot be asked for here" in spec.warnings[0]


def test_a_model_beside_its_versions_is_the_only_one(tmp_path: Path) -> None:
    """A file in the folder itself goes before those in versions."""
    assert described(tmp_path, "all { }", "model.onnx", "1/x", "2/x").versions == ()


def test_a_named_folder_holds_the_model(tmp_path: Path) -> None:
    """ONNX with weights beside it, as Triton lays it out."""
    folder = write(tmp_path, "1/net.onnx/model.onnx", config_pbtxt='default_model_filename: "net.onnx"')
    assert describe("m", folder).file == folder / "1" / "net.onnx" / "model.onnx"


def test_versions_may_have_names(tmp_path: Path) -> None:
    """Several, of one too; each of a version that is served."""
    write(tmp_path, *THREE, config_pbtxt="version_policy { all {} }", wharf_toml="labels = { stable = 1, new = 10 }")
    assert describe("m", tmp_path).labels == {"stable": "1", "new": "10"}
    (tmp_path / "wharf.toml").write_text("labels = { new = 4 }")
    with pytest.raises(
        InvalidArtifactError, match="has the label new = 4, and the versions that are served are 1, 2, 10"
    ):
        describe("m", tmp_path)


@pytest.mark.parametrize("labels", ["3", "{ a = 'b' }", "{ 'a/b' = 1 }", "{ 'a:b' = 1 }", "{ '' = 1 }", "{ a = -1 }"])
def test_names_of_versions_are_words_that_fit_a_path(tmp_path: Path, labels: str) -> None:
    """And versions are numbers."""
    write(tmp_path, *THREE, wharf_toml=f"labels = {labels}")
    with pytest.raises(InvalidArtifactError, match="labels = .* and wants a table of versions by name"):
        describe("m", tmp_path)
