"""The ONNX backend: ONNX Runtime sessions, run in this process.

Knows the session options that fit many models in one process, how a session tells its signature, and which of its
errors are about memory. The manager calls it. On `cuda` the CUDA provider is asked for; that path is unverified: no GPU
was at hand. A file is data to ONNX Runtime: operators are its own, custom libraries are never registered, and external
weights must lie in the model's own folder.
"""

from __future__ import annotations

import functools
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from serving.backends.base import Footprint, InProcessBackend, InProcessModel, LoadedModel
from serving.backends.refine import check_demanded, refine
from serving.backends.threads import threads_for
from serving.devices import named_devices
from serving.errors import (
    BadRequestError,
    InsufficientMemoryError,
    InvalidArtifactError,
    LoadFailedError,
    ModelFailedError,
    ServingError,
    UnavailableError,
)
from serving.kernels import BF16_DIFFERENCE, MATMUL
from serving.repository.layouts import ModelSpec
from serving.tensors import Array, Signature, Tensors, TensorSpec

log = logging.getLogger("wharf.backends.onnx")

# ONNX Runtime's names of types, and Triton's.
_DTYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

# ONNX Runtime has no error type for a failed allocation: these are the whole messages of std::bad_alloc passing through
# it, in a run and in the making of a session.
_BAD_ALLOC = re.compile(
    r"\[ONNXRuntimeError\] : 6 : RUNTIME_EXCEPTION : "
    r"(Non-zero status code returned while running [\w.]+ node\. Name:'.*' Status Message"
    r"|Exception during initialization): std::bad_alloc"
)
# What it says of a file that is no model, by the names of its error classes; anything else is a failed load.
_BAD_FILE = frozenset({"InvalidProtobuf", "InvalidGraph", "InvalidArgument", "NoModel", "NotImplemented", "Fail"})
# MiB measured by benchmarks/footprint.py (onnxruntime 1.31, one thread, one sample of batch 1):
#
#                         file   resident   peak
#   linear                 1.0        1.1    3.0
#   linear                19.1       19.2   42.1
#   ResNet-50             97.7       99.5  270.6
#   BERT-base            418.4      421.0  714.4
#   forest, 100 trees      2.7       11.2   34.7
#   forest, 500 trees     14.2       55.8  166.8
#
# So: peak and resident bytes for each byte of the file, and a fixed part for the graph. The file, its weights and their
# repacked copies are alive together while a session is made; a forest's compact lists become nodes with pointers.
_CONVOLUTIONS = (2.8, 1.02)
_LINEAR = (2.2, 1.02)
_FOREST = (13.0, 4.5)
_GRAPH_BYTES = 1 << 20
# On a GPU, beside the weights: libtorch's ResNet-50 had 173 MiB there, BERT-base 47 (a T4, AWS' own rerun of 2023). The
# GPU's use is measured after the load.
_WORKSPACE_BYTES = 128 << 20
# An operator's name comes before its attributes: in scikit-learn's forests at byte 55 to 70.
_HEAD_BYTES = 64 << 10
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Fatal only: errors reach the caller and our own log as one line; here they would be three, in colour.
_LOG_SEVERITY = 4


