"""`wharf env`: the three parts, and where they disagree."""

from __future__ import annotations

import json

import pytest

from serving.diagnosis import Diagnosis, disagreements
from serving.kernels import Kernel, Library
from serving.processor import Processor
from serving.tuning import Machine, tune

ARM = Machine(Processor("aarch64", frozenset({"asimd", "bf16", "sve"}), 256), 2, "madvise")
X86 = Machine(Processor("x86_64"), 2, "never")
ACL, EIGEN = (Kernel("matmul", "gemm:acl", is_bf16=True),), ()
GOOD = Library("tensorflow", "2.21.0", "AArch64 SVE (256 bits)", ACL, 2e-3)
BF16 = {"DNNL_DEFAULT_FPMATH_MODE": "BF16"}


def diagnosis(machine: Machine, *libraries: Library) -> Diagnosis:
    tuning = tune(machine, {}, is_fast=True)
    return Diagnosis(machine, tuning, machine.processor.has_bf16, libraries, ("something is odd.",))


def said(library: Library, machine: Machine = ARM, has_onnx_bf16: bool = True) -> list[str]:
    return list(disagreements(machine, (library,), BF16, has_onnx_bf16=has_onnx_bf16))


def test_the_text_says_what_the_cpu_has_what_is_set_and_what_is_used() -> None:
    """Each with its reason, then the warnings."""
    text = diagnosis(
        ARM, GOOD, Library("onnxruntime", "1.31.1", difference=1.2), Library("torch", trouble="gone")
    ).text()

    assert "aarch64: asimd bf16 sve, SVE of 256 bits" in text
    assert "DNNL_DEFAULT_FPMATH_MODE=BF16" in text
    assert "TORCH_MKLDNN_MATMUL_MIN_DIM unset" in text
    assert "tensorflow 2.21.0: computed in bf16 (2.0e-03 from fp64)" in text
    assert "oneDNN sees AArch64 SVE (256 bits)" in text
    assert "matmul          gemm:acl, bf16 weights" in text
    assert "onnxruntime 1.31.1: computed it wrong (1.2e+00 from fp64)" in text
    assert "torch: gone" in text
    assert text.endswith("warning    something is odd.")


def test_a_machine_without_any_library_is_told_so() -> None:
    """As the small command-line installation of somebody who only validates models."""
    assert "no library that computes is installed" in diagnosis(X86).text()


def test_the_document_is_json() -> None:
    """Everything that the text has, with the precision spelled out."""
    document = json.loads(json.dumps(diagnosis(ARM, GOOD).document()))

    assert document["processor"] == {
        "architecture": "aarch64",
        "features": ["asimd", "bf16", "sve"],
        "vector_bits": 256,
    }
    assert document["onnx_options"] == {"mlas.enable_gemm_fastmath_arm64_bfloat16": True}
    assert {each["name"] for each in document["variables"]} >= {"TF_ENABLE_ONEDNN_OPTS", "OMP_NUM_THREADS"}
    assert document["libraries"][0]["precision"] == "bf16"
    assert document["libraries"][0]["kernels"] == [
        {"operation": "matmul", "implementation": "gemm:acl", "is_bf16": True}
    ]
    assert document["warnings"] == ["something is odd."]


@pytest.mark.parametrize(
    ("library", "words"),
    [
        (Library("tensorflow", "2.21.0", "", EIGEN, 2e-3), "used kernels of its own and not Arm's Compute Library"),
        (Library("torch", "2.10.0", "", (Kernel("matmul", "gemm:ref", False),), 2e-3), "used gemm:ref"),
        (Library("tensorflow", "2.21.0", "", ACL, 3e-7), "was told to use bf16 and computed in fp32"),
        (Library("onnxruntime", "1.31.1", "", (), 3e-7), "was told to use bf16 and computed in fp32"),
        (Library("onnxruntime", "1.31.1", "", (), 1.2), "its option stays off in the server"),
        (Library("tensorflow", "2.21.0", "", ACL, 1.2), "set WHARF_FAST_MATH=false"),
    ],
)
def test_a_library_that_did_not_do_what_is_set_is_a_warning(library: Library, words: str) -> None:
    """By name and version."""
    (warning,) = said(library)

    assert words in warning
    assert library.version in warning


@pytest.mark.parametrize(
    "library", [GOOD, Library("tensorflow", trouble="crashed"), Library("onnxruntime", "1", "", (), 2e-3)]
)
def test_one_that_did_is_none(library: Library) -> None:
    """Nor is one that did not run: the text says that already."""
    assert said(library) == []


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({"DNNL_DEFAULT_FPMATH_MODE": "bf16"}, 1),
        ({"ONEDNN_DEFAULT_FPMATH_MODE": "any"}, 1),
        ({"ONEDNN_DEFAULT_FPMATH_MODE": "STRICT", "DNNL_DEFAULT_FPMATH_MODE": "BF16"}, 0),
    ],
)
def test_either_name_of_onednns_mode_counts_in_letters_of_any_size(environ: dict[str, str], count: int) -> None:
    """The first that oneDNN reads is what it was told."""
    slow = Library("tensorflow", "2.21.0", "", ACL, 3e-7)
    assert len(list(disagreements(ARM, (slow,), environ, has_onnx_bf16=True))) == count


def test_on_x86_nothing_is_expected() -> None:
    """There is no Arm Compute Library to miss."""
    assert said(Library("tensorflow", "2.21.0", "", EIGEN, 3e-7), X86) == []
