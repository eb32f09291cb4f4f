"""scripts/compile_tensorrt.py: networks become ONNX that is held to torch, and a plan where there is a compiler for it.

TensorRT itself was never run here (docs/gpu.md): a script in its place notes what it was asked.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.repository.layouts import describe

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
BERT = ("--input", "input_ids:int64:16", "--input", "attention_mask:int64:16")


def compile_model(source: str, out: Path, *more: str, trtexec: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script over a sample model."""
    if not (MODELS / source).exists():
        pytest.skip("make models builds the sample models")
    command = [sys.executable, "-W", "ignore", str(ROOT / "scripts/compile_tensorrt.py"), str(MODELS / source)]
    tool = ("--trtexec", str(trtexec or "/nowhere/trtexec"))
    return subprocess.run(
        [*command, "--out", str(out), *more, *tool], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ("digits_torchscript/model.pt", ("--input", "x:fp32:64")),
        ("digits_torchscript/model.pt", ("--input", "x:fp32:64", "--fp16")),
        ("tiny_bert_hf", BERT),
    ],
    ids=["torchscript", "fp16", "transformers"],
)
def test_a_network_becomes_onnx_that_we_serve(tmp_path: Path, source: str, more: tuple[str, ...]) -> None:
    """As far from torch as rounding takes it."""
    out = tmp_path / "model"
    done = compile_model(source, out, *more)
    assert done.returncode == 0, done.stderr
    assert "ONNX Runtime is " in done.stdout
    assert "onnxruntime, as there is no /nowhere/trtexec" in done.stdout
    spec = describe("m", out)
    assert spec.format == "onnx"
    assert spec.scheduling is not None
    assert spec.scheduling.max_batch_size == 8


def test_a_plan_is_compiled_for_the_batches_that_come(tmp_path: Path) -> None:
    """The profile's largest batch is the configuration's: a larger one would take memory for nothing."""
    trtexec = tmp_path / "trtexec"
    trtexec.write_text('#!/bin/sh\nfor word; do case $word in --saveEngine=*) echo "$@" > "${word#*=}";; esac; done\n')
    trtexec.chmod(0o755)
    out = tmp_path / "model"
    done = compile_model(
        "digits_torchscript/model.pt", out, "--input", "x:fp32:64", "--max-batch", "12", trtexec=trtexec
    )
    assert done.returncode == 0, done.stderr
    asked = (out / "1/model.plan").read_text().split()
    assert {"--minShapes=x:1x64", "--optShapes=x:12x64", "--maxShapes=x:12x64"} <= set(asked)
    assert not (out / "1/model.onnx").exists()
    spec = describe("m", out)
    assert (spec.format, spec.triton["max_batch_size"] if spec.triton else 0) == ("triton", 12)


@pytest.mark.parametrize("wrong", ["x:fp32", "x:fp64:3", "x:fp32:three"])
def test_an_input_that_cannot_be_read_is_a_usage_error(tmp_path: Path, wrong: str) -> None:
    """Before anything is loaded."""
    done = compile_model("digits_torchscript/model.pt", tmp_path / "model", "--input", wrong)
    assert done.returncode == 2
    assert "--input" in done.stderr
