"""Triton's metric names over our statistics."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from serving.devices import Device
from serving.metrics import Metrics
from serving.statistics import Spent, Statistics
from serving.triton_metrics import triton_families


def samples(statistics: Statistics, pending: dict[tuple[str, str], int] | None = None) -> dict[tuple[str, str], float]:
    """Return what a scrape reads: the value by sample name and reason."""
    metrics = Metrics()
    metrics.more = lambda: triton_families(statistics, pending or {}, {})
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, sample.labels.get("reason", "")): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("nv_") and sample.labels["model"] == "m"
    }


def test_a_batch_of_two_requests_is_one_execution_of_five_inferences() -> None:
    """Counts and cumulative microseconds, as Triton's."""
    statistics = Statistics()
    statistics.of("m", "1").succeeded(9_000_000, Spent(1_000_000, 2_000, 3_000_000, 4_000, rows=5), rows=2)
    statistics.of("m", "1").succeeded(9_000_000, Spent(1_000_000, 2_000, 3_000_000, 4_000, 5, is_first=False), rows=3)

    found = samples(statistics)

    assert found["nv_inference_request_success", ""] == 2
    assert found["nv_inference_count", ""] == 5
    assert found["nv_inference_exec_count", ""] == 1
    assert found["nv_inference_request_duration_us", ""] == 18_000
    assert found["nv_inference_queue_duration_us", ""] == 2_000
    assert found["nv_inference_compute_infer_duration_us", ""] == 6_000


def test_failures_have_a_reason_and_all_reasons_are_there() -> None:
    """A request that never ran was rejected; any other is the backend's; the others are 0, as Triton emits them."""
    statistics = Statistics()
    statistics.of("m", "1").failed(1_000, is_rejected=True)
    statistics.of("m", "1").failed(1_000)
    statistics.of("m", "1").failed(1_000)

    found = samples(statistics)

    reasons = {reason: found["nv_inference_request_failure", reason] for reason in ("REJECTED", "BACKEND", "OTHER")}
    assert reasons == {"REJECTED": 1, "BACKEND": 2, "OTHER": 0}
    assert found["nv_inference_request_failure", "CANCELED"] == 0


def test_what_waits_is_a_gauge_and_0_where_nothing_can() -> None:
    """Also of a model that was never asked."""
    statistics = Statistics()
    statistics.of("m", "1").failed(1_000)
    assert samples(statistics)["nv_inference_pending_request_count", ""] == 0
    assert samples(Statistics(), {("m", "1"): 3})["nv_inference_pending_request_count", ""] == 3


def test_the_machine_has_gauges_without_labels() -> None:
    """Under Triton's names."""
    machine = {"utilization": 0.5, "memory_total_bytes": 8.0, "memory_used_bytes": 2.0}
    found = {each.name: each for each in triton_families(Statistics(), {}, machine)}
    gauges = [found[f"nv_cpu_{name}"] for name in machine]
    assert [(each.type, each.samples[0].value, each.samples[0].labels) for each in gauges] == [
        ("gauge", 0.5, {}),
        ("gauge", 8.0, {}),
        ("gauge", 2.0, {}),
    ]


def test_gpus_have_tritons_names_by_uuid() -> None:
    """What perf_analyzer reads; what a driver does not tell is left out."""
    metrics = Metrics()
    whole = Device(0, "T4", "GPU-0", 1000, 250, 0.5, 30.0, 70.0, 12.5)
    slice_ = Device(1, "MIG 1g", "MIG-1", 100, 25)
    metrics.more = lambda: triton_families(Statistics(), {}, {}, (whole, slice_))
    text = metrics.render().decode()
    assert 'nv_gpu_utilization{gpu_uuid="GPU-0"} 0.5' in text
    assert 'nv_gpu_memory_total_bytes{gpu_uuid="GPU-0"} 1000.0' in text
    assert 'nv_gpu_memory_used_bytes{gpu_uuid="MIG-1"} 25.0' in text
    assert 'nv_gpu_power_usage{gpu_uuid="GPU-0"} 30.0' in text
    assert 'nv_gpu_power_limit{gpu_uuid="GPU-0"} 70.0' in text
    assert 'nv_energy_consumption{gpu_uuid="GPU-0"} 12.5' in text
    assert 'nv_gpu_utilization{gpu_uuid="MIG-1"}' not in text


def test_a_machine_without_gpus_has_none_of_their_names() -> None:
    """Nor zeros."""
    metrics = Metrics()
    metrics.more = lambda: triton_families(Statistics(), {}, {})
    assert b"nv_gpu" not in metrics.render()
