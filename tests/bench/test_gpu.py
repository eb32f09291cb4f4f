"""Filling a device with copies: the method, the arithmetic and the report, over a small fake and for real in small."""

from __future__ import annotations

import importlib.util

import pytest

from benchmarks import gpu
from benchmarks.gpu import SEED, Filled, check, fill, report
from benchmarks.networks import NETWORKS
from serving.devices import NoDevices

MIB = 1 << 20
ANSWER = [0.5, -2.0]


class FakeSite:
    """A device of 1,000 MiB: 100 in use, 200 for a context with the first copy, then so many for each copy."""

    total_bytes = 1000 * MIB

    def __init__(self, each_mib: int, room: int = 99, wrong: int | None = None, status: int = 200) -> None:
        self._each_mib = each_mib
        self._room = room
        self._wrong = wrong
        self._status = status
        self.copies = 0
        self.asked: list[int] = []

    def used_bytes(self) -> int:
        return (100 + (200 + self._each_mib * self.copies if self.copies else 0)) * MIB

    def load(self, copy: int) -> int:
        assert copy == self.copies
        if self.copies == self._room:
            return 507
        self.copies += 1
        return self._status

    def ask(self, copy: int) -> list[float]:
        self.asked.append(copy)
        return [0.5, -1.0] if copy == self._wrong else [0.5, -2.01]


def filled(site: FakeSite, most: int = 99, tolerance: float = 0.01) -> Filled:
    """Fill a site with copies of 50 MiB of weights."""
    return fill(site, Filled("resnet50", 50 * MIB, site.total_bytes), ANSWER, tolerance, most)


def test_copies_come_until_one_more_of_the_average_would_pass_90_percent() -> None:
    """6 x 60 + 300 = 660 in use, 110 on average: 770; 8: 780 + 97 = 877; 9: 840 + 93 passes 900."""
    found = filled(FakeSite(60))
    assert (found.copies, found.used_bytes, found.stopped_by) == (9, 840 * MIB, "90%")


def test_our_own_507_ends_it_too() -> None:
    """Before 90 % where the books say so."""
    found = filled(FakeSite(10, room=3))
    assert (found.copies, found.stopped_by) == (3, "507")


def test_any_other_failure_is_the_end_of_the_measurement() -> None:
    """Nothing is printed of a server that failed."""
    with pytest.raises(SystemExit, match="copy 0 was answered 500"):
        filled(FakeSite(10, status=500))


def test_every_copy_is_asked_when_it_comes_and_again_when_all_are_there() -> None:
    """An answer that another copy spoiled is found."""
    site = FakeSite(10)
    found = filled(site, most=3)
    assert (site.asked, found.stopped_by) == ([0, 1, 2, 0, 1, 2], "--most 3")
    assert found.worst == pytest.approx(0.005)
    assert found.wrong == []
    assert filled(FakeSite(10, wrong=1), most=3).wrong == [1]


@pytest.mark.parametrize("answer", [[], [0.5], [0.5, float("nan")]])
def test_an_answer_that_is_none_is_wrong(answer: list[float]) -> None:
    """A refusal, another shape, no number."""
    found = Filled("resnet50", 1, 1)
    check(found, 7, answer, ANSWER, 0.01)
    assert found.wrong == [7]


def test_a_further_copy_is_told_apart_from_the_context() -> None:
    """used = 300 + 60 n: the seed's way of counting has the context in every copy."""
    found = filled(FakeSite(60))
    rest, further = found.line
    assert rest / MIB == pytest.approx(300)
    assert further / MIB == pytest.approx(60)
    assert found.over_weights == pytest.approx(840 / 9 / 50)
    assert found.per_gib == pytest.approx(9 / (1000 / 1024))


def test_the_report_puts_the_seeds_figures_beside_ours() -> None:
    """3.3 times the weights for ResNet-50, 46 copies in 16 GiB; what is wrong cannot be overlooked."""
    found = filled(FakeSite(60))
    line = " ".join(report([found]).splitlines()[1].split())
    assert line == "resnet50 50 MiB 9 90% 9.22 2.88 1.87 3.30 1.20 300 MiB 5.0e-03"
    found.wrong = [4]
    assert report([found]).endswith("WRONG: copies [4]")
    one = filled(FakeSite(10), most=1)
    assert "nan" in report([one])


def test_the_seeds_five_networks_are_those_that_are_built() -> None:
    """Under our names."""
    assert set(SEED) == set(NETWORKS)


def test_without_a_gpu_it_says_so_and_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the reason, and what can be done here."""
    monkeypatch.setattr(gpu, "find_devices", lambda _: NoDevices("no driver"))
    assert gpu.main([]) == 2
    assert "There is no cuda:0 here (no driver): nothing was measured. --device cpu" in capsys.readouterr().out


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_the_whole_path_runs_in_host_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """A tiny network is built, served, copied, asked and reported; all answers are the CPU's."""
    arguments = ["--device", "cpu", "--budget", "4GiB", "--networks", "bert_base", "--tiny", "--most", "3"]
    assert gpu.main([*arguments, "--tolerance", "1e-3"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("bert_base")
    assert " 3 --most 3 " in line
