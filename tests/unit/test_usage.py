"""Readings of the machine in SageMaker's percentages."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import cast

import numpy as np
import pytest

from serving.backends.base import HandlerModel
from serving.backends.compound import CompoundModel, Part
from serving.backends.wrapping import WrappedModel
from serving.cores import CoreBudget
from serving.devices import Nvml
from serving.http.admission import Admission
from serving.memory import Limits, resident_bytes
from serving.repository.scheduling import Scheduling
from serving.usage import Machine, Usage, pending
from serving.workers.handler import Request
from tests.gpu.nvml.pynvml import Library, make_cards, take
from tests.unit.house import House, others
from tests.waiting import until


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


def _with_cards(folder: Path, cards: Nvml) -> dict[str, float]:
    limits = Limits(2 * resident_bytes(), "cgroup", 2.0, "processors")
    usage = Usage(limits, CoreBudget(2), Admission(10, 100, 1000), folder, meter=cards)
    return {name: value for name, value in _values(usage).items() if name.startswith("GPU")}


def test_gpus_have_cloudwatchs_percentages(tmp_path: Path) -> None:
    """A hundred for each that is in full use: two cards a quarter busy, and half full and empty."""
    make_cards(tmp_path / "cards", [1000, 1000])
    take(tmp_path / "cards", 1, 500)
    assert _with_cards(tmp_path, Nvml(Library(tmp_path / "cards"), {})) == {
        "GPUUtilization": 50,
        "GPUMemoryUtilization": 50,
    }


def test_without_gpus_there_are_no_percentages_of_them(tmp_path: Path) -> None:
    """An autoscaler must not take a machine without GPUs for an idle one."""
    make_cards(tmp_path / "cards", [])
    assert _with_cards(tmp_path, Nvml(Library(tmp_path / "cards"), {})) == {}


STAT = "cpu  {user} 0 0 {idle} {wait} 0 0 0 9 9\ncpu0 1 1 1 1\n"


def test_the_machine_is_measured_between_two_scrapes(tmp_path: Path) -> None:
    """Of 100 ticks, 60 were idle or waited for a disk."""
    (tmp_path / "meminfo").write_text("MemTotal:    100 kB\nMemFree:   1 kB\nMemAvailable:   75 kB\nHugePages:   0\n")
    (tmp_path / "stat").write_text(STAT.format(user=10, idle=20, wait=30))
    machine = Machine(tmp_path)
    (tmp_path / "stat").write_text(STAT.format(user=50, idle=70, wait=40))

    found = machine.read()

    assert found["utilization"] == pytest.approx(0.4)
    assert (found["memory_total_bytes"], found["memory_used_bytes"]) == (102_400, 25_600)
    assert machine.read()["utilization"] == 0


def test_this_machine_has_its_gauges() -> None:
    """As Linux writes them."""
    found = Machine().read()
    assert 0 <= found["utilization"] <= 1
    assert 0 < found["memory_used_bytes"] < found["memory_total_bytes"]


@pytest.mark.parametrize("text", [None, "", "cpu 1 2", "cpu a b c d e f"])
def test_what_the_machine_does_not_tell_is_not_there(tmp_path: Path, text: str | None) -> None:
    """Nor is it made up."""
    for name in ("stat", "meminfo") if text is not None else ():
        (tmp_path / name).write_text(text or "")
    assert Machine(tmp_path).read() == {}


def test_what_waits_for_a_run_is_counted_for_models_that_have_a_line(tmp_path: Path) -> None:
    """By name and version."""
    house = House(tmp_path)
    house.backend.schedulers["lined"] = (Scheduling(2, True, max_queue_delay_us=30_000_000), CoreBudget(1))
    house.load("lined")
    house.load("plain")
    assert pending(house.manager) == {("lined", "1"): 0}
    request = Request(tensors={"x": np.zeros((1, 1), np.float32)}, about={})
    with house.manager.ready("lined") as resident, others(2) as pool:
        model = cast("HandlerModel", resident.model)
        asked = [pool.submit(model.invoke, request, monotonic() + 30)]
        until(lambda: pending(house.manager) == {("lined", "1"): 1})
        asked.append(pool.submit(model.invoke, request, monotonic() + 30))
        assert [each.result(30).tensors is not None for each in asked] == [True, True]
    assert pending(house.manager) == {("lined", "1"): 0}


def test_a_model_that_goes_while_it_is_asked_has_no_line(tmp_path: Path) -> None:
    """Its resident is in hand and its model is gone: a scrape does not fail for it."""
    house = House(tmp_path)
    house.backend.schedulers["lined"] = (Scheduling(2, True), CoreBudget(1))
    house.load("lined")
    with house.manager.ready("lined") as resident:
        model = resident.model
        del resident.model  # as an unload does
        assert pending(house.manager) == {}
        resident.model = model


def test_versions_of_a_model_have_lines_of_their_own(tmp_path: Path) -> None:
    """Also behind another model's wrapper."""
    house = House(tmp_path)
    house.backend.schedulers["lined"] = (Scheduling(2, True), CoreBudget(1))
    house.load("lined")
    with house.manager.ready("lined") as resident:
        assert resident.artifact is not None
        spec, model = resident.artifact.spec, resident.model
        older = Part(replace(spec, version="3"), WrappedModel(model), 0)
        resident.model = CompoundModel(Part(spec, model, 0), (older,))
    assert pending(house.manager) == {("lined", "1"): 0, ("lined", "3"): 0}