class OnnxModel(InProcessModel):
    """A session that is ready."""

    def __init__(self, name: str, session: Any, signature: Signature, threads: int) -> None:
        self._name = name
        self._session: Any = session
        self._signature = signature
        self._threads = threads
        self._outputs = [spec.name for spec in signature.outputs]
        self._demanded = [node.name for node in session.get_inputs()]
        self._texts = {spec.name for spec in signature.inputs if spec.dtype == "BYTES"}

    @property
    def signature(self) -> Signature:
        """Inputs and outputs as the session tells them, refined by the configuration."""
        return self._signature

    @property
    def threads(self) -> int:
        """CPU threads that one run uses."""
        return self._threads

    def run(self, inputs: Tensors) -> Tensors:
        """Compute the outputs by name, on this thread and `threads` - 1 of the session's own.

        Raises `BadRequestError` for text that is not UTF-8, `ModelFailedError` and `InsufficientMemoryError` as `base`
        says.
        """
        session = self._session
        if session is None:
            raise UnavailableError(f"Model '{self._name}' is closed: load it again.")
        check_demanded(self._name, self._demanded, inputs)  # the configuration may call some of them optional
        feed = {name: _text(name, array) if name in self._texts else _aligned(array) for name, array in inputs.items()}
        try:
            return dict(zip(self._outputs, session.run(self._outputs, feed), strict=True))
        except Exception as error:
            if is_out_of_memory(error):
                raise InsufficientMemoryError(
                    f"Model '{self._name}' found no memory for this request: {_summary(error)}: send a smaller batch "
                    "or unload a model."
                ) from error
            raise ModelFailedError(f"Model '{self._name}' failed on this input: {_summary(error)}") from error

    def close(self) -> None:
        """Let go of the session."""
        self._session = None


class OnnxBackend(InProcessBackend):
    """ONNX models on `device` ("cpu" or "cuda"), within `cores` CPU cores; `is_bf16`: fp32 products may be bf16's."""

    name = "onnx"

    def __init__(self, device: str, cores: int, *, is_bf16: bool = False) -> None:
        self._device = device
        self._cores = cores
        self._is_bf16 = is_bf16

    def prepare(self) -> bool:
        """Import onnxruntime; return whether this call did."""
        if "onnxruntime" in sys.modules:
            return False
        try:
            import onnxruntime
        except ImportError as error:
            raise LoadFailedError(f"ONNX models need onnxruntime and it cannot be imported ({error}).") from error
        onnxruntime.set_default_logger_severity(_LOG_SEVERITY)
        return True

    def footprint(self, spec: ModelSpec) -> Footprint:
        """Predict from the size of the file and the operators that it begins with."""
        peak, resident = _weight(spec.file)
        on_host = Footprint(int(spec.bytes * peak) + _GRAPH_BYTES, int(spec.bytes * resident) + _GRAPH_BYTES)
        devices = named_devices(spec.device or self._device)
        if devices is None:
            return on_host
        device_bytes = spec.bytes + _WORKSPACE_BYTES
        return replace(on_host, device_peak_bytes=device_bytes, device_resident_bytes=device_bytes, devices=devices)

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Make the model ready; errors as `base` says."""
        import onnxruntime

        device, threads = spec.device or self._device, threads_for(spec, self._cores)
        providers: list[Any] = [_CPU] if device == "cpu" else [(_CUDA, {"device_id": _number(spec, device)}), _CPU]
        if device != "cpu" and _CUDA not in onnxruntime.get_available_providers():
            raise LoadFailedError(
                f"Model '{spec.name}' is to run on {device} and this onnxruntime has no {_CUDA}: set WHARF_DEVICE=cpu, "
                "or install onnxruntime-gpu."
            )
        onnxruntime.set_default_logger_severity(_LOG_SEVERITY)
        is_bf16 = self._is_bf16 and is_bf16_right()
        try:
            session = onnxruntime.InferenceSession(str(spec.file), _options(threads, spec.optimize, is_bf16), providers)
        except Exception as error:
            raise _load_error(spec, error) from error
        return OnnxModel(spec.name, session, _signature(spec, session), threads)


@functools.cache
def is_bf16_right() -> bool:
    """Say whether this ONNX Runtime's bf16 products are right; the answer is found once, in some milliseconds.

    Those of 1.31 on arm64 are, where the second factor is a constant of the model; where it is computed, and longer
    than 256, they are noise (docs/graviton.md).
    """
    import onnxruntime

    random = np.random.default_rng(0)
    a, w = random.standard_normal((64, 512), np.float32), random.standard_normal((512, 64), np.float32)
    session = onnxruntime.InferenceSession(MATMUL, _options(1, True, True), [_CPU])
    exact = a.astype(np.float64) @ w
    difference = float(np.abs(session.run(None, {"a": a, "w": w})[0] - exact).max() / np.abs(exact).max())
    if difference > BF16_DIFFERENCE:
        log.warning(
            "event=bf16_refused library=onnxruntime version=%s difference=%.1e reason='its bf16 products are wrong'",
            *(onnxruntime.__version__, difference),
        )
    return difference <= BF16_DIFFERENCE


def is_out_of_memory(error: Exception) -> bool:
    """Say whether `error` is an allocator's: by type, or by the whole message of a passing std::bad_alloc."""
    return isinstance(error, MemoryError) or (
        type(error).__name__ == "RuntimeException" and bool(_BAD_ALLOC.fullmatch(str(error).strip()))
    )


