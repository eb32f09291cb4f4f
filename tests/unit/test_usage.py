"""Readings of the machine in SageMaker's percentages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.cores import CoreBudget
from serving.http.admission import Admission
from serving.memory import Limits, resident_bytes
from serving.usage import Usage


def _usage(cache_dir: Path, admission: Admission | None = None, cores: CoreBudget | None = None) -> Usage:
    limits = Limits(2 * resident_bytes(), "cgroup", 2.0, "processors")
    return Usage(limits, cores or CoreBudget(2), admission or Admission(10, 100, 1000), cache_dir)


def _values(usage: Usage) -> dict[str, float]:
    return {name: value for name, (_, value) in usage.read().items()}


def test_memory_is_a_part_of_the_limit(tmp_path: Path) -> None:
    """Half of a limit that is twice what is held."""
    values = _values(_usage(tmp_path))

    assert values["MemoryUtilization"] == pytest.approx(50, abs=5)
    assert values["ResidentBytes"] == pytest.approx(resident_bytes(), rel=0.1)


def test_cpu_is_measured_between_two_scrapes(tmp_path: Path) -> None:
    """A busy thread is about one core; percentages go up to 100 times the cores."""
    usage = _usage(tmp_path)
    usage.read()
    before = sum(os.times()[:2])
    while sum(os.times()[:2]) - before < 0.05:
        pass

    assert 5 < _values(usage)["CPUUtilization"] <= 250


def test_disk_is_that_of_the_cache(tmp_path: Path) -> None:
    """Of its nearest folder that exists: it is made with the first archive."""
    values = [_values(_usage(folder))["DiskUtilization"] for folder in (tmp_path, tmp_path / "not" / "yet")]

    assert values[0] == pytest.approx(values[1], abs=0.5)
    assert 0 < values[0] <= 100


def test_a_file_system_without_a_size_is_no_reason_to_fail() -> None:
    """A tmpfs without a limit, or /proc: its total is 0."""
    assert _values(_usage(Path("/proc")))["DiskUtilization"] == 0.0


def test_requests_bodies_and_the_queue_for_cores_are_shown(tmp_path: Path) -> None:
    """What is in flight now."""
    admission = Admission(10, 100, 1000)
    admission.enter(60)
    admission.enter(None)
    values = _values(_usage(tmp_path, admission))

    assert (values["InFlight"], values["BodyBytes"], values["Queue"]) == (2, 160, 0)
