"""`wharf env`: what this CPU has, what is set for it and why, and what the libraries really use.

Puts `processor`, `tuning` and `kernels` side by side and says by name where they disagree: an Arm CPU on which
TensorFlow ran without Arm's Compute Library, bf16 allowed and not used, a /dev/shm too small for the groups of ranks
that TENSOR_PARALLEL_DEGREE wants. Called by `cli`, which prints text or JSON.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from serving.dev_shm import shortage_for_all
from serving.kernels import Library, look
from serving.settings import Settings
from serving.tuning import Machine, Tuning, allows_bf16, apply, asks_for_bf16, read_machine, tune

_ONNX_OPTION = "mlas.enable_gemm_fastmath_arm64_bfloat16"
_LABEL_CHARS = 46


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All of it; `has_onnx_bf16` is ONNX Runtime's session option, as the server will set it: no variable."""

    machine: Machine
    tuning: Tuning
    has_onnx_bf16: bool
    libraries: tuple[Library, ...]
    warnings: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return it as values that JSON has."""
        processor = self.machine.processor
        return {
            "processor": {
                "architecture": processor.architecture,
                "features": sorted(processor.features),
                "vector_bits": processor.vector_bits,
            },
            "cores": self.machine.cores,
            "huge_pages": self.machine.huge_pages,
            "variables": [asdict(choice) for choice in self.tuning.choices],
            "onnx_options": {_ONNX_OPTION: self.has_onnx_bf16},
            "libraries": [asdict(each) | {"precision": each.precision} for each in self.libraries],
            "warnings": list(self.warnings),
        }

    def text(self) -> str:
        """Return it for people: three parts, then the warnings."""
        return "\n".join(
            (*self._processor(), "set", *self._variables(), "used", *self._libraries(), *self._complaints())
        )

    def _processor(self) -> Iterator[str]:
        processor = self.machine.processor
        vectors = f", SVE of {processor.vector_bits} bits" if processor.vector_bits else ""
        features = " ".join(sorted(processor.features)) or "features unknown"
        yield f"processor  {processor.architecture}: {features}{vectors}"
        yield f"           {self.machine.cores} cores, transparent huge pages '{self.machine.huge_pages}'"

    def _variables(self) -> Iterator[str]:
        for each in self.tuning.choices:
            shown = f"{each.name}={each.value}" if each.value is not None else f"{each.name} unset"
            yield f"  {shown:{_LABEL_CHARS}}  {each.reason}"
        option = f"{_ONNX_OPTION}={int(self.has_onnx_bf16)}"
        yield f"  {option:{_LABEL_CHARS}}  ONNX Runtime's option, on where bf16 is allowed and its products are right"

    def _libraries(self) -> Iterator[str]:
        for each in self.libraries:
            if each.trouble:
                yield f"  {each.name}: {each.trouble}"
                continue
            how = "in " if each.precision != "wrong" else "it "
            yield f"  {each.name} {each.version}: computed {how}{each.precision} ({each.difference:.1e} from fp64)"
            if each.isa:
                yield f"    oneDNN sees {each.isa}"
            for kernel in each.kernels:
                yield f"    {kernel.operation:15} {kernel.implementation}{', bf16 weights' if kernel.is_bf16 else ''}"
        if not self.libraries:
            yield "  no library that computes is installed"

    def _complaints(self) -> Iterator[str]:
        yield from (f"warning    {each}" for each in self.warnings)


def diagnose(settings: Settings, environ: Mapping[str, str] = os.environ) -> Diagnosis:
    """Look at everything; takes as long as importing each library once."""
    machine = read_machine(settings.cores)
    tuning = tune(machine, environ, is_fast=settings.fast_math)
    is_bf16 = allows_bf16(machine.processor, is_fast=settings.fast_math)
    tuned = dict(environ)
    apply(tuning, tuned)
    libraries = tuple(look(tuned, has_onnx_bf16=is_bf16))
    shortage = shortage_for_all(environ, is_cpu=settings.device != "cuda")
    wrong = disagreements(machine, libraries, tuned, has_onnx_bf16=is_bf16)
    warnings = (*tuning.warnings, *wrong, *filter(None, [shortage]))
    is_right = not any(each.name == "onnxruntime" and each.precision == "wrong" for each in libraries)
    return Diagnosis(machine, tuning, is_bf16 and is_right, libraries, warnings)


def disagreements(
    machine: Machine, libraries: tuple[Library, ...], environ: Mapping[str, str], *, has_onnx_bf16: bool
) -> Iterator[str]:
    """Yield a sentence for each library that did not do on an Arm CPU what is set."""
    if not machine.processor.is_arm64:
        return
    is_asked = asks_for_bf16(environ) and machine.processor.has_bf16
    for each in libraries:
        if each.trouble:
            continue
        wants_bf16 = has_onnx_bf16 if each.name == "onnxruntime" else is_asked
        if each.precision == "wrong":
            yield (
                f"{each.name} {each.version} computes wrong products in bf16 ({each.difference:.1e} from fp64): "
                + (
                    "its option stays off in the server."
                    if each.name == "onnxruntime"
                    else "set WHARF_FAST_MATH=false."
                )
            )
        if wants_bf16 and each.precision == "fp32":
            yield f"{each.name} {each.version} was told to use bf16 and computed in fp32, slower than this CPU allows."
        if each.name != "onnxruntime" and not any("acl" in kernel.implementation for kernel in each.kernels):
            used = ", ".join(kernel.implementation for kernel in each.kernels) or "kernels of its own"
            yield f"{each.name} {each.version} used {used} and not Arm's Compute Library."
