"""What the libraries' processes say, and what they say here."""

from __future__ import annotations

import os

import onnx
import pytest
from onnx import TensorProto, helper

from serving import kernels
from serving.kernels import MATMUL, Kernel, Library, look, parse

# As printed in the arm64 container: TensorFlow 2.21 on a CPU with SVE of 256 bits, and oneDNN before 3.0.
ARM = """\
onednn_verbose,v1,info,oneDNN v3.7.0 (commit N/A)
onednn_verbose,v1,info,cpu,runtime:threadpool,nthr:2
onednn_verbose,v1,info,cpu,isa:AArch64 SVE (256 bits)
onednn_verbose,v1,primitive,info,template:operation,engine,primitive,implementation,prop_kind,memory_descriptors
onednn_verbose,v1,primitive,exec,cpu,reorder,acl,undef,src:f32::blocked:ab::f0 dst:bf16::blocked:BA4b4a::f0,,,1,1.2
onednn_verbose,v1,primitive,exec,cpu,matmul,gemm:acl,undef,src:f32::blocked:ab::f0 wei:bf16:a:blocked:BA::f0,,,1,5.8
onednn_verbose,v1,primitive,exec,cpu,matmul,gemm:acl,undef,src:f32::blocked:ab::f0 wei:bf16:a:blocked:BA::f0,,,1,5.1
wharf-kernels {"version": "2.21.0", "difference": 0.0025}
"""
OLD = """\
dnnl_verbose,exec,cpu,convolution,jit:avx2,forward_training,src_f32::blocked:acdb:f0 wei_f32::blocked:Acdb8a:f0,,,1,0.1
wharf-kernels {"version": "2.4.0", "difference": 4e-07}
"""


def test_onednns_lines_are_read() -> None:
    """Each kernel once; what only moves weights is left out."""
    found = parse("tensorflow", ARM)

    assert found.kernels == (Kernel("matmul", "gemm:acl", is_bf16=True),)
    assert (found.version, found.isa, found.precision) == ("2.21.0", "AArch64 SVE (256 bits)", "bf16")


def test_the_lines_of_an_older_onednn_are_read_too() -> None:
    """Another prefix, no version, no colon behind `wei`."""
    found = parse("torch", OLD)

    assert found.kernels == (Kernel("convolution", "jit:avx2", is_bf16=False),)
    assert found.precision == "fp32"


def test_a_kernel_without_a_name_says_so() -> None:
    """oneDNN names no implementation of its own products (gemm_api), which torch calls."""
    line = "onednn_verbose,v1,primitive,exec,cpu,gemm_api,,undef,src:f32::blocked:ab::f0,,,1,5.8\n"
    assert parse("torch", line + OLD).kernels[0] == Kernel("gemm_api", "not named", is_bf16=False)


@pytest.mark.parametrize(
    ("difference", "precision"), [(None, ""), (0.0, "fp32"), (3e-7, "fp32"), (2.4e-3, "bf16"), (1.2, "wrong")]
)
def test_the_result_tells_the_precision(difference: float | None, precision: str) -> None:
    """More than bf16's rounding is no rounding."""
    assert Library("x", difference=difference).precision == precision


def test_a_process_that_says_nothing_is_trouble() -> None:
    """Not a library that computed with no kernel."""
    assert parse("torch", "hello\n").trouble == "its process gave no result"


def test_the_model_of_bytes_is_the_one_that_onnx_writes() -> None:
    """A product of two inputs; nobody has to believe hexadecimal."""
    shapes = {"a": [64, 512], "w": [512, 64], "y": [64, 64]}
    a, w, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "w"], ["y"])], "product", [a, w], [y])
    wanted = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

    assert onnx.load_from_string(MATMUL) == wanted


def test_every_library_here_computes_and_says_so() -> None:
    """The real ones, in processes of their own; nothing of what they print reaches ours."""
    found = {each.name: each for each in look(os.environ, has_onnx_bf16=False)}

    assert found["onnxruntime"].precision == "fp32"
    assert found["onnxruntime"].kernels == ()
    assert all(each.trouble == "" and each.precision == "fp32" for each in found.values())
    for name in found.keys() & {"tensorflow", "torch"}:
        assert "convolution" in {kernel.operation for kernel in found[name].kernels}


def test_a_library_that_crashes_or_hangs_is_told_of() -> None:
    """`wharf env` still prints the rest."""
    assert kernels._run("x", "import sys; sys.exit('no libfoo.so')", os.environ, 60).trouble == (
        "its process ended with status 1: no libfoo.so"
    )
    assert kernels._run("x", "import time; time.sleep(60)", os.environ, 0.2).trouble == "no answer within 0.2 s"
