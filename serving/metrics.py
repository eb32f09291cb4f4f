"""Counters and histograms under SageMaker's own names, written in Prometheus form.

Times are in microseconds, as CloudWatch's of the same names. The hot path adds numbers under one short lock;
everything else (families, percentages, text) happens at the scrape. What is loaded now is asked of the manager through
`gauges`, at the scrape only. Knows no route and no model.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

# 100 us (a tiny model) to 360 s (the platform's longest load), about three steps a decade.
BUCKETS_US = (100, 250, 500, 1e3, 2.5e3, 5e3, 1e4, 2.5e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 2.5e6, 5e6, 1e7, 3e7, 6e7, 3.6e8)

COUNTERS = {
    "Invocations": "Requests for an inference",
    "Invocation4XXErrors": "Invocations answered with a 4xx status",
    "Invocation5XXErrors": "Invocations answered with a 5xx status",
    "ModelCacheHit": "Invocations that found their model loaded",
    "ModelCacheMiss": "Invocations that had to wait for their model to load",
    "Evictions": "Models unloaded to make room",
    "Refused": "Invocations answered 503: too busy",
    "LoadFailures": "Loads that failed",
    "Withdrawn": "Models taken out because their workers kept dying",
    "DeviceGiveBackTimeouts": "Unloads that were answered before all bytes of a device were back",
}
HISTOGRAMS = {
    "ModelLatency": "Microseconds in the model itself",
    "OverheadLatency": "Microseconds of an invocation outside of the model",
    "ModelLoadingWaitTime": "Microseconds an invocation waited for its model",
    "ModelLoadingTime": "Microseconds a load took",
    "ModelUnloadingTime": "Microseconds an unload took, drain included",
    "ModelDownloadingTime": "Microseconds to fetch and unpack an artifact",
}


@dataclass(slots=True)
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_US) + 1))
    sum_us: float = 0.0

    def observe(self, value_us: float) -> None:
        self.counts[bisect_left(BUCKETS_US, value_us)] += 1
        self.sum_us += value_us

    def cumulative(self) -> list[tuple[str, float]]:
        total, rows = 0, []
        for bound, count in zip((*map(str, BUCKETS_US), "+Inf"), self.counts, strict=True):
            total += count
            rows.append((bound, float(total)))
        return rows


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is true now.

    Scalars by metric name with their help text, bytes and requests in flight by model; by metric name, with its help
    text, bytes by device; and the bytes of each model on each device.
    """

    scalars: dict[str, tuple[str, float]]
    model_bytes: dict[str, int]
    model_in_flight: dict[str, int]
    devices: Mapping[str, tuple[str, Mapping[str, int]]] = field(default_factory=dict)
    model_device_bytes: Mapping[tuple[str, str], int] = field(default_factory=dict)


class Metrics:
    """All measurements of one server process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._histograms = {name: _Histogram() for name in HISTOGRAMS}
        self.gauges: Callable[[], Gauges] = lambda: Gauges({}, {}, {})
        self.more: Callable[[], Iterable[Metric]] = lambda: ()  # families of somebody else

    def count(self, name: str) -> None:
        """Add one to a counter of `COUNTERS`."""
        with self._lock:
            self._counters[name] += 1

    def value(self, name: str) -> int:
        """Return a counter's value."""
        return self._counters[name]

    def observe(self, name: str, seconds: float) -> None:
        """Add a duration to a histogram of `HISTOGRAMS`."""
        with self._lock:
            self._histograms[name].observe(seconds * 1e6)

    def invocation(self, status: int, total_s: float, model_s: float, is_hit: bool | None) -> None:
        """Record one answered invocation: its status, its whole duration, the model's part of it.

        `is_hit` says whether the model was loaded already; None for one that never got that far.
        """
        with self._lock:
            self._counters["Invocations"] += 1
            if status == 503:
                self._counters["Refused"] += 1
            if is_hit is not None:
                self._counters["ModelCacheHit" if is_hit else "ModelCacheMiss"] += 1
            if status >= 400:
                self._counters["Invocation4XXErrors" if status < 500 else "Invocation5XXErrors"] += 1
            if model_s:
                self._histograms["ModelLatency"].observe(model_s * 1e6)
                self._histograms["OverheadLatency"].observe((total_s - model_s) * 1e6)

    def render(self) -> bytes:
        """Write everything in Prometheus' text form."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self))
        return generate_latest(registry)

    def families(self) -> Iterator[Metric]:
        """Yield every metric family with its present values."""
        with self._lock:
            counters = dict(self._counters)
            histograms = {name: (each.cumulative(), each.sum_us) for name, each in self._histograms.items()}
        for name, value in counters.items():
            yield CounterMetricFamily(name, COUNTERS[name], value)
        for name, (buckets, sum_us) in histograms.items():
            yield HistogramMetricFamily(name, HISTOGRAMS[name], buckets, sum_us)
        gauges = self.gauges()
        for name, (text, scalar) in gauges.scalars.items():
            yield GaugeMetricFamily(name, text, scalar)
        yield _by_model("ModelBytes", "Bytes reserved for a model", gauges.model_bytes)
        yield _by_model("ModelInFlight", "Requests of a model in flight", gauges.model_in_flight)
        yield from _of_devices(gauges)
        yield from self.more()


class _Collector:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.families()


def _by_model(name: str, text: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["model"])
    for model, value in values.items():
        family.add_metric([model], value)
    return family


def _of_devices(gauges: Gauges) -> Iterator[Metric]:
    """Yield what there is of devices; a machine without any has no such metrics."""
    for name, (text, values) in gauges.devices.items():
        if values:
            family = GaugeMetricFamily(name, text, labels=["device"])
            for device, value in values.items():
                family.add_metric([device], value)
            yield family
    if gauges.model_device_bytes:
        family = GaugeMetricFamily(
            "ModelDeviceBytes", "Bytes of a device reserved for a model", labels=["model", "device"]
        )
        for labels, value in gauges.model_device_bytes.items():
            family.add_metric(labels, value)
        yield family