def _weight(file: Path) -> tuple[float, float]:
    try:
        with file.open("rb") as model:
            head = model.read(_HEAD_BYTES)
    except OSError:
        head = b""
    if b"TreeEnsemble" in head:
        return _FOREST
    return _CONVOLUTIONS if b"Conv" in head else _LINEAR


def _number(spec: ModelSpec, device: str) -> int:
    """Return the number of the GPU: where the house put the model, else what `device` says."""
    return spec.placement.device if spec.placement.device is not None else int(device.partition(":")[2] or 0)


def _options(threads: int, is_optimized: bool, is_bf16: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_SEVERITY
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if is_optimized else level.ORT_DISABLE_ALL
    # Threads that wait for the next request by spinning would eat the cores of the other models.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if is_bf16:  # Arm alone has these kernels; elsewhere the entry is ignored
        options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "1")
    # An arena keeps the peak of the largest request for as long as the model lives. Without it: the same latency
    # (ResNet-50 35.8 and 35.3 ms, BERT-base 20.8 and 20.7 ms), 17 MiB less for ResNet-50.
    options.enable_cpu_mem_arena = False
    return options


def _signature(spec: ModelSpec, session: Any) -> Signature:
    # An input with a default is one only where it is asked for.
    asked_for = {each.name for each in spec.inputs or ()}
    defaults = [node for node in session.get_overridable_initializers() if node.name in asked_for]
    inputs = [_described(spec.name, "input", node) for node in (*session.get_inputs(), *defaults)]
    outputs = [_described(spec.name, "output", node) for node in session.get_outputs()]
    return Signature(
        refine(spec.name, "input", inputs, spec.inputs), refine(spec.name, "output", outputs, spec.outputs)
    )


def _described(model: str, kind: str, node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise InvalidArtifactError(
            f"Model '{model}' has the {kind} '{node.name}' of type {node.type}, which is no tensor that we serve: "
            "export a scikit-learn classifier with zipmap=False, anything else with tensors of numbers or strings only."
        )
    return TensorSpec(node.name, _DTYPES[node.type], _dims(node.shape))


def _dims(shape: Sequence[Any]) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in shape)


def _text(name: str, array: Array) -> Array:
    """Return an array of str: ONNX Runtime takes bytes for their Python notation."""
    try:
        texts = [item.decode() if isinstance(item, bytes) else item for item in array.flat]
    except UnicodeDecodeError as error:
        raise BadRequestError(f"Input '{name}' is not UTF-8 ({error}): the model takes text.") from error
    return np.array(texts, dtype=object).reshape(array.shape)


def _aligned(array: Array) -> Array:
    """Return an array whose numbers lie at multiples of their size, as kernels expect; in a V2 body they need not.

    The mean of 3x224x224 floats 3 bytes off takes 150 us, in place 29, and the copy 21.
    """
    return array if array.flags.aligned else array.copy()


def _load_error(spec: ModelSpec, error: Exception) -> ServingError:
    if is_out_of_memory(error):
        return InsufficientMemoryError(f"Model '{spec.name}' found no memory to load: {_summary(error)}")
    if type(error).__name__ in _BAD_FILE:
        return InvalidArtifactError(f"Model '{spec.name}': {spec.file.name} is no ONNX model: {_summary(error)}")
    return LoadFailedError(f"Model '{spec.name}': {spec.file.name} could not be loaded: {_summary(error)}")


def _summary(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
