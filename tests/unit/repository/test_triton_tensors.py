"""Inputs and outputs of config.pbtxt: two shapes, what may be left out, and labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import InvalidArtifactError
from serving.repository.config_pbtxt import read_config_pbtxt
from serving.repository.model_config import ModelConfig
from serving.tensors import TensorSpec

pytest.importorskip("tritonclient")


def read(folder: Path, text: str) -> ModelConfig:
    (folder / "config.pbtxt").write_text(text)
    return read_config_pbtxt("m", folder / "config.pbtxt")


def test_a_spec_has_the_clients_dims_and_the_models(tmp_path: Path) -> None:
    """The batch leads both; an empty reshape is a scalar for each sample."""
    text = """
    max_batch_size: 4
    input [{ name: "x" data_type: TYPE_FP32 dims: [2, -1, 6] reshape { shape: [1, 2, -1, 3, 2] } },
           { name: "s" data_type: TYPE_INT32 dims: 1 reshape { } optional: true }]
    """
    assert read(tmp_path, text).inputs == (
        TensorSpec("x", "FP32", (-1, 2, -1, 6), (-1, 1, 2, -1, 3, 2)),
        TensorSpec("s", "INT32", (-1, 1), (-1,), is_optional=True),
    )


@pytest.mark.parametrize(
    ("batch", "dims", "shape", "why"),
    [
        (0, "[1]", "[]", "no scalars"),
        (4, "[4]", "[3]", "different numbers"),
        (4, "[4]", "[0]", "below 1"),
        (4, "[4]", "[-2, -2]", "below 1"),
        (4, "[4]", "[-1]", "different numbers"),
        (4, "[-1, 4]", "[4, -1]", "different numbers"),
        (4, "[2, -1, -1]", "[2, -1]", "different numbers"),
    ],
)
def test_a_reshape_that_cannot_be_is_refused(tmp_path: Path, batch: int, dims: str, shape: str, why: str) -> None:
    """As many elements between the free dims, which stay in order, as Triton wants it."""
    tensor = f'{{ name: "x" data_type: TYPE_FP32 dims: {dims} reshape {{ shape: {shape} }} }}'
    for kind in ("input", "output"):
        with pytest.raises(InvalidArtifactError, match=f"reshape for 'x': .*{why}"):
            read(tmp_path, f"max_batch_size: {batch} {kind} {tensor}")


def test_a_format_wants_three_dims(tmp_path: Path) -> None:
    """As in Triton."""
    with pytest.raises(InvalidArtifactError, match="format for 'x'"):
        read(tmp_path, 'input { name: "x" data_type: TYPE_FP32 dims: [2, 2] format: FORMAT_NHWC }')


@pytest.mark.parametrize("text", [b"cat\ndog\n", b"cat\r\ndog\r\n", b"cat\ndog"])
def test_labels_are_the_lines_of_their_file(tmp_path: Path, text: bytes) -> None:
    """In the model's folder, or below it."""
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "l.txt").write_bytes(text)
    found = read(tmp_path, 'output { name: "y" data_type: TYPE_FP32 dims: 2 label_filename: "labels/l.txt" }')
    assert found.outputs == (TensorSpec("y", "FP32", (2,), labels=("cat", "dog")),)
    assert found.idle == ()


@pytest.mark.parametrize(
    ("name", "why"),
    [("none.txt", "cannot be read"), ("../l.txt", "leads out"), ("/etc/passwd", "leads out"), ("link", "leads out"),
     ("bad.txt", "UTF-8"), ("x" * 5000, "cannot be read")],
)  # fmt: skip
def test_labels_that_are_not_there_or_elsewhere_are_refused(tmp_path: Path, name: str, why: str) -> None:
    """By the name of the field, of the output and of the file."""
    folder = tmp_path / "m"
    folder.mkdir()
    (tmp_path / "l.txt").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "l.txt")
    (folder / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(InvalidArtifactError, match=f"label_filename for 'y'.*{why}"):
        read(folder, f'output {{ name: "y" data_type: TYPE_FP32 dims: 2 label_filename: "{name}" }}')
