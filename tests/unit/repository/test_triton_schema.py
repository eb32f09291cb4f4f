"""The two ways to write a configuration are each other's inverse, and `wharf` says what one comes to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.cli import main
from serving.repository import triton_schema
from tests.unit.repository.written import write

pytest.importorskip("tritonclient")

Captured = pytest.CaptureFixture[str]

TEXT = """
name: "m" backend: "onnxruntime" max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [6] reshape { shape: [2, 3] } }
input { name: "z" data_type: TYPE_FP32 dims: [6] optional: true }
output { name: "y" data_type: TYPE_FP32 dims: [2] label_filename: "labels.txt" }
dynamic_batching {
  preferred_batch_size: [4, 8] max_queue_delay_microseconds: 100 priority_levels: 2 default_priority_level: 1
}
instance_group { count: 2 }
version_policy { all { } }
parameters { key: "\u00e9" value { string_value: "v" } }
model_warmup {
  name: "w" batch_size: 1 count: 3 inputs { key: "x" value { data_type: TYPE_FP32 dims: 6 zero_data: false } }
}
"""


def test_text_becomes_json_and_text_again(tmp_path: Path, capsys: Captured) -> None:
    """By `wharf config`, without a loss."""
    (tmp_path / "config.pbtxt").write_text(TEXT)
    assert main(["config", str(tmp_path / "config.pbtxt")]) == 0
    said = capsys.readouterr().out
    assert json.loads(said)["dynamic_batching"]["max_queue_delay_microseconds"] == 100
    (tmp_path / "config.json").write_text(said)
    assert main(["config", str(tmp_path / "config.json")]) == 0
    assert triton_schema.parse(capsys.readouterr().out) == triton_schema.parse(TEXT)


@pytest.mark.parametrize("name", ["config.pbtxt", "config.json", "none.pbtxt", "none.json"])
def test_what_cannot_be_parsed_is_said(tmp_path: Path, name: str, capsys: Captured) -> None:
    """Exit status 1, by the file's kind."""
    if not name.startswith("none"):
        (tmp_path / name).write_text('{"frobnicate": 1}')
    assert main(["config", str(tmp_path / name)]) == 1
    assert "cannot be parsed" in capsys.readouterr().err


def test_validate_explains_a_configuration_in_words(tmp_path: Path, capsys: Captured) -> None:
    """What is acted on, and what is warned about."""
    folder = write(tmp_path / "m", "1/model.onnx", "2/model.onnx", config_pbtxt=TEXT, labels_txt="cat\ndog\n")
    assert main(["validate", str(folder)]) == 0
    said = capsys.readouterr().out
    for line in (
        "version  2 for who names none, and 1",
        "batching up to 8 rows, within 100 us, at once with 4 or 8",
        "priority 1 to 2, 1 for a request that says none",
        "instances 2",
        "reshape  x: clients see [-1, 6], the model [-1, 2, 3]",
        "optional z may be left out",
        "labels   y has 2",
        "warm-up  w, 3 times: x",
        "warning  config.pbtxt of 'm' sets parameters.\u00e9, which",
    ):
        assert f"  {line}" in said


@pytest.mark.parametrize(
    ("text", "batching"),
    [
        ("", "none, each request runs by itself"),
        ("max_batch_size: 4", "none, each request runs by itself, of at most 4 rows"),
        (
            "max_batch_size: 4 dynamic_batching { preserve_ordering: true }",
            "up to 4 rows, within 0 us, answers in order",
        ),
    ],
)
def test_batches_are_explained(tmp_path: Path, text: str, batching: str, capsys: Captured) -> None:
    """Or that there are none."""
    assert main(["validate", str(write(tmp_path / "m", "model.onnx", config_pbtxt=text))]) == 0
    assert f"  batching {batching}\n" in capsys.readouterr().out
