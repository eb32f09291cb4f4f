"""model_warmup of config.pbtxt as values, and the tensors of their files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from serving.errors import InvalidArtifactError
from serving.repository.config_pbtxt import read_config_pbtxt
from serving.repository.layouts import describe
from serving.repository.warmup import WarmupInput, WarmupSample
from tests.unit.repository.written import write

pytest.importorskip("tritonclient")

FP32 = 'inputs { key: "x" value { data_type: TYPE_FP32 dims: 3 %s } }'


def samples(folder: Path, text: str) -> tuple[WarmupSample, ...]:
    (folder / "config.pbtxt").write_text(f"max_batch_size: 4 {text}")
    return read_config_pbtxt("m", folder / "config.pbtxt").warmup or ()


def test_samples_are_read(tmp_path: Path) -> None:
    """The batch leads the dims; a count of none is one; a batch of none is no sample, as in Triton."""
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "x").write_bytes(b"")
    text = "".join(
        f'model_warmup {{ name: "{name}" batch_size: {batch} {FP32 % kind} }}'
        for name, batch, kind in (
            ("zero", 2, "zero_data: true"),
            ("random", 1, "random_data: true"),
            ("file", 1, 'input_data_file: "x"'),
            ("none", 0, "zero_data: true"),
        )
    )
    assert samples(tmp_path, text) == (
        WarmupSample("zero", 1, (WarmupInput("x", "FP32", (2, 3)),)),
        WarmupSample("random", 1, (WarmupInput("x", "FP32", (1, 3), is_random=True),)),
        WarmupSample("file", 1, (WarmupInput("x", "FP32", (1, 3), file=tmp_path / "warmup" / "x"),)),
    )
    spec = describe("m", write(tmp_path, "model.onnx"))
    assert (len(spec.warmup), spec.warnings) == (3, ())


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('name: "s" batch_size: 5 ' + FP32 % "zero_data: true", "batch_size 5"),
        ('name: "s" batch_size: 1 count: 99999999 ' + FP32 % "zero_data: true", "count 99999999"),
        ('name: "s" batch_size: 1', "inputs none"),
        ('name: "s" batch_size: 1 ' + FP32 % "", "inputs 'x' without its data"),
        ('name: "s" batch_size: 1 ' + FP32 % "dims: -1 zero_data: true", "dims"),
        ('name: "s" batch_size: 1 ' + FP32 % "dims: 9999999999 zero_data: true", "dims"),
        ('name: "s" batch_size: 1 inputs { key: "x" value { zero_data: true } }', "data_type TYPE_INVALID"),
        ('name: "s" batch_size: 1 ' + FP32 % 'input_data_file: "none"', "input_data_file 'none'"),
        ('name: "s" batch_size: 1 ' + FP32 % 'input_data_file: "../../x"', "outside"),
    ],
)
def test_a_sample_that_cannot_be_is_refused(tmp_path: Path, text: str, field: str) -> None:
    """By its name and the field."""
    with pytest.raises(InvalidArtifactError, match=rf"model_warmup 's' the {field}|model_warmup 's'.*{field}"):
        samples(tmp_path, f"model_warmup {{ {text} }}")


def of_file(folder: Path, data: bytes, dtype: str, *dims: int) -> list[object]:
    (folder / "f").write_bytes(data)
    found: list[object] = WarmupInput("x", dtype, dims, file=folder / "f").array().tolist()
    return found


def test_a_file_holds_the_batch_or_one_sample_of_it(tmp_path: Path) -> None:
    """Raw little-endian values; what is over is not read, as in Triton."""
    assert of_file(tmp_path, np.arange(4, dtype="<i4").tobytes(), "INT32", 2, 2) == [[0, 1], [2, 3]]
    assert of_file(tmp_path, np.arange(2, dtype="<i4").tobytes(), "INT32", 2, 2) == [[0, 1], [0, 1]]
    assert of_file(tmp_path, np.arange(3, dtype="<i4").tobytes() + b"x", "INT32", 1, 2) == [[0, 1]]


def test_a_file_of_text_has_lengths(tmp_path: Path) -> None:
    """Four bytes before each string."""
    data = b"".join(struct.pack("<I", len(each)) + each for each in (b"cat", b""))
    assert of_file(tmp_path, data, "BYTES", 1, 2) == [[b"cat", b""]]
    assert of_file(tmp_path, data, "BYTES", 2, 2) == [[b"cat", b""]] * 2


@pytest.mark.parametrize(
    ("data", "dtype", "dims"),
    [(b"xyz", "FP32", (1, 2)), (b"", "FP32", (2,)), (b"", "BYTES", (1,)), (b"\xff\0\0\0a", "BYTES", (1,)),
     (b"\1\0\0\0a" * 4, "BYTES", (2, 3)), (b"\1\0\0\0a" * 2, "BYTES", (3,))],
)  # fmt: skip
def test_a_file_of_another_size_is_refused(tmp_path: Path, data: bytes, dtype: str, dims: tuple[int, ...]) -> None:
    """By its name and the input's."""
    with pytest.raises(InvalidArtifactError, match="input_data_file 'f' of the input 'x'"):
        of_file(tmp_path, data, dtype, *dims)


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    """Between the reading of the configuration and the warm-up."""
    with pytest.raises(InvalidArtifactError, match="cannot be read"):
        WarmupInput("x", "FP32", (1,), file=tmp_path / "f").array()
