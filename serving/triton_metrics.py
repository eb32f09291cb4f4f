"""Triton's own metric names (`nv_*`) over our statistics, so that existing dashboards and alerts go on.

Durations are cumulative microseconds; labels are `model` and `version`, as Triton's. What is not known here (a GPU
without a driver, the response cache, requests cancelled) is left out or 0, not made up. Counters are untyped: of a
counter the library would write `_total`, which no dashboard of Triton's asks for. What is true at this moment (pending
requests, the machine) is handed in. `metrics` renders it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily

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


def triton_families(
    statistics: Statistics, pending: Mapping[tuple[str, str], int], machine: Mapping[str, float]
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
