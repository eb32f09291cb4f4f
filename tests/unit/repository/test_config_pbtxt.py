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
        ('backend: "python"', "triton_python"),
        ("", None),
    ],
)
def test_backend_and_platform_give_the_format(tmp_path: Path, text: str, format_: str | None) -> None:
    """Torch's backend alone leaves .pt and .pt2 to the file."""
    assert read(tmp_path, text).format == format_


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('backend: "python" sequence_batching { }', "sequence_batching"),
        ('backend: "python" max_batch_size: -1', "max_batch_size"),
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
        ('input { name: "x" data_type: 99 dims: 1 }', "TYPE_99"),
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


PYTHON = """
name: "m" backend: "python" max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [3, -1] }
instance_group [{ count: 2 kind: KIND_CPU }]
dynamic_batching { max_queue_delay_microseconds: 5000000000 }
parameters { key: "EXECUTION_ENV_PATH" value { string_value: "$$TRITON_MODEL_DIRECTORY/env.tar.gz" } }
model_transaction_policy { decoupled: true }
"""


def test_a_python_model_gets_the_whole_configuration_as_json(tmp_path: Path) -> None:
    """Names of fields and enums are the schema's, defaults are there, integers of 64 bits are numbers."""
    found = read(tmp_path, PYTHON).triton
    assert found is not None
    assert found["platform"] == ""
    (tensor,) = found["input"]
    assert (tensor["data_type"], tensor["dims"], tensor["optional"]) == ("TYPE_FP32", [3, -1], False)
    assert found["output"] == []
    assert found["instance_group"][0]["kind"] == "KIND_CPU"
    assert found["instance_group"][0]["count"] == 2
    assert found["dynamic_batching"]["max_queue_delay_microseconds"] == 5_000_000_000
    assert found["parameters"] == {"EXECUTION_ENV_PATH": {"string_value": "$$TRITON_MODEL_DIRECTORY/env.tar.gz"}}
    assert found["model_transaction_policy"] == {"decoupled": True}


def test_the_json_is_what_protobuf_writes_but_for_large_integers(tmp_path: Path) -> None:
    """Protobuf's own JSON has integers of 64 bits as strings; Triton's has not."""
    from google.protobuf import json_format

    file = tmp_path / "config.pbtxt"
    file.write_text(
        PYTHON + "version_policy { specific { versions: [1, 9007199254740993] } } model_warmup { name: 'w' }"
    )
    message = config_pbtxt._parse(file)
    wanted = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    wanted["input"][0]["dims"] = [3, -1]
    wanted["dynamic_batching"]["max_queue_delay_microseconds"] = 5_000_000_000
    wanted["dynamic_batching"]["default_priority_level"] = wanted["dynamic_batching"]["priority_levels"] = 0
    wanted["version_policy"]["specific"]["versions"] = [1, 9007199254740993]
    assert config_pbtxt.as_json(message) == wanted


def test_what_is_not_set_is_not_there(tmp_path: Path) -> None:
    """Whether requests are batched is whether dynamic_batching is there."""
    found = read(tmp_path, 'backend: "python"').triton
    assert found is not None
    assert not {"dynamic_batching", "model_transaction_policy", "version_policy"} & found.keys()


def test_other_backends_have_no_use_for_the_json(tmp_path: Path) -> None:
    """Their configuration is in the fields of ours; without a backend the folder may still hold Triton's Python."""
    assert read(tmp_path, 'backend: "onnxruntime"').triton is None
    assert read(tmp_path, "max_batch_size: 8").triton is not None


def test_a_python_model_needs_no_inputs(tmp_path: Path) -> None:
    """They are left to its auto_complete_config."""
    found = read(tmp_path, 'backend: "python"')
    assert (found.inputs, found.outputs, found.file) == (None, None, None)


def test_a_python_models_own_fields_are_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Instances, batching, parameters and decoupled are no reason for a warning."""
    read(tmp_path, PYTHON)
    assert not caplog.records


def test_what_a_python_model_sets_in_vain_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Down to the fields of the batcher and of the groups."""
    text = """
    backend: "python" optimization { }
    dynamic_batching { preferred_batch_size: [4] preserve_ordering: true }
    instance_group [{ count: 1 kind: KIND_GPU gpus: [0] }]
    """
    with caplog.at_level(logging.WARNING):
        read(tmp_path, text)
    (record,) = caplog.records
    wanted = (
        "dynamic_batching.preferred_batch_size, dynamic_batching.preserve_ordering, instance_group.gpus, "
        "instance_group.kind, optimization,"
    )
    assert wanted in record.getMessage()


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
