"""What a torch model weighs, predicted from its file: in this process' memory and on a GPU.

Figures for the CPU are measured, those for a GPU are arithmetic: no GPU was at hand. `torch` calls this room before a
reservation; what a load really took is measured and replaces the prediction.
"""

from __future__ import annotations

from serving.backends.base import Footprint
from serving.backends.torchscript import has_convolutions
from serving.repository.layouts import ModelSpec

# MiB measured by benchmarks/footprint.py (torch 2.13, one thread, one sample of batch 1, weights of float32):
#
#                           file   resident   peak
#   linear, TorchScript      1.0        1.3    1.4
#   linear, TorchScript     19.1       19.4   19.5
#   BERT-base, TorchScript 418.0      451.6  469.3
#   ResNet-50, TorchScript  98.1      155.2  267.2   packed for inference
#   ResNet-50, TorchScript  98.1      145.2  170.7   kept plain
#   linear, export           1.0        1.4    1.4
#   linear, export          19.1       19.5   19.5
#   BERT-base, export      419.0      433.3  448.8
#   ResNet-50, export       99.8      119.8  149.2
#
# So: peak and resident bytes for each byte of the file, and a fixed part for the graph. A convolution adds scratch
# memory and, packed, a second copy while it loads; TorchScript files tell whether they have any, exported ones do not.
_LINEAR = (1.15, 1.08)
_PLAIN_CONVOLUTIONS = (1.70, 1.45)
_PACKED_CONVOLUTIONS = (2.70, 1.55)
_EXPORTED = (1.45, 1.12)
_GRAPH_BYTES = {"torchscript": 1 << 20, "torch_export": 4 << 20}

# On a GPU weights are what they are in the file. While they come, folding batch norms into convolutions (unless
# `optimize` is off) makes a second set of both. torch's allocator takes segments of 2 or 20 MiB, which small weights
# share (kSmallBuffer, kLargeBuffer of c10/cuda/CUDACachingAllocator.h).
_ON_DEVICE = 1.05
_FOLDED_ON_DEVICE = 2.10
_SEGMENT_BYTES = 20 << 20


def on_host(spec: ModelSpec) -> Footprint:
    """Return the footprint of a model that runs on the CPU."""
    (peak, resident), graph_bytes = _weight(spec), _GRAPH_BYTES[spec.format]
    return Footprint(int(spec.bytes * peak) + graph_bytes, int(spec.bytes * resident) + graph_bytes)


def on_device(spec: ModelSpec, devices: tuple[int, ...]) -> Footprint:
    """Return the footprint of a model that runs on a GPU: one of `devices`, or of the house's choice where ().

    In this process it leaves its graph alone; while it loads, all its weights come by.
    """
    graph_bytes = _GRAPH_BYTES[spec.format]
    host_peak = _EXPORTED[0] if spec.format == "torch_export" else _LINEAR[0]
    is_folded = spec.format == "torchscript" and spec.optimize and has_convolutions(spec.file)
    peak = _FOLDED_ON_DEVICE if is_folded else _ON_DEVICE
    return Footprint(
        peak_bytes=int(spec.bytes * host_peak) + graph_bytes,
        resident_bytes=graph_bytes,
        device_peak_bytes=int(spec.bytes * peak) + _SEGMENT_BYTES,
        device_resident_bytes=int(spec.bytes * _ON_DEVICE) + _SEGMENT_BYTES,
        devices=devices,
    )


def _weight(spec: ModelSpec) -> tuple[float, float]:
    """Return peak and resident bytes for each byte of the file."""
    if spec.format == "torch_export":
        return _EXPORTED
    if not has_convolutions(spec.file):
        return _LINEAR
    return _PACKED_CONVOLUTIONS if spec.optimize and spec.inputs else _PLAIN_CONVOLUTIONS
