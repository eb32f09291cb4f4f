"""What is set for a CPU, why, and what the user may not have meant."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.processor import Processor
from serving.tuning import Machine, Tuning, allows_bf16, apply, read_machine, tune

GRAVITON2 = Machine(Processor("aarch64", frozenset({"asimd", "dotprod"})), 4, "madvise")
GRAVITON3 = Machine(Processor("aarch64", frozenset({"asimd", "sve", "bf16"}), 256), 4, "madvise")
X86 = Machine(Processor("x86_64"), 4, "madvise")


def values(tuning: Tuning) -> dict[str, str | None]:
    return {each.name: each.value for each in tuning.choices}


def tuned(machine: Machine, is_fast: bool = True, **environ: str) -> Tuning:
    return tune(machine, environ, is_fast=is_fast)


def test_a_cpu_with_bf16_uses_it() -> None:
    """Graviton3 and newer: oneDNN in bf16, and small products stay with it."""
    assert values(tuned(GRAVITON3)) == {
        "OMP_NUM_THREADS": "4",
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "DNNL_DEFAULT_FPMATH_MODE": "BF16",
        "OMP_PROC_BIND": "false",
        "OMP_PLACES": "cores",
        "LRU_CACHE_CAPACITY": "1024",
        "THP_MEM_ALLOC_ENABLE": "1",
        "TORCH_MKLDNN_MATMUL_MIN_DIM": None,
    }


def test_a_cpu_without_bf16_does_not_ask_for_it() -> None:
    """Graviton2: oneDNN all the same, in fp32; small products go to OpenBLAS."""
    found = values(tuned(GRAVITON2))

    assert found["TF_ENABLE_ONEDNN_OPTS"] == "1"
    assert found["DNNL_DEFAULT_FPMATH_MODE"] is None
    assert found["TORCH_MKLDNN_MATMUL_MIN_DIM"] == "1024"


def test_fast_math_can_be_turned_off() -> None:
    """Who needs fp32's accuracy has it, with oneDNN's kernels."""
    found = tuned(GRAVITON3, is_fast=False)

    assert values(found)["DNNL_DEFAULT_FPMATH_MODE"] is None
    assert values(found)["TF_ENABLE_ONEDNN_OPTS"] == "1"
    assert "WHARF_FAST_MATH is false" in next(each.reason for each in found.choices if "FPMATH" in each.name)


@pytest.mark.parametrize(
    ("machine", "is_fast", "allowed"),
    [(GRAVITON3, True, True), (GRAVITON3, False, False), (GRAVITON2, True, False), (X86, True, False)],
)
def test_bf16_takes_a_cpu_that_has_it_and_leave(machine: Machine, is_fast: bool, allowed: bool) -> None:
    """ONNX Runtime's option follows this alone."""
    assert allows_bf16(machine.processor, is_fast=is_fast) is allowed


def test_on_x86_only_the_threads_are_set() -> None:
    """TensorFlow and torch choose well there by themselves."""
    assert values(tuned(X86)) == {"OMP_NUM_THREADS": "4"}


@pytest.mark.parametrize(("mode", "value"), [("always", "1"), ("madvise", "1"), ("never", None), ("unknown", None)])
def test_huge_pages_are_asked_for_where_the_host_gives_them(mode: str, value: str | None) -> None:
    """Asking a host that has them off does nothing but mislead who reads the environment."""
    assert values(tuned(replace(GRAVITON3, huge_pages=mode)))["THP_MEM_ALLOC_ENABLE"] == value


def test_every_choice_has_a_reason() -> None:
    """Also those that leave a variable unset."""
    assert all(each.reason for machine in (GRAVITON2, GRAVITON3, X86) for each in tuned(machine).choices)


def test_what_the_user_set_stays() -> None:
    """And is shown as the user's."""
    environ = {"OMP_NUM_THREADS": "2", "DNNL_DEFAULT_FPMATH_MODE": "STRICT", "LRU_CACHE_CAPACITY": ""}
    tuning = tune(GRAVITON3, environ, is_fast=True)
    apply(tuning, environ)

    assert (environ["OMP_NUM_THREADS"], environ["DNNL_DEFAULT_FPMATH_MODE"]) == ("2", "STRICT")
    assert environ["LRU_CACHE_CAPACITY"] == "1024"  # empty is unset
    assert [each.name for each in tuning.choices if each.origin == "user"] == [
        "OMP_NUM_THREADS",
        "DNNL_DEFAULT_FPMATH_MODE",
    ]
    assert tuning.warnings == ()


