"""Triton's configuration is read with Triton's own grammar, and nothing of it is ignored in silence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import InvalidArtifactError
from serving.repository import triton_schema
from serving.repository.config_pbtxt import read_config_pbtxt, warnings_of
from serving.repository.model_config import ModelConfig
from serving.tensors import TensorSpec


def read(tmp_path: Path, text: str) -> ModelConfig:
    file = tmp_path / "config.pbtxt"
    file.write_text(text)
    return read_config_pbtxt(tmp_path.name, file)


def warned(tmp_path: Path, text: str, *, is_python: bool = False) -> str:
    """Return the fields that the one warning names."""
    sentences = warnings_of("m", read(tmp_path, text), is_python=is_python)
    return "".join(sentences).removeprefix("config.pbtxt of 'm' sets ").split(", which this")[0]


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
    found = read(tmp_path, text)
    assert (found.format, found.file, found.inputs, found.outputs) == ("onnx", "net.onnx", inputs, outputs)


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
        ('platform: "caffe2_netdef"', "'caffe2_netdef'"),
        ('platform: "ensemble"', "one of platform 'ensemble' and ensemble_scheduling without the other"),
        ('backend: "pytorch" runtime: "model.py"', "runtime"),
        ('backend: "python" ensemble_scheduling { step [] }', "ensemble_scheduling"),
        ("ensemble_scheduling { step [] } instance_group [{}]", "sets instance_group: an ensemble only calls"),
        ("sequence_batching { }", "sequence_batching"),
        ("model_transaction_policy { decoupled: true }", "decoupled"),
        ("model_repository_agents { agents [{ name: 'checksum' }] }", "model_repository_agents"),
        ("batch_input [{ kind: BATCH_ELEMENT_COUNT }]", "batch_input"),
        ('input { name: "x" data_type: TYPE_FP32 dims: 1 is_shape_tensor: true }', "is_shape_tensor for 'x'"),
        ('input { name: "x" data_type: TYPE_BF16 dims: 1 }', "TYPE_BF16"),
        ('input { name: "x" dims: 1 }', "TYPE_INVALID"),
        ('input { name: "x" data_type: 99 dims: 1 }', "TYPE_99"),
        ("input { data_type: TYPE_FP32 dims: 1 }", "without a name"),
        ('input { name: "x" data_type: TYPE_FP32 dims: -2 }', "dims"),
        ('input { name: "x" data_type: TYPE_FP32 dims: 0 }', "dims"),
        ('input [{ name: "x" data_type: TYPE_FP32 dims: 1 }, { name: "x" data_type: TYPE_FP32 dims: 1 }]', "twice"),
        ('max_batch_size: -1 input { name: "x" data_type: TYPE_FP32 dims: 1 }', "max_batch_size"),
        ("dynamic_batching { preferred_batch_size: 8 } max_batch_size: 4", "preferred_batch_size 8"),
        ("dynamic_batching { preferred_batch_size: 0 } max_batch_size: 4", "preferred_batch_size 0"),
        ("dynamic_batching { max_queue_delay_microseconds: 90000000000 }", "max_queue_delay_microseconds"),
        ("dynamic_batching { priority_levels: 2 default_priority_level: 3 }", "default_priority_level 3"),
        ("dynamic_batching { priority_levels: 2 }", "default_priority_level 0"),
        ("dynamic_batching { priority_levels: 99999999 default_priority_level: 3 }", "priority_levels 99999999"),
        (
            "dynamic_batching { priority_levels: 1 default_priority_level: 1 priority_queue_policy { key: 2 } }",
            "priority_queue_policy 2",
        ),
        (
            "dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }",
            "priority_levels",
        ),
        ("dynamic_batching { preserve_ordering: true default_queue_policy { timeout_action: DELAY } }", "DELAY"),
        (
            "backend: 'python' dynamic_batching { preserve_ordering: true } "
            "model_transaction_policy { decoupled: true }",
            "preserve_ordering and decoupled",
        ),
        ("instance_group { count: -1 }", "instance_group.count -1"),
        ("instance_group { count: 100000 }", "instance_group.count 100000"),
        ("instance_group { kind: KIND_CPU gpus: 0 }", "instance_group.gpus"),
        ('parameters { key: "NUM_THREADS" value { string_value: "many" } }', "parameters.NUM_THREADS 'many'"),
        ('parameters { key: "DISABLE_OPTIMIZED_EXECUTION" }', "DISABLE_OPTIMIZED_EXECUTION"),
        ("version_policy { specific { } }", "version_policy"),
        (
            "response_cache { enable: true } backend: 'python' model_transaction_policy { decoupled: true }",
            "response_cache",
        ),
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


def test_fields_that_are_not_acted_on_are_warned_about_by_name(tmp_path: Path) -> None:
    """In one sentence; what is acted on, or is so anyway, is not in it."""
    text = """
    max_batch_size: 4 dynamic_batching { } instance_group [{ count: 2 host_policy: "p" }]
    parameters [{ key: "k" value { string_value: "v" } }, { key: "INFERENCE_MODE" value { string_value: "true" } }]
    input { name: "x" data_type: TYPE_FP32 dims: [1, 1, 1] optional: true allow_ragged_batch: true format: FORMAT_NCHW }
    optimization { priority: PRIORITY_MAX } metric_tags { key: "a" value: "b" } model_metrics { }
    cc_model_filenames { key: "7.5" value: "b" } response_cache { enable: true }
    model_transaction_policy { decoupled: false }
    """
    assert warned(tmp_path, text) == (
        "cc_model_filenames, input.allow_ragged_batch, input.format, instance_group.host_policy, metric_tags, "
        "model_metrics, optimization, parameters.k, response_cache"
    )


def test_a_gpu_is_warned_about_where_there_is_none(tmp_path: Path) -> None:
    """And CPU instances stay on the CPU of a server with one."""
    text = "instance_group { kind: KIND_GPU gpus: 0 }"
    assert warned(tmp_path, text) == "instance_group.gpus, instance_group.kind"
    found = read_config_pbtxt("m", tmp_path / "config.pbtxt", "cuda")
    assert (found.device, found.idle) == ("cuda:0", ())
    (tmp_path / "config.pbtxt").write_text("instance_group { kind: KIND_CPU }")
    assert read_config_pbtxt("m", tmp_path / "config.pbtxt", "cuda").device == "cpu"
    assert read_config_pbtxt("m", tmp_path / "config.pbtxt").device is None


@pytest.mark.parametrize(
    ("groups", "device"),
    [
        ("{ kind: KIND_AUTO }", None),
        ("{ count: 2 }", None),
        ("{ kind: KIND_MODEL }", None),
        ("{ kind: KIND_GPU }", "cuda"),
        ("{ kind: KIND_AUTO gpus: [1] }", "cuda:1"),
        ("{ kind: KIND_GPU gpus: [1] }, { kind: KIND_CPU }", "cuda:1"),
    ],
)
def test_instance_groups_say_where_a_model_runs(tmp_path: Path, groups: str, device: str | None) -> None:
    """None is the server's choice; nothing is warned about."""
    (tmp_path / "config.pbtxt").write_text(f"instance_group [{groups}]")
    found = read_config_pbtxt("m", tmp_path / "config.pbtxt", "cuda")
    assert (found.device, found.idle) == (device, ())


