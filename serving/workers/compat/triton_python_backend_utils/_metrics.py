"""Metrics that a model keeps: counted in this worker, by family and labels, and read with `snapshot`.

Families of one name are one family, metrics of one set of labels one metric, as in Triton. It knows no exposition
format and no server; people's models count, `snapshot` is for whoever wants to tell.
"""

from __future__ import annotations

import bisect
import enum
import threading
from typing import Any

from ._errors import TritonModelException


class MetricKind(enum.Enum):
    """What a family measures."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


COUNTER, GAUGE, HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

_lock = threading.Lock()
_families: dict[str, tuple[MetricKind, str, dict[tuple[tuple[str, str], ...], Metric]]] = {}


class Metric:
    """One number, or one histogram, of a family; made by `MetricFamily.Metric`."""

    def __init__(self, name: str, kind: MetricKind, buckets: list[float]) -> None:
        self._name, self._kind, self._buckets = name, kind, buckets
        self._value = 0.0
        self._counts = [0] * (len(buckets) + 1)

    def increment(self, value: float) -> None:
        """Add `value`, which is not below 0 for a counter."""
        self._check("increment", COUNTER, GAUGE)
        if self._kind is COUNTER and value < 0:
            raise TritonModelException(f"Counter '{self._name}' cannot go down by {-value}: use a GAUGE.")
        with _lock:
            self._value += value

    def set(self, value: float) -> None:
        """Set a gauge."""
        self._check("set", GAUGE)
        with _lock:
            self._value = float(value)

    def observe(self, value: float) -> None:
        """Add an observation to a histogram."""
        self._check("observe", HISTOGRAM)
        with _lock:
            self._counts[bisect.bisect_left(self._buckets, value)] += 1
            self._value += value

    def value(self) -> float:
        """Return a counter's or gauge's value."""
        self._check("value", COUNTER, GAUGE)
        return self._value

    def _check(self, operation: str, *kinds: MetricKind) -> None:
        if self._kind not in kinds:
            raise TritonModelException(
                f"Metric '{self._name}' is a {self._kind.name}, which has no {operation}(): that is for "
                f"{' and '.join(kind.name for kind in kinds)}."
            )

    def read(self) -> Any:
        """Return the value, or of a histogram its sum and the counts below each bound and above all."""
        if self._kind is not HISTOGRAM:
            return self._value
        return {"sum": self._value, "bounds": list(self._buckets), "counts": list(self._counts)}


class MetricFamily:
    """Metrics of one name and kind that differ by labels."""

    COUNTER, GAUGE, HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

    def __init__(self, name: str, description: str, kind: MetricKind) -> None:
        kind = MetricKind(kind)
        with _lock:
            self._kind, _, self._metrics = _families.setdefault(name, (kind, description, {}))
        if self._kind is not kind:
            raise TritonModelException(f"Metric family '{name}' is a {self._kind.name} already, not a {kind.name}.")
        self._name = name

    def Metric(self, labels: dict[str, str] | None = None, buckets: list[float] | None = None) -> Metric:  # noqa: N802
        """Return the metric of these labels; a histogram's bounds rise."""
        bounds = [float(bound) for bound in buckets or ()]
        if (self._kind is HISTOGRAM) != bool(bounds) or bounds != sorted(set(bounds)):
            raise TritonModelException(
                f"Metric '{self._name}' is a {self._kind.name} with buckets {buckets}: give a HISTOGRAM, and only "
                "that, bounds that rise."
            )
        key = tuple(sorted((labels or {}).items()))
        with _lock:
            return self._metrics.setdefault(key, Metric(self._name, self._kind, bounds))


def snapshot() -> dict[str, dict[str, Any]]:
    """Return every family's kind, description and metrics, each with labels and value."""
    with _lock:
        return {
            name: {
                "kind": kind.value,
                "description": description,
                "metrics": [{"labels": dict(key), "value": metric.read()} for key, metric in metrics.items()],
            }
            for name, (kind, description, metrics) in _families.items()
        }
