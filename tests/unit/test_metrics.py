"""Counters, histograms and gauges under SageMaker's names, in Prometheus form."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.metrics import BUCKETS_US, COUNTERS, HISTOGRAMS, Gauges, Metrics


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample by its name and labels, as a scraper reads them."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        each.name + "".join(f"{{{key}={value}}}" for key, value in each.labels.items()): each.value
        for family in families
        for each in family.samples
    }


def test_everything_is_there_from_the_start() -> None:
    """A dashboard finds a name before its first event."""
    found = samples(Metrics())

    assert {f"{name}_total" for name in COUNTERS} <= found.keys()
    assert {f"{name}_count" for name in HISTOGRAMS} <= found.keys()
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize(
    ("status", "error"), [(200, None), (404, "4XX"), (424, "4XX"), (500, "5XX"), (503, "5XX"), (507, "5XX")]
)
def test_an_invocation_counts_once_and_by_the_class_of_its_status(status: int, error: str | None) -> None:
    """A 503 is also a refusal."""
    metrics = Metrics()
    metrics.invocation(status, 0.002, 0.0, None)
    found = samples(metrics)

    assert found["Invocations_total"] == 1
    assert found["Invocation4XXErrors_total"] == (error == "4XX")
    assert found["Invocation5XXErrors_total"] == (error == "5XX")
    assert found["Refused_total"] == (status == 503)
    assert found["ModelCacheHit_total"] + found["ModelCacheMiss_total"] == 0


def test_hits_and_misses_are_those_that_got_to_a_model() -> None:
    """What was refused before is neither."""
    metrics = Metrics()
    for is_hit in (True, True, False, None):
        metrics.invocation(200, 0.002, 0.001, is_hit)

    assert (metrics.value("ModelCacheHit"), metrics.value("ModelCacheMiss")) == (2, 1)


def test_time_in_the_model_and_around_it_are_told_apart_in_microseconds() -> None:
    """3 ms in all, 2 of them in the model."""
    metrics = Metrics()
    metrics.invocation(200, 0.003, 0.002, True)
    found = samples(metrics)

    assert found["ModelLatency_sum"] == pytest.approx(2000)
    assert found["OverheadLatency_sum"] == pytest.approx(1000)
    assert found["ModelLatency_count"] == found["OverheadLatency_count"] == 1


@pytest.mark.parametrize("bound", BUCKETS_US)
def test_a_value_on_a_bound_falls_into_its_bucket(bound: float) -> None:
    """`le` is inclusive: larger buckets hold it too, smaller ones do not."""
    metrics = Metrics()
    metrics.observe("ModelLoadingTime", bound / 1e6)
    rows = dict(metrics._histograms["ModelLoadingTime"].cumulative())

    assert [rows[str(each)] for each in BUCKETS_US] == [float(each >= bound) for each in BUCKETS_US]
    assert rows["+Inf"] == 1


def test_a_value_beyond_every_bound_is_counted() -> None:
    """Nothing is lost at the top."""
    metrics = Metrics()
    metrics.observe("ModelUnloadingTime", 10_000)

    assert samples(metrics)["ModelUnloadingTime_bucket{le=+Inf}"] == 1
    assert samples(metrics)["ModelUnloadingTime_sum"] == 1e10


def test_gauges_are_asked_at_the_scrape_and_labelled_by_model() -> None:
    """Any name, also one that Prometheus must quote."""
    metrics = Metrics()
    metrics.gauges = lambda: Gauges({"InFlight": ("Requests", 3.0)}, {'a"b\\c': 10, "ü": 20}, {"ü": 1})
    found = samples(metrics)

    assert found["InFlight"] == 3
    assert (found['ModelBytes{model=a"b\\c}'], found["ModelBytes{model=ü}"], found["ModelInFlight{model=ü}"]) == (
        10,
        20,
        1,
    )


def test_counts_from_many_threads_are_all_there() -> None:
    """Nothing is lost between them."""
    metrics = Metrics()

    def count(_: int) -> None:
        for _ in range(500):
            metrics.count("Evictions")
            metrics.invocation(200, 0.001, 0.0005, True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))

    assert (metrics.value("Evictions"), metrics.value("Invocations")) == (4000, 4000)
    assert samples(metrics)["ModelLatency_count"] == 4000