def test_of_several_gpus_a_model_is_on_one(tmp_path: Path) -> None:
    """Triton puts instances on each; here the house chooses, and the list is warned about."""
    (tmp_path / "config.pbtxt").write_text("instance_group [{ kind: KIND_GPU gpus: [0, 1] }]")
    found = read_config_pbtxt("m", tmp_path / "config.pbtxt", "cuda")
    assert (found.device, found.idle) == ("cuda", ("instance_group.gpus",))


@pytest.mark.parametrize("name", ["intra_op_thread_count", "INTRA_OP_THREAD_COUNT", "NUM_THREADS"])
def test_parameters_of_triton_s_backends_set_what_we_have(tmp_path: Path, name: str) -> None:
    """Threads, by three names, and plain graphs; 0 threads are the runtime's choice."""
    plain = 'parameters { key: "DISABLE_OPTIMIZED_EXECUTION" value { string_value: "true" } }'
    threads = f'parameters {{ key: "{name}" value {{ string_value: "3" }} }}'
    found = read(tmp_path, plain + threads)
    assert (found.threads, found.optimize, found.idle) == (3, False, ())
    found = read(tmp_path, (plain + threads).replace("true", "false").replace("3", "0"))
    assert (found.threads, found.optimize) == (None, None)
    found = read(tmp_path, 'backend: "python"' + plain + threads)
    assert (found.threads, found.optimize, found.idle_in_python) == (None, None, ())


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

    message = triton_schema.parse(
        PYTHON + "version_policy { specific { versions: [1, 9007199254740993] } } model_warmup { name: 'w' }"
    )
    wanted = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    wanted["input"][0]["dims"] = [3, -1]
    wanted["dynamic_batching"]["max_queue_delay_microseconds"] = 5_000_000_000
    wanted["dynamic_batching"]["default_priority_level"] = wanted["dynamic_batching"]["priority_levels"] = 0
    wanted["version_policy"]["specific"]["versions"] = [1, 9007199254740993]
    assert triton_schema.as_json(message) == wanted