def test_the_other_name_of_onednns_variable_counts_too() -> None:
    """oneDNN reads ONEDNN_ before DNNL_."""
    environ = {"ONEDNN_DEFAULT_FPMATH_MODE": "STRICT"}
    apply(tune(GRAVITON3, environ, is_fast=True), environ)

    assert "DNNL_DEFAULT_FPMATH_MODE" not in environ


def test_small_products_follow_the_mode_that_the_user_set() -> None:
    """Where it leaves bf16 out they go to OpenBLAS, where it asks for bf16 they stay, whatever WHARF_FAST_MATH says."""
    name = "TORCH_MKLDNN_MATMUL_MIN_DIM"
    assert values(tuned(GRAVITON3, DNNL_DEFAULT_FPMATH_MODE="strict"))[name] == "1024"
    assert values(tuned(GRAVITON3, is_fast=False, ONEDNN_DEFAULT_FPMATH_MODE="bf16"))[name] is None
    assert values(tuned(GRAVITON2, DNNL_DEFAULT_FPMATH_MODE="BF16"))[name] == "1024"


def test_what_is_left_unset_is_not_written() -> None:
    """A variable of no value is none."""
    environ: dict[str, str] = {}
    apply(tuned(GRAVITON2), environ)

    assert "DNNL_DEFAULT_FPMATH_MODE" not in environ
    assert environ["TF_ENABLE_ONEDNN_OPTS"] == "1"


@pytest.mark.parametrize(
    ("machine", "is_fast", "environ", "words"),
    [
        (GRAVITON2, True, {"DNNL_DEFAULT_FPMATH_MODE": "BF16"}, "this CPU has no bf16"),
        (GRAVITON2, True, {"ONEDNN_DEFAULT_FPMATH_MODE": "any"}, "ONEDNN_DEFAULT_FPMATH_MODE is ANY"),
        (GRAVITON3, True, {"DNNL_DEFAULT_FPMATH_MODE": "BFLOAT16"}, "oneDNN knows STRICT, BF16"),
        (GRAVITON3, False, {"DNNL_DEFAULT_FPMATH_MODE": "BF16"}, "WHARF_FAST_MATH is false"),
        (
            GRAVITON3,
            True,
            {"DNNL_DEFAULT_FPMATH_MODE": "BF16", "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT"},
            "oneDNN reads the first",
        ),
        (GRAVITON3, True, {"TF_ENABLE_ONEDNN_OPTS": "0"}, "TF_ENABLE_ONEDNN_OPTS is 0"),
        (replace(GRAVITON3, huge_pages="never"), True, {"THP_MEM_ALLOC_ENABLE": "1"}, "are 'never'"),
        (GRAVITON3, True, {"OMP_PROC_BIND": "TRUE"}, "OMP_PROC_BIND is true"),
        (X86, True, {"OMP_PROC_BIND": "close"}, "bound to the same cores"),
        (X86, True, {"OMP_NUM_THREADS": "64"}, "OMP_NUM_THREADS is 64 and there are 4 cores"),
    ],
)
def test_a_combination_that_cannot_be_meant_is_a_warning_by_name(
    machine: Machine, is_fast: bool, environ: dict[str, str], words: str
) -> None:
    """One sentence, with the variable and what is wrong with it."""
    (warning,) = tune(machine, environ, is_fast=is_fast).warnings

    assert words in warning
    assert any(name in warning for name in environ)


@pytest.mark.parametrize(
    ("machine", "environ"),
    [
        (GRAVITON3, {"DNNL_DEFAULT_FPMATH_MODE": "BF16"}),
        (GRAVITON3, {"TF_ENABLE_ONEDNN_OPTS": "1", "OMP_PROC_BIND": "false", "OMP_NUM_THREADS": "1"}),
        (X86, {"TF_ENABLE_ONEDNN_OPTS": "0", "THP_MEM_ALLOC_ENABLE": "1"}),
        (X86, {"DNNL_DEFAULT_FPMATH_MODE": "BF16"}),  # x86 may have it: what it has is not known
        (X86, {"OMP_NUM_THREADS": "many"}),  # OpenMP's own complaint
        (X86, {"OMP_NUM_THREADS": "\u00b2"}),  # a digit to Python, no number to anybody
    ],
)
def test_what_can_be_meant_is_no_warning(machine: Machine, environ: dict[str, str]) -> None:
    """A warning that is wrong teaches people to read none."""
    assert tune(machine, environ, is_fast=True).warnings == ()


def test_the_machine_is_read_with_the_users_cores() -> None:
    """WHARF_CPU_CORES wins over the cgroup, and less than one core is one."""
    assert read_machine(0.5).cores == 1
    assert read_machine(3.0).cores == 3
    assert read_machine(None).cores >= 1
