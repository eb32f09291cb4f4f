"""What this CPU can do, from the capability bits that the kernel hands every process.

Knows the bits (HWCAP and HWCAP2, through getauxval) and their names; decides nothing. /proc/cpuinfo is not asked: under
user-mode emulation it shows the host's CPU, and a search for bf16 there finds an x86 flag. On x86-64 the words carry
nothing of use, and features are unknown. Called by `tuning`'s callers and by `diagnosis`.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

ARM64 = "aarch64"

# From linux/auxvec.h.
_AT_HWCAP, _AT_HWCAP2 = 16, 26
# Bits of the two words, from arch/arm64/include/uapi/asm/hwcap.h: what matrix products are made of.
_ARM64_HWCAP = {"asimd": 1, "fp16": 10, "dotprod": 20, "sve": 22}
_ARM64_HWCAP2 = {"sve2": 1, "svebf16": 12, "i8mm": 13, "bf16": 14, "sme": 23}
# From linux/prctl.h; the answer's lower 16 bits are the length in bytes.
_PR_SVE_GET_VL, _SVE_VL_MASK = 51, 0xFFFF


@dataclass(frozen=True, slots=True)
class Processor:
    """A CPU: `features` by the kernel's names, empty where they are unknown; `vector_bits` of SVE, 0 without it."""

    architecture: str
    features: frozenset[str] = frozenset()
    vector_bits: int = 0

    @property
    def is_arm64(self) -> bool:
        """Whether this is a 64-bit Arm CPU, a Graviton for one."""
        return self.architecture == ARM64

    @property
    def has_bf16(self) -> bool:
        """Whether it is known to multiply bf16 (Graviton3 and newer)."""
        return "bf16" in self.features


def read_processor() -> Processor:
    """Return the CPU that this process runs on, emulated or not."""
    libc = ctypes.CDLL(None)
    libc.getauxval.restype, libc.getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    found = processor_of(os.uname().machine, libc.getauxval(_AT_HWCAP), libc.getauxval(_AT_HWCAP2))
    if "sve" not in found.features:
        return found
    vector_bytes = libc.prctl(_PR_SVE_GET_VL) & _SVE_VL_MASK
    return Processor(found.architecture, found.features, vector_bytes * 8)


def processor_of(architecture: str, hwcap: int, hwcap2: int) -> Processor:
    """Return what the two words say on `architecture`, vectors left aside."""
    if architecture != ARM64:
        return Processor(architecture)
    tables = ((hwcap, _ARM64_HWCAP), (hwcap2, _ARM64_HWCAP2))
    return Processor(
        architecture, frozenset(name for word, bits in tables for name, bit in bits.items() if word >> bit & 1)
    )


def read_huge_pages(fs_root: Path = Path("/")) -> str:
    """Return the host's mode of transparent huge pages: `always`, `madvise`, `never`, or `unknown`."""
    try:
        modes = (fs_root / "sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "unknown"
    return next((mode.strip("[]") for mode in modes.split() if mode.startswith("[")), "unknown")