def test_what_is_not_set_is_not_there(tmp_path: Path) -> None:
    """Whether requests are batched is whether dynamic_batching is there."""
    found = read(tmp_path, 'backend: "python"').triton
    assert found is not None
    assert not {"dynamic_batching", "model_transaction_policy", "version_policy"} & found.keys()


def test_every_model_has_the_json_with_its_name(tmp_path: Path) -> None:
    """The configuration's own, or the one that the model is called by."""
    for text, name in (('backend: "onnxruntime"', tmp_path.name), ('name: "own"', "own")):
        found = read(tmp_path, text).triton
        assert found is not None
        assert found["name"] == name


def test_a_python_model_needs_no_inputs(tmp_path: Path) -> None:
    """They are left to its auto_complete_config."""
    found = read(tmp_path, 'backend: "python"')
    assert (found.inputs, found.outputs, found.file) == (None, None, None)


def test_a_python_models_own_fields_are_used(tmp_path: Path) -> None:
    """Instances, batching, ragged inputs, parameters and decoupled are no reason for a warning."""
    batching = "dynamic_batching { preferred_batch_size: [4] default_queue_policy { max_queue_size: 9 }"
    ragged = 'input { name: "r" data_type: TYPE_FP32 dims: [-1] allow_ragged_batch: true }'
    text = PYTHON.replace("dynamic_batching {", batching) + ragged
    assert warned(tmp_path, text, is_python=True) == ""


def test_what_a_python_model_sets_in_vain_is_warned_about(tmp_path: Path) -> None:
    """Down to the fields of the batcher and of the groups."""
    text = """
    backend: "python" optimization { } max_batch_size: 4
    dynamic_batching { default_priority_level: 1 } instance_group [{ count: 1 kind: KIND_GPU gpus: [0] }]
    """
    assert warned(tmp_path, text, is_python=True) == (
        "dynamic_batching.default_priority_level, instance_group.gpus, instance_group.kind, optimization"
    )


def test_nothing_is_warned_about_where_all_is_used(tmp_path: Path) -> None:
    """A plain configuration is silent."""
    assert not warned(tmp_path, 'name: "m" backend: "pytorch" input { name: "x" data_type: TYPE_FP32 dims: 1 }')


def test_without_tritonclient_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only whoever brings a config.pbtxt needs it."""
    triton_schema.load_schema.cache_clear()
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
