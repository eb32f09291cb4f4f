"""An ONNX model names the files that it is made of; a damaged one is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import InvalidArtifactError
from serving.repository.onnx_files import external_files
from tests.unit.repository import packs


def write(folder: Path, data: bytes) -> Path:
    (folder / "model.onnx").write_bytes(data)
    (folder / "w").touch()
    return folder / "model.onnx"


def test_a_model_without_external_data_is_one_file(tmp_path: Path) -> None:
    """Most are."""
    assert external_files(write(tmp_path, packs.onnx())) == ()


def test_each_external_file_is_named_once(tmp_path: Path) -> None:
    """Many tensors share one file."""
    assert external_files(write(tmp_path, packs.onnx("w", "./w", "w"))) == (tmp_path / "w",)


@pytest.mark.parametrize("location", ["../w", "/etc/passwd", "", "a/../../w", "w\0"])
def test_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    """A model reads no other file of the machine into a tensor."""
    with pytest.raises(InvalidArtifactError, match="outside its folder"):
        external_files(write(tmp_path, packs.onnx(location)))


def test_missing_data_is_refused_by_name(tmp_path: Path) -> None:
    """People forget the second file."""
    with pytest.raises(InvalidArtifactError, match=r"'model\.onnx_data', which is missing"):
        external_files(write(tmp_path, packs.onnx("model.onnx_data")))
    with pytest.raises(InvalidArtifactError, match="which is missing"):
        external_files(write(tmp_path, packs.onnx("n" * 300)))


@pytest.mark.parametrize("cut", [1, 50, 299, 330])
def test_a_file_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    """Its lengths do not add up."""
    with pytest.raises(InvalidArtifactError, match=r"cut short|no graph"):
        external_files(write(tmp_path, packs.onnx()[:-cut]))


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_any_bytes_are_walked_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    """Noise, and noise inside a model."""
    honest = packs.onnx("w")
    for mutated in (data, honest[:at] + data + honest[at:]):
        try:
            external_files(write(tmp_path_factory.mktemp("m"), mutated))
        except InvalidArtifactError as error:
            assert "model.onnx" in error.message


def test_a_real_model_with_external_data_is_walked(tmp_path: Path) -> None:
    """Written by onnx itself."""
    onnx = pytest.importorskip("onnx")
    import numpy as np

    weights = onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    shape = [onnx.helper.make_tensor_value_info(name, 1, [64, 64]) for name in ("x", "y")]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", shape[:1], shape[1:], [weights]))
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="big.bin", size_threshold=0)
    assert external_files(tmp_path / "model.onnx") == (tmp_path / "big.bin",)
