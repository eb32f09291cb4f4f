"""The runtimes of the server process: settings become the backends of models that run here, and their device.

What is put around them (batches, reshapes, warm-ups) is said here too; workers and tritonserver are `server`'s, which
calls this room.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from serving.backends.base import Backend
from serving.backends.batched import BatchingBackend
from serving.backends.fake import FakeBackend
from serving.backends.onnx import OnnxBackend
from serving.backends.reshaped import ReshapedBackend
from serving.backends.torch import TorchBackend
from serving.backends.torch_cuda import open_cuda
from serving.backends.torch_device import DeviceSettings, TorchDevices
from serving.backends.warmed import WarmedBackend
from serving.cores import CoreBudget
from serving.devices import DeviceMeter
from serving.processor import read_processor
from serving.settings import Settings
from serving.tuning import allows_bf16

log = logging.getLogger("wharf.server")


def with_device(settings: Settings, meter: DeviceMeter) -> Settings:
    """Settle which device `auto` is."""
    if settings.device != "auto":
        return settings
    has_gpu = bool(meter.devices())
    if not has_gpu:
        log.info("event=no_gpu device=cpu reason=%r", meter.why_none)
    return replace(settings, device="cuda" if has_gpu else "cpu")


def make_torch(settings: Settings, cores: CoreBudget) -> TorchBackend:
    """Make the backend of torch; its GPUs are opened with the first model that comes to them."""
    devices = TorchDevices(open_cuda, DeviceSettings(settings.pinned_memory_bytes, settings.request_timeout_s))
    return TorchBackend(settings.device, cores.cores, devices)


def make_runtimes(settings: Settings, cores: CoreBudget, torch: TorchBackend) -> dict[str, Backend]:
    """Return the backend of each format."""
    torch_backend = BatchingBackend(dressed(torch), cores)
    is_bf16 = allows_bf16(read_processor(), is_fast=settings.fast_math)
    return {
        "torchscript": torch_backend,
        "torch_export": torch_backend,
        "onnx": BatchingBackend(dressed(OnnxBackend(settings.device, cores.cores, is_bf16=is_bf16)), cores),
        "fake": BatchingBackend(FakeBackend(), cores),
    }


def dressed(backend: Backend) -> Backend:
    """Put reshapes and warm-ups of Triton's configurations around a backend."""
    return WarmedBackend(ReshapedBackend(backend))
