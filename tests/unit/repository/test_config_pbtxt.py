"""Triton's configuration is read with Triton's own grammar, and nothing of it is ignored in silence."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import InvalidArtifactError
from serving.repository import config_pbtxt
from serving.repository.config_pbtxt import read_config_pbtxt
from serving.repository.model_config import ModelConfig
from serving.tensors import TensorSpec


def read(tmp_path: Path, text: str) -> ModelConfig:
    file = tmp_path / "config.pbtxt"
    file.write_text(text)
    return read_config_pbtxt(tmp_path.name, file)


def test_what_people_write_is_read(tmp_path: Path) -> None:
    """Comments, brackets, commas; a batch dimension where max_batch_size says so."""
    text = """
    name: "resnet"  # Triton's own check
    platform: "onnxruntime_onnx"
    max_batch_size: 8
    input [{ name: "x", data_type: TYPE_FP32, dims: [ 3, -1, 224 ] }, { name: "s" data_type: TYPE_STRING dims: 1 }]
    output { name: "y" data_type: TYPE_INT64 dims: [] }
    default_model_filename: "net.onnx"
    """
    inputs = (TensorSpec("x", "FP32", (-1, 3, -1, 224)), TensorSpec("s", "BYTES", (-1, 1)))
    outputs = (TensorSpec("y", "INT64", (-1,)),)
    assert read(tmp_path, text) == ModelConfig("onnx", "net.onnx", inputs=inputs, outputs=outputs)


def test_without_a_batch_size_dims_are_literal(tmp_path: Path) -> None:
    """0 is the default, and means: as written."""
    found = read(tmp_path, 'input { name: "x" data_type: TYPE_BOOL dims: [1, 4] }')
    assert found.inputs == (TensorSpec("x", "BOOL", (1, 4)),)
    assert found.outputs is None


@pytest.mark.parametrize(
    ("text", "format_"),
    [
        ('backend: "onnxruntime"', "onnx"),
        ('platform: "pytorch_libtorch"', "torchscript"),
        ('backend: "pytorch"', None),
        ('platform: "torch_aoti" backend: "pytorch"', "torch_export"),
        ("", None),
    ],
)
def test_backend_and_platform_give_the_format(tmp_path: Path, text: str, format_: str | None) -> None:
    """Torch's backend alone leaves .pt and .pt2 to the file."""
    assert read(tmp_path, text).format == format_


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('backend: "python"', "'python'.*does not serve"),
        ('platform: "tensorrt_plan"', "'tensorrt_plan'"),
        ('platform: "tensorflow_savedmodel"', "'tensorflow_savedmodel'"),
        ('platform: "ensemble"', "'ensemble'"),
        ('backend: "pytorch" runtime: "model.py"', "runtime"),
        ("ensemble_scheduling { step [] }", "ensemble_scheduling"),
        ("sequence_batching { }", "sequence_batching"),
        ("model_transaction_policy { decoupled: true }", "decoupled"),
        ("model_repository_agents { agents [{ name: 'checksum' }] }", "model_repository_agents"),
        ("batch_input [{ kind: BATCH_ELEMENT_COUNT }]", "batch_input"),
        ('input { name: "x" data_type: TYPE_FP32 dims: 1 reshape { shape: [] } }', "reshape for 'x'"),
        ('input { name: "x" data_type: TYPE_BF16 dims: 1 }', "TYPE_BF16"),
        ('input { name: "x" dims: 1 }', "TYPE_INVALID"),
        ("input { data_type: TYPE_FP32 dims: 1 }", "without a name"),
        ('input { name: "x" data_type: TYPE_FP32 dims: -2 }', "dims"),
        ('input { name: "x" data_type: TYPE_FP32 dims: 0 }', "dims"),
        ('input [{ name: "x" data_type: TYPE_FP32 dims: 1 }, { name: "x" data_type: TYPE_FP32 dims: 1 }]', "twice"),
        ('max_batch_size: -1 input { name: "x" data_type: TYPE_FP32 dims: 1 }', "max_batch_size"),
        ("frobnicate: 1", "frobnicate"),
        ('name: "x', "cannot be parsed"),
        ("\x00", "cannot be parsed"),
        ("input { dims: 99999999999999999999999 }", "cannot be parsed"),
    ],
)
def test_what_is_wrong_or_not_served_is_refused_by_name(tmp_path: Path, text: str, fault: str) -> None:
    """The field, the value, and why."""
    with pytest.raises(InvalidArtifactError, match=fault):
        read(tmp_path, text)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / "config.pbtxt").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArtifactError, match="cannot be parsed"):
        read_config_pbtxt("m", tmp_path / "config.pbtxt")


def test_fields_that_are_not_acted_on_are_warned_about_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By name, once a model, however often it is loaded."""
    text = """
    dynamic_batching { } instance_group [{ count: 2 }] parameters { key: "k" value { string_value: "v" } }
    input { name: "x" data_type: TYPE_FP32 dims: 1 optional: true }
    model_transaction_policy { decoupled: false }
    """
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            read(tmp_path, text)
    (record,) = caplog.records
    assert f"'{tmp_path.name}' sets dynamic_batching, input.optional, instance_group, parameters" in record.getMessage()


def test_nothing_is_warned_about_where_all_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A plain configuration is silent."""
    read(tmp_path, 'name: "m" backend: "pytorch" input { name: "x" data_type: TYPE_FP32 dims: 1 }')
    assert not caplog.records


def test_without_tritonclient_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only whoever brings a config.pbtxt needs it."""
    config_pbtxt._schema.cache_clear()
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    with pytest.raises(InvalidArtifactError, match=r"pip install wharf-serving\[triton\].*wharf\.toml"):
        read(tmp_path, "")


def test_neither_grpc_nor_protobuf_is_imported_before_there_is_a_config(tmp_path: Path) -> None:
    """A server without Triton's files pays nothing; one with them needs no grpc."""
    code = """
import sys
from pathlib import Path
from serving.repository.layouts import describe
assert not [name for name in sys.modules if name.startswith(("google", "grpc", "triton", "torch", "onnx"))]
from serving.repository.config_pbtxt import read_config_pbtxt
read_config_pbtxt("m", Path(sys.argv[1]))
assert "grpc" not in sys.modules
"""
    (tmp_path / "config.pbtxt").write_text('name: "m"')
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "config.pbtxt")]
    subprocess.run(command, check=True, timeout=60)
