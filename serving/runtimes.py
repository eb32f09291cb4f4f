"""What runs models: settings become backends, the processes behind them, and the device.

What is put around a backend (batches, reshapes, warm-ups) is said here too. Knows neither manager nor wire; `server`
makes one `Runtimes`, and ends it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from serving.backends.base import Backend
from serving.backends.batched import BatchingBackend
from serving.backends.engine import EngineBackend
from serving.backends.ensemble import EnsembleBackend
from serving.backends.fake import FakeBackend
from serving.backends.grouped import GroupingBackend
from serving.backends.onnx import OnnxBackend
from serving.backends.reshaped import ReshapedBackend
from serving.backends.tensorflow import TensorFlowBackend
from serving.backends.torch import TorchBackend
from serving.backends.torch_cuda import open_cuda
from serving.backends.torch_device import DeviceSettings, TorchDevices
from serving.backends.triton import TritonBackend
from serving.backends.warmed import WarmedBackend
from serving.backends.worker import WorkerBackend, WorkerSettings
from serving.cores import CoreBudget
from serving.devices import DeviceMeter
from serving.processor import read_processor
from serving.settings import Settings
from serving.tuning import allows_bf16
from serving.workers.environments import Environments

log = logging.getLogger("wharf.server")

TRITONSERVER = Path("/opt/tritonserver/bin/tritonserver")
"""Where NVIDIA's images have it."""


def with_device(settings: Settings, meter: DeviceMeter) -> Settings:
    """Settle which device `auto` is."""
    if settings.device != "auto":
        return settings
    has_gpu = bool(meter.devices())
    if not has_gpu:
        log.info("event=no_gpu device=cpu reason=%r", meter.why_none)
    return replace(settings, device="cuda" if has_gpu else "cpu")


class Runtimes:
    """Every backend, by the format that it runs, and those that must be asked or ended by name."""

    def __init__(self, settings: Settings, cores: CoreBudget, environ: Mapping[str, str]) -> None:
        self.workers, self._tensorflow = _make_workers(settings, cores.cores, environ)
        self.ensembles = EnsembleBackend(settings.request_timeout_s)
        self.torch = _make_torch(settings, cores)
        self._triton = _make_triton(settings)
        torch = BatchingBackend(_dressed(self.torch), cores)
        is_bf16 = allows_bf16(read_processor(), is_fast=settings.fast_math)
        onnx = OnnxBackend(settings.device, cores.cores, is_bf16=is_bf16)
        self.by_format: dict[str, Backend] = {
            "torchscript": torch,
            "torch_export": torch,
            "onnx": BatchingBackend(_dressed(onnx), cores),
            "fake": BatchingBackend(FakeBackend(), cores),
            "worker": EngineBackend(
                _dressed(GroupingBackend(self.workers)), settings.request_timeout_s, settings.max_reply_bytes
            ),
            "tensorflow": _dressed(GroupingBackend(self._tensorflow)),
            "ensemble": self.ensembles,
            "triton": self._triton,
        }

    def outside_bytes(self) -> int:
        """Return what the processes of models hold, in bytes."""
        return self.workers.all_bytes() + self._tensorflow.all_bytes() + self._triton.server.held_bytes()

    def end_soon(self) -> None:
        """Let what takes its time to end begin with it; models may still be in use."""
        self._triton.end_soon()

    def close(self) -> None:
        """End the processes."""
        self.workers.close()
        self._tensorflow.close()
        self._triton.close()


def _make_torch(settings: Settings, cores: CoreBudget) -> TorchBackend:
    """Make the backend of torch; its GPUs are opened with the first model that comes to them."""
    devices = TorchDevices(open_cuda, DeviceSettings(settings.pinned_memory_bytes, settings.request_timeout_s))
    return TorchBackend(settings.device, cores.cores, devices)


def _make_triton(settings: Settings) -> TritonBackend:
    binary = settings.tritonserver or (TRITONSERVER if TRITONSERVER.is_file() else None)
    return TritonBackend(
        binary,
        settings.cache_dir / "tritonserver",
        timeout_s=settings.request_timeout_s,
        load_timeout_s=settings.load_timeout_s,
        shared_bytes=settings.triton_shared_bytes,
    )


def _make_workers(
    settings: Settings, cores: int, environ: Mapping[str, str]
) -> tuple[WorkerBackend, TensorFlowBackend]:
    environments = Environments(
        settings.cache_dir / "environments",
        may_install=settings.install_requirements,
        timeout_s=settings.load_timeout_s,
    )
    workers = WorkerSettings(
        cores=cores,
        preload=settings.preload,
        log_format=settings.log_format,
        device=settings.device,
        min_workers=settings.min_workers,
        max_workers=max(settings.min_workers, settings.max_workers),
        idle_s=settings.worker_idle_s,
        queue_size=settings.worker_queue,
        request_timeout_s=settings.request_timeout_s,
        load_timeout_s=settings.load_timeout_s,
        max_deaths=settings.worker_deaths,
        ping_s=settings.worker_ping_s,
        ping_timeout_s=settings.worker_ping_timeout_s,
        default_accept=settings.default_accept,
        max_reply_bytes=settings.max_reply_bytes,
        address_space_bytes=settings.worker_memory_bytes,
        open_files=settings.worker_files,
        processes=settings.worker_processes,
    )
    return WorkerBackend(workers, environments), TensorFlowBackend(workers, environments, environ)


def _dressed(backend: Backend) -> Backend:
    """Put reshapes and warm-ups of Triton's configurations around a backend."""
    return WarmedBackend(ReshapedBackend(backend))
