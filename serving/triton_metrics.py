"""Triton's own metric names (`nv_*`) over our statistics, so that existing dashboards and alerts go on.

Durations are cumulative microseconds; labels are `model` and `version`, or `gpu_uuid`, as Triton's. What is not known
here (a GPU's power where its driver does not tell, the response cache, requests cancelled) is left out or 0, not made
up. Counters are untyped: of a counter the library would write `_total`, which no dashboard of Triton's asks for. What
is true at this moment (pending requests, the machine, its GPUs) is handed in. `metrics` renders it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily

from serving.devices import Device
from serving.statistics import ModelStatistics, Statistics

_LABELS = ("model", "version")
_DURATIONS = {
    "request": "success",
    **{name: name for name in ("queue", "compute_input", "compute_infer", "compute_output")},
}
_TEXTS = {
    "nv_inference_request_success": "Successful inference requests",
    "nv_inference_count": "Inferences performed; a batch of n counts n",
    "nv_inference_exec_count": "Model executions; a batch counts one",
}
# Triton emits all four, at 0 too; a model's own failures are BACKEND.
_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")


_MACHINE = {
    "utilization": "CPU utilization of the machine since the last scrape, 0 to 1",
    "memory_total_bytes": "Memory of the machine",
    "memory_used_bytes": "Memory of the machine that is in use",
}


# By name: text, and how a device has it. Triton's energy is a counter too.
_GPU: Mapping[str, tuple[str, Callable[[Device], float | None]]] = {
    "nv_gpu_utilization": ("GPU utilization, 0 to 1", lambda device: device.utilization),
    "nv_gpu_memory_total_bytes": ("GPU memory", lambda device: device.capacity_bytes),
    "nv_gpu_memory_used_bytes": ("GPU memory that is in use", lambda device: device.used_bytes),
    "nv_gpu_power_usage": ("GPU power in watts", lambda device: device.power_watts),
    "nv_gpu_power_limit": ("GPU power limit in watts", lambda device: device.power_limit_watts),
    "nv_energy_consumption": ("GPU energy in joules since the driver was loaded", lambda device: device.energy_joules),
}


def triton_families(
    statistics: Statistics,
    pending: Mapping[tuple[str, str], int],
    machine: Mapping[str, float],
    devices: Sequence[Device] = (),
) -> Iterator[Metric]:
    """Yield every `nv_*` family with its present values, one sample for each version of each model.

    `pending` are requests that wait, by name and version; `machine` has what of `_MACHINE` is known.
    """
    models = statistics.known()
    values: Mapping[str, Sequence[int]] = {
        "nv_inference_request_success": [each.durations["success"].count for each in models],
        "nv_inference_count": [each.inferences for each in models],
        "nv_inference_exec_count": [each.executions for each in models],
    }
    for name, text in _TEXTS.items():
        yield _family(name, text, models, values[name])
    yield _failures(models)
    for name, part in _DURATIONS.items():
        text = f"Cumulative {name.replace('_', ' ')} duration in microseconds"
        yield _family(
            f"nv_inference_{name}_duration_us", text, models, [each.durations[part].ns // 1000 for each in models]
        )
    waiting = GaugeMetricFamily("nv_inference_pending_request_count", "Requests that wait for a run", labels=_LABELS)
    for label in dict.fromkeys([*((each.name, each.version) for each in models), *pending]):
        waiting.add_metric(label, pending.get(label, 0))
    yield waiting
    for name, value in machine.items():
        yield GaugeMetricFamily(f"nv_cpu_{name}", _MACHINE[name], value)
    yield from _of_devices(devices)


def _of_devices(devices: Sequence[Device]) -> Iterator[Metric]:
    for name, (text, read) in _GPU.items():
        known = [(each.uuid, value) for each in devices if (value := read(each)) is not None]
        if known:
            kind = UnknownMetricFamily if name == "nv_energy_consumption" else GaugeMetricFamily
            family = kind(name, text, labels=("gpu_uuid",))
            for uuid, value in known:
                family.add_metric([uuid], value)
            yield family


def _family(name: str, text: str, models: Sequence[ModelStatistics], values: Sequence[int]) -> Metric:
    family = UnknownMetricFamily(name, text, labels=_LABELS)
    for each, value in zip(models, values, strict=True):
        family.add_metric([each.name, each.version], value)
    return family


def _failures(models: Sequence[ModelStatistics]) -> Metric:
    family = UnknownMetricFamily("nv_inference_request_failure", "Failed requests", labels=(*_LABELS, "reason"))
    for each in models:
        counts = {"REJECTED": each.rejected, "BACKEND": each.durations["fail"].count}
        for reason in _REASONS:
            family.add_metric([each.name, each.version, reason], counts.get(reason, 0))
    return family
