"""Which environment variables make the numeric libraries fast on this CPU, each with its reason.

`tune` is a pure function of the CPU, the cores, the host's huge pages and the environment; `apply` writes what it chose
into the environment of this process, from which the server process, the zygote and the workers inherit it: the master
calls it before any runtime is imported. What the user set stays, and a combination that cannot be meant is a warning.
docs/graviton.md has the table. What the libraries then really use is `kernels`' business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass

from serving import memory
from serving.processor import Processor, read_huge_pages, read_processor

# oneDNN reads each of its variables under both names, the first one first.
_FPMATH = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")
# From oneDNN's guide on floating-point math modes; any other value is ignored by it in silence.
_FPMATH_MODES = ("STRICT", "BF16", "F16", "TF32", "ANY")
_USES_BF16 = ("BF16", "ANY")
# oneDNN's primitives that torch keeps, one a shape: AWS's number. Below it a model with many shapes makes them anew.
_PRIMITIVES = 1024
# Of a matrix product in torch: AWS's number for small shapes, below which OpenBLAS runs it without reordering weights.
_LEAST_DIM = 1024
_BOUND = ("true", "close", "spread", "master", "primary")


@dataclass(frozen=True, slots=True)
class Choice:
    """A variable: `value` is what it has from now on (None: unset), `origin` who says so (`wharf` or `user`)."""

    name: str
    value: str | None
    reason: str
    origin: str = "wharf"


@dataclass(frozen=True, slots=True)
class Machine:
    """What the decision looks at beside the environment: `huge_pages` as `read_huge_pages` has it."""

    processor: Processor
    cores: int
    huge_pages: str


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is set, in the order of the table, and what is wrong with what the user set: a sentence each."""

    choices: tuple[Choice, ...]
    warnings: tuple[str, ...]


def read_machine(cores: float | None) -> Machine:
    """Return what the decision looks at, here and now; `cores` is the user's own number, if any."""
    return Machine(read_processor(), max(1, int(cores or memory.read_limits().cores)), read_huge_pages())


def allows_bf16(processor: Processor, *, is_fast: bool) -> bool:
    """Say whether products of fp32 may be computed in bf16: the CPU has it, and fast math is not off."""
    return is_fast and processor.is_arm64 and processor.has_bf16


def asks_for_bf16(environ: Mapping[str, str]) -> bool:
    """Say whether oneDNN is told to compute in bf16: by the first of its two names, in letters of any size."""
    return any(mode in _USES_BF16 for _, mode in _modes(environ)[:1])


def _modes(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, environ[name].upper()) for name in _FPMATH if environ.get(name, "").strip()]


def tune(machine: Machine, environ: Mapping[str, str], *, is_fast: bool) -> Tuning:
    """Decide; an empty variable counts as unset."""
    given = {name: value for name, value in environ.items() if value.strip()}
    wanted = [_threads(machine), *(_for_arm64(machine, given, is_fast) if machine.processor.is_arm64 else ())]
    choices = tuple(_unless_given(choice, given) for choice in wanted)
    return Tuning(choices, tuple(_warnings(machine, given, is_fast)))


def apply(tuning: Tuning, environ: MutableMapping[str, str]) -> None:
    """Set what was chosen; what the user set is left alone."""
    environ.update(
        {each.name: each.value for each in tuning.choices if each.origin == "wharf" and each.value is not None}
    )


def _unless_given(choice: Choice, given: Mapping[str, str]) -> Choice:
    for name in _FPMATH if choice.name in _FPMATH else (choice.name,):
        if name in given:
            return Choice(name, given[name], "set by the user", "user")
    return choice


def _threads(machine: Machine) -> Choice:
    why = "as many as the container's share of cores; libraries that count the host's would start more"
    return Choice("OMP_NUM_THREADS", str(machine.cores), why)


