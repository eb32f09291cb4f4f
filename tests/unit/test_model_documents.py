"""What a model says of itself, with a config.pbtxt and without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.model_documents import config_of, metadata_of
from serving.repository.layouts import ModelSpec
from serving.tensors import Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("text", "BYTES", (-1, 1))), (TensorSpec("y", None, None),)
)


def spec(format_: str = "onnx", triton: dict[str, Any] | None = None) -> ModelSpec:
    """A model of that format."""
    return ModelSpec("m", format_, Path("model.onnx"), 1, version="3", triton=triton)


def test_metadata_has_full_shapes_and_tritons_platform() -> None:
    """What is not told is FP32 of any length."""
    assert metadata_of(spec(), SIGNATURE) == {
        "name": "m",
        "versions": ["3"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "text", "datatype": "BYTES", "shape": [-1, 1]},
        ],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
    }


def test_a_model_without_a_platform_has_its_backend_there() -> None:
    """As with Triton; a format of ours is its own name."""
    assert metadata_of(spec("worker"), SIGNATURE)["platform"] == "python"
    assert metadata_of(spec("odd"), SIGNATURE)["platform"] == "odd"


def test_a_model_without_a_configuration_gets_the_one_that_describes_it() -> None:
    """Every primitive field is printed."""
    found = config_of(spec(), SIGNATURE)

    assert (found["name"], found["backend"], found["platform"]) == ("m", "onnxruntime", "onnxruntime_onnx")
    assert (found["max_batch_size"], found["default_model_filename"]) == (0, "model.onnx")
    assert found["version_policy"] == {"latest": {"num_versions": 1}}
    assert [(each["name"], each["data_type"], each["dims"]) for each in found["input"]] == [
        ("x", "TYPE_FP32", [-1, 4]),
        ("text", "TYPE_STRING", [-1, 1]),
    ]
    assert found["input"][0]["optional"] is False
    assert found["instance_group"][0]["kind"] == "KIND_CPU"
    assert found["optimization"]["input_pinned_memory"] == {"enable": True}


def test_a_configuration_is_no_file_of_a_model() -> None:
    """Sent back with a load, it would be run."""
    found = config_of(replace(spec(), format="ensemble", file=Path("/m/config.pbtxt")), SIGNATURE)

    assert found["default_model_filename"] == ""


def test_groups_of_instances_are_named_and_counted() -> None:
    """As Triton's clients see them: its own names stay."""
    said = {"instance_group": [{"kind": "KIND_MODEL", "count": 0, "name": ""}, {"name": "mine", "count": 3}]}
    groups = config_of(spec(triton=said), SIGNATURE)["instance_group"]

    assert [(each["name"], each["kind"], each["count"]) for each in groups] == [
        ("m_0", "KIND_MODEL", 1),
        ("mine", "KIND_CPU", 3),
    ]
    assert config_of(spec(), SIGNATURE)["instance_group"][0]["name"] == "m"


def test_a_models_own_configuration_is_kept_and_completed() -> None:
    """Dims come without the batch where there is one."""
    said = {"max_batch_size": 8, "backend": "python", "output": [{"name": "own"}], "version_policy": {"all": {}}}
    found = config_of(spec("worker", said), SIGNATURE)

    assert (found["max_batch_size"], found["output"], found["version_policy"]) == (8, [{"name": "own"}], {"all": {}})
    assert [each["dims"] for each in found["input"]] == [[4], [1]]
    assert found["name"] == "m"
