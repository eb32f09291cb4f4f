"""An ensemble packed with its members is one model."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import InvalidArtifactError
from serving.repository.explained import explained
from serving.repository.layouts import ModelSpec, describe
from tests.unit.repository.written import write

pytest.importorskip("tritonclient")

TENSORS = 'input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }'
STEP = 'step {{ model_name: "{}" input_map {{ key: "a" value: "x" }} output_map {{ key: "b" value: "y" }} }}'


def ensemble(*members: str) -> str:
    """A config.pbtxt of an ensemble from x to y, whose further steps write what nobody reads."""
    steps = [STEP.format(each).replace('"y"', f'"{"y" if n == 0 else n}"') for n, each in enumerate(members)]
    return f'platform: "ensemble" {TENSORS} ensemble_scheduling {{ {" ".join(steps)} }}'


def bundle(folder: Path, **ensembles: str) -> ModelSpec:
    """Describe an archive of two models and these ensembles."""
    for name in ("net", "post"):
        write(folder / name, "1/model.onnx", config_pbtxt='backend: "onnxruntime"')
    for name, config in ensembles.items():
        (folder / name / "1").mkdir(parents=True)
        write(folder / name, config_pbtxt=config)
    return describe("all.tar.gz", folder)


def test_the_ensemble_is_the_model_and_its_steps_are_members(tmp_path: Path) -> None:
    """Members are named below it, as they are nobody else's."""
    spec = bundle(tmp_path, ens=ensemble("net", "post"))
    assert (spec.name, spec.format, spec.file) == ("all.tar.gz", "ensemble", tmp_path / "ens/config.pbtxt")
    assert [(each.name, each.format) for each in spec.members] == [
        ("all.tar.gz/net", "onnx"),
        ("all.tar.gz/post", "onnx"),
    ]
    assert spec.parts == spec.members
    assert ("member", "all.tar.gz/post: onnx") in explained(spec)
    assert not spec.warnings


def test_a_folder_that_is_no_step_is_warned_about(tmp_path: Path) -> None:
    """By name; it is not loaded."""
    spec = bundle(tmp_path, ens=ensemble("net"))
    assert [each.name for each in spec.members] == ["all.tar.gz/net"]
    assert spec.warnings == ("The folder 'post' of 'all.tar.gz' is no step of its ensemble: it is not loaded.",)


def test_a_step_may_be_an_ensemble_of_its_own(tmp_path: Path) -> None:
    """The entry is the one that no other calls."""
    spec = bundle(tmp_path, outer=ensemble("inner"), inner=ensemble("net", "post"))
    assert spec.file.parent.name == "outer"
    assert [each.name.rpartition("/")[2] for each in spec.members] == ["inner", "net", "post"]


def test_a_step_that_is_not_in_the_archive_is_the_repositorys(tmp_path: Path) -> None:
    """It is looked for at the load."""
    assert [each.name for each in bundle(tmp_path, ens=ensemble("net", "elsewhere")).members] == ["all.tar.gz/net"]


def test_members_have_versions_of_their_own(tmp_path: Path) -> None:
    """Named as the member is."""
    policy = 'backend: "onnxruntime" version_policy { all { } }'
    write(tmp_path / "net", "1/model.onnx", "2/model.onnx", config_pbtxt=policy)
    write(tmp_path / "ens", config_pbtxt=ensemble("net"))
    (member,) = describe("a", tmp_path).members
    assert (member.version, [(each.name, each.version) for each in member.versions]) == ("2", [("a/net", "1")])


def test_two_ensembles_side_by_side_are_refused(tmp_path: Path) -> None:
    """Nobody knows which of them is meant."""
    with pytest.raises(InvalidArtifactError, match=r"holds the ensembles \['one', 'two'\]"):
        bundle(tmp_path, one=ensemble("net"), two=ensemble("post"))


def test_a_circle_of_ensembles_is_refused(tmp_path: Path) -> None:
    """It has no entry."""
    with pytest.raises(InvalidArtifactError, match="must be the one to call"):
        bundle(tmp_path, one=ensemble("two"), two=ensemble("one"))


def test_a_folder_with_a_config_of_its_own_is_no_bundle(tmp_path: Path) -> None:
    """It is a model, whatever lies below."""
    write(tmp_path, "1/model.onnx", config_pbtxt='backend: "onnxruntime"')
    assert bundle(tmp_path, ens=ensemble("net")).format == "onnx"


def test_models_without_an_ensemble_are_no_bundle(tmp_path: Path) -> None:
    """And no model: what to name is said."""
    with pytest.raises(InvalidArtifactError, match="holds no model"):
        bundle(tmp_path)


def test_a_configuration_that_comes_with_the_load_is_for_none_of_them(tmp_path: Path) -> None:
    """Nothing would say whose it is."""
    bundle(tmp_path, ens=ensemble("net", "post"))
    with pytest.raises(InvalidArtifactError, match="is an ensemble with its members and takes no configuration"):
        describe("all.tar.gz", tmp_path, config_file=tmp_path / "ens/config.pbtxt")
