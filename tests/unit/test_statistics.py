"""Triton's statistics of each model: counts, durations, batches."""

from __future__ import annotations

from serving.statistics import Spent, Statistics


def test_an_execution_is_counted_by_its_first_request() -> None:
    """Two requests of one batch are two inferences and one execution."""
    counters = Statistics().of("m", "1")
    counters.succeeded(100, Spent(10, 20, 30, 40, rows=3), 1)
    counters.succeeded(100, Spent(10, 20, 30, 40, rows=3, is_first=False), 2)
    found = counters.document()

    assert (found["inference_count"], found["execution_count"]) == (3, 1)
    assert found["inference_stats"]["success"] == {"count": 2, "ns": 200}
    assert found["inference_stats"]["queue"] == {"count": 2, "ns": 20}
    assert found["batch_stats"] == [
        {
            "batch_size": 3,
            "compute_input": {"count": 1, "ns": 20},
            "compute_infer": {"count": 1, "ns": 30},
            "compute_output": {"count": 1, "ns": 40},
        }
    ]
    assert found["last_inference"] > 0


def test_sizes_of_batches_are_not_told_apart_without_end() -> None:
    """What comes in further sizes is still an execution, and the sizes that are known go on."""
    counters = Statistics().of("m", "1")
    for rows in (*range(1, 5001), 1):
        counters.succeeded(1, Spent(rows=rows), 1)
    found = counters.document()

    assert (len(found["batch_stats"]), found["execution_count"]) == (4096, 5001)
    assert found["batch_stats"][0]["compute_infer"]["count"] == 2


def test_failures_are_counted_and_the_rejected_apart() -> None:
    """A request that never ran is no `fail` to Triton's clients."""
    counters = Statistics().of("m", "1")
    counters.failed(5)
    counters.failed(6, is_rejected=True)

    assert counters.document()["inference_stats"]["fail"] == {"count": 1, "ns": 5}
    assert counters.rejected == 1


def test_every_field_that_clients_read_is_there_from_the_start() -> None:
    """perf_analyzer wants all of them."""
    found = Statistics().of("m", "1").document()

    assert list(found["inference_stats"]) == [
        *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    ]
    assert (found["response_stats"], found["batch_stats"], found["memory_usage"]) == ({}, [], [])


def test_versions_are_known_by_name() -> None:
    """Sorted, or all of them."""
    statistics = Statistics()
    for name, version in (("b", "1"), ("a", "2"), ("a", "1")):
        assert statistics.of(name, version) is statistics.of(name, version)

    assert [(each.name, each.version) for each in statistics.known()] == [("a", "1"), ("a", "2"), ("b", "1")]
    assert [each.version for each in statistics.known("a")] == ["1", "2"]
