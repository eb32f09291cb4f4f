"""Triton's Python models are found by their configuration or by their class."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import InvalidArtifactError
from serving.repository.layouts import describe
from tests.unit.repository.written import TRITON, handled, worker, write

pytest.importorskip("tritonclient")


def test_the_class_of_the_highest_version_tells(tmp_path: Path) -> None:
    """Without a configuration, beside a model that the class loads."""
    folder = write(tmp_path / "m", "1/model.py", "2/model.onnx", "2/model.pt")
    (folder / "2" / "model.py").write_text(TRITON)
    handler = handled(folder)
    assert (handler.dialect, handler.file, handler.config) == ("triton_python", folder / "2" / "model.py", {})


def test_the_configuration_reaches_the_worker(tmp_path: Path) -> None:
    """Instances, the batcher, parameters, and all of it as the model will read it."""
    pbtxt = """
    backend: "python" max_batch_size: 8
    input { name: "x" data_type: TYPE_FP32 dims: 3 }
    instance_group [{ count: 2 }, { kind: KIND_CPU }]
    dynamic_batching { max_queue_delay_microseconds: 500 }
    parameters { key: "greeting" value { string_value: "hello" } }
    """
    spec, handler = worker(write(tmp_path / "m", "1/model.py", "lib/x.py", config_pbtxt=pbtxt))
    assert (handler.min_workers, handler.max_workers, handler.batch_size) == (3, 3, 1)  # its batcher has figures too
    assert (handler.max_batch_delay_s, handler.options) == (0.0005, {"greeting": "hello"})
    assert handler.config["max_batch_size"] == 8
    assert handler.paths == (tmp_path / "m" / "lib",)
    assert spec.inputs is not None
    assert spec.sources == ("config.pbtxt", "1/model.py")


def test_without_a_batcher_requests_come_one_by_one(tmp_path: Path) -> None:
    """max_batch_size alone is a dimension, in Triton too."""
    handler = handled(write(tmp_path / "m", "1/model.py", config_pbtxt='backend: "python" max_batch_size: 8'))
    assert (handler.batch_size, handler.min_workers, handler.max_workers) == (1, None, None)


@pytest.mark.parametrize("value", ["$$TRITON_MODEL_DIRECTORY/env.tar.gz", "env.tar.gz", "{folder}/env.tar.gz"])
def test_an_execution_environment_is_found(tmp_path: Path, value: str) -> None:
    """By Triton's own variable, absolute, or relative to the model."""
    parameter = f'parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "{value}" }} }}'
    text = 'backend: "python" ' + parameter.replace("{folder}", str(tmp_path / "m"))
    folder = write(tmp_path / "m", "1/model.py", "env.tar.gz", config_pbtxt=text)
    assert handled(folder).python == folder / "env.tar.gz"


@pytest.mark.parametrize("value", ["/etc/ssl", "../../out.tar.gz", "gone.tar.gz", "s3://bucket/env.tar.gz"])
def test_an_environment_elsewhere_is_refused(tmp_path: Path, value: str) -> None:
    """Missing, or outside the repository."""
    parameter = f'parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "{value}" }} }}'
    folder = write(tmp_path / "root" / "m", "1/model.py", config_pbtxt='backend: "python" ' + parameter)
    write(tmp_path, "out.tar.gz")
    with pytest.raises(InvalidArtifactError, match=r"leads outside|cannot be read"):
        handled(folder)


def test_a_configured_model_without_its_file_is_refused(tmp_path: Path) -> None:
    """With what is wanted."""
    folder = write(tmp_path / "m", "1/model.onnx", config_pbtxt='backend: "python"')
    with pytest.raises(InvalidArtifactError, match=r"has no <version>/model\.py"):
        handled(folder)


def test_another_file_may_be_named(tmp_path: Path) -> None:
    """default_model_filename, as Triton has it; in wharf.toml the class tells."""
    pbtxt = 'backend: "python" default_model_filename: "net.py"'
    folder = write(tmp_path / "m", "1/net.py", "1/model.py", config_pbtxt=pbtxt)
    assert handled(folder).file == folder / "1" / "net.py"
    folder = write(tmp_path / "n", net_py=TRITON, wharf_toml='file = "net.py"')
    assert (handled(folder).dialect, handled(folder).file) == ("triton_python", folder / "net.py")


def test_python_of_a_version_that_is_not_tritons_is_refused(tmp_path: Path) -> None:
    """The network's definition, most often: it is told what a handler looks like."""
    write(tmp_path, "1/model.py", "1/model.pt")
    with pytest.raises(InvalidArtifactError, match=r"1/model\.py.*TritonPythonModel"):
        describe("m", tmp_path)
