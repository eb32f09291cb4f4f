"""What the CPU has, from the kernel's words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.processor import processor_of, read_huge_pages, read_processor

BF16 = 1 << 14


def test_the_bits_of_an_arm_cpu_become_names() -> None:
    """asimd, dotprod and sve are in the first word, bf16 in the second."""
    found = processor_of("aarch64", 1 << 1 | 1 << 20 | 1 << 22, BF16)

    assert found.features == {"asimd", "dotprod", "sve", "bf16"}
    assert found.has_bf16
    assert found.is_arm64


def test_an_arm_cpu_without_the_bit_has_no_bf16() -> None:
    """A Graviton2: the bit of the second word is what counts, and the same bit of the first is another thing."""
    assert not processor_of("aarch64", BF16, 0).has_bf16


def test_the_words_of_another_architecture_are_not_read_as_arms() -> None:
    """On x86 they are CPUID's, and every bit may be set."""
    found = processor_of("x86_64", ~0, ~0)

    assert (found.features, found.is_arm64, found.has_bf16) == (frozenset(), False, False)


def test_this_machine_can_be_read() -> None:
    """The real call, on whatever runs the tests."""
    found = read_processor()

    assert found.architecture == os.uname().machine
    assert found.vector_bits in (0, 128, 256, 512, 1024, 2048)
    assert ("asimd" in found.features) == found.is_arm64


@pytest.mark.parametrize(
    ("text", "mode"),
    [("always [madvise] never\n", "madvise"), ("[always] madvise never\n", "always"), ("nonsense\n", "unknown")],
)
def test_the_mode_of_huge_pages_is_the_one_in_brackets(text: str, mode: str, tmp_path: Path) -> None:
    """As the kernel writes it."""
    file = tmp_path / "sys/kernel/mm/transparent_hugepage/enabled"
    file.parent.mkdir(parents=True)
    file.write_text(text)

    assert read_huge_pages(tmp_path) == mode


def test_a_kernel_without_huge_pages_is_no_error(tmp_path: Path) -> None:
    """Some are built without, and a sandbox may hide /sys."""
    assert read_huge_pages(tmp_path) == "unknown"