def _for_arm64(machine: Machine, given: Mapping[str, str], is_fast: bool) -> Iterator[Choice]:
    why = "TensorFlow's wheel uses oneDNN with Arm's Compute Library by itself on Graviton3 alone"
    yield Choice("TF_ENABLE_ONEDNN_OPTS", "1", why)
    yield _fpmath(machine.processor, is_fast)
    yield Choice("OMP_PROC_BIND", "false", "many processes share the cores; bound threads would all be on the first")
    yield Choice("OMP_PLACES", "cores", "a model that turns binding on gets a core a thread")
    yield Choice("LRU_CACHE_CAPACITY", str(_PRIMITIVES), "torch keeps oneDNN's primitives of so many shapes")
    yield _huge_pages(machine.huge_pages)
    yield _least_dim(machine.processor, given, is_fast)


def _fpmath(processor: Processor, is_fast: bool) -> Choice:
    name = _FPMATH[1]
    if allows_bf16(processor, is_fast=is_fast):
        return Choice(name, "BF16", "this CPU multiplies bf16: products of fp32 take half the bytes")
    if not processor.has_bf16:
        return Choice(name, None, "this CPU has no bf16")
    return Choice(name, None, "WHARF_FAST_MATH is false: products of fp32 stay fp32")


def _huge_pages(mode: str) -> Choice:
    name = "THP_MEM_ALLOC_ENABLE"
    if mode in ("always", "madvise"):
        return Choice(
            name, "1", f"the host's transparent huge pages are '{mode}': torch asks for them for large tensors"
        )
    return Choice(name, None, f"the host's transparent huge pages are '{mode}'")


def _least_dim(processor: Processor, given: Mapping[str, str], is_fast: bool) -> Choice:
    name = "TORCH_MKLDNN_MATMUL_MIN_DIM"
    is_asked = asks_for_bf16(given) if _modes(given) else is_fast
    if is_asked and processor.has_bf16:
        return Choice(name, None, "small products would go to OpenBLAS, which has no bf16")
    return Choice(
        name, str(_LEAST_DIM), "without bf16 oneDNN gains nothing on small products and reorders their weights"
    )


def _warnings(machine: Machine, given: Mapping[str, str], is_fast: bool) -> Iterator[str]:
    if machine.processor.is_arm64:
        yield from _fpmath_warnings(machine.processor, given, is_fast)
        if given.get("TF_ENABLE_ONEDNN_OPTS") == "0":
            yield "TF_ENABLE_ONEDNN_OPTS is 0: TensorFlow computes with Eigen's kernels and never in bf16; unset it."
        if given.get("THP_MEM_ALLOC_ENABLE", "0") != "0" and machine.huge_pages == "never":
            yield (
                "THP_MEM_ALLOC_ENABLE is set and the host's transparent huge pages are 'never': it has no effect; set "
                "the host's to 'madvise'."
            )
    binding = given.get("OMP_PROC_BIND", "").lower()
    if binding.split(",")[0] in _BOUND:
        yield f"OMP_PROC_BIND is {binding}: threads of all models and workers are bound to the same cores; unset it."
    threads = given.get("OMP_NUM_THREADS", "")
    if threads.isascii() and threads.isdigit() and int(threads) > machine.cores:
        yield f"OMP_NUM_THREADS is {threads} and there are {machine.cores} cores: threads would wait; unset it."


def _fpmath_warnings(processor: Processor, given: Mapping[str, str], is_fast: bool) -> Iterator[str]:
    modes = _modes(given)
    if len({mode for _, mode in modes}) == 2:
        yield f"{_FPMATH[0]} is {modes[0][1]} and {_FPMATH[1]} is {modes[1][1]}: oneDNN reads the first; unset one."
    for name, mode in modes[:1]:
        if mode not in _FPMATH_MODES:
            yield f"{name} is {mode} and oneDNN knows {', '.join(_FPMATH_MODES)}: it has no effect."
        elif mode in _USES_BF16 and not processor.has_bf16:
            yield f"{name} is {mode} and this CPU has no bf16: it has no effect; unset it."
        elif mode in _USES_BF16 and not is_fast:
            yield f"{name} is {mode} and WHARF_FAST_MATH is false: oneDNN computes in bf16 all the same; unset it."
