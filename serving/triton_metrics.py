"""Triton's own metric names (`nv_*`) over our statistics, so that existing dashboards and alerts go on.

Durations are cumulative microseconds; labels are `model` and `version`, as Triton's. What is not known here (a GPU
without a driver, the response cache, requests cancelled) is left out or 0, not made up. The families are untyped: of a
counter the library would write `_total`, which no dashboard of Triton's asks for. `metrics` renders it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import Metric, UnknownMetricFamily

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


def triton_families(statistics: Statistics) -> Iterator[Metric]:
    """Yield every `nv_*` family with its present values, one sample for each version of each model."""
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
