"""How much of /dev/shm a group of ranks wants, and what is said where there is less."""

from __future__ import annotations

import pytest

from serving.dev_shm import FOLDER, shortage, shortage_for_all

NOWHERE = "/nowhere"  # has no bytes


def test_ranks_on_the_cpu_want_none() -> None:
    """They meet over gloo."""
    assert shortage(64, {}, is_cpu=True, folder=NOWHERE) == ""
    assert shortage(64, {"DS_BUILD_SHM_COMM": "0"}, is_cpu=True, folder=NOWHERE) == ""


def test_deepspeeds_operation_wants_a_buffer_for_each_rank() -> None:
    """The sentence has the numbers, the place and what to do."""
    said = shortage(2, {"DS_BUILD_SHM_COMM": "1"}, is_cpu=True, folder=NOWHERE)

    assert "DS_BUILD_SHM_COMM=1" in said
    assert "132 MiB of /nowhere for a group of 2 ranks and 0 MiB are free" in said
    assert "--shm-size, or unset the variable" in said


def test_ranks_on_gpus_want_what_nvidia_advises() -> None:
    """One by itself has nobody to share with."""
    assert "NCCL may want 1024 MiB" in shortage(2, {}, is_cpu=False, folder=NOWHERE)
    assert shortage(1, {}, is_cpu=False, folder=NOWHERE) == ""


def test_nothing_is_said_where_there_is_room() -> None:
    """As on any machine that is no container."""
    assert shortage(2, {"DS_BUILD_SHM_COMM": "1"}, is_cpu=True, folder=FOLDER) == ""


@pytest.mark.parametrize(
    ("degree", "is_cpu", "is_short"),
    [("2", False, True), ("max", False, True), ("max", True, False), ("", False, False), ("two", False, False)],
)
def test_the_servers_own_degree_is_read_at_its_start(degree: str, is_cpu: bool, is_short: bool) -> None:
    """Before any model is there: on the CPU `max` is one rank."""
    found = shortage_for_all(
        {"TENSOR_PARALLEL_DEGREE": degree, "DS_BUILD_SHM_COMM": "1"}, is_cpu=is_cpu, folder=NOWHERE
    )
    assert bool(found) == is_short
