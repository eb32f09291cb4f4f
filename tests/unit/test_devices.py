"""GPUs as NVML has them: those that CUDA shows, their readings, and none without an error."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from pathlib import Path

import pytest

from serving.devices import NOWHERE, DeviceMeter, Nvml, Placement, find_devices, say_devices
from tests.gpu.nvml import pynvml as fake

MIB = 1 << 20


def meter(folder: Path, visible: str | None = None, count: int = 3, **more: object) -> Nvml:
    """Cards of 100 MiB, of which the driver keeps 10."""
    fake.make_cards(folder / "cards", [100 * MIB] * count, 10 * MIB, **more)
    return Nvml(fake.Library(folder / "cards"), {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})


@pytest.mark.parametrize(
    ("visible", "numbers"),
    [
        (None, [0, 1, 2]),
        ("0,1,2", [0, 1, 2]),
        ("2, 0", [2, 0]),
        ("GPU-1000-fake", [1]),
        ("GPU-2,GPU-0", [2, 0]),
        ("1,7,0", [1]),
        ("0,-1,2", [0]),
        ("GPU-9,0", []),
        ("", []),
        ("NoDevFiles", []),
        ("MIG-1,0", []),
    ],
)
def test_devices_are_those_that_cuda_shows_in_its_order(
    tmp_path: Path, visible: str | None, numbers: list[int]
) -> None:
    """The first word that leads nowhere hides itself and all after it, as in CUDA."""
    found = meter(tmp_path, visible).devices()
    assert [each.index for each in found] == list(range(len(numbers)))
    assert [each.uuid for each in found] == [f"GPU-{number}000-fake" for number in numbers]


def test_none_that_are_visible_is_said(tmp_path: Path) -> None:
    """With how many there are."""
    assert meter(tmp_path, "").why_none == "CUDA_VISIBLE_DEVICES shows none of 3"


def test_a_slice_of_a_gpu_is_found_by_its_uuid(tmp_path: Path) -> None:
    """MIG: no whole card has that name."""
    found = meter(tmp_path, "MIG-7", 1, uuid="MIG-7").devices()
    assert [each.uuid for each in found] == ["MIG-7"]


def test_a_device_says_what_it_has_and_what_it_does(tmp_path: Path) -> None:
    """Watts and joules of thousandths; what its driver does not tell is not made up."""
    (device,) = meter(tmp_path, None, 1, energy=5000).devices()
    assert (device.name, device.capacity_bytes, device.used_bytes) == ("Fake T4", 100 * MIB, 10 * MIB)
    assert (device.utilization, device.power_watts, device.energy_joules) == (0.25, 30.0, 5.0)
    assert device.power_limit_watts is None


def test_use_is_that_of_all_or_of_some_processes(tmp_path: Path) -> None:
    """None where the driver knows none of them: in a container it counts outside."""
    meter_ = meter(tmp_path)
    one, other = os.getpid(), os.getppid()
    held = [fake.take(tmp_path / "cards", 1, count * MIB, pid) for pid, count in ((one, 5), (one, 2), (other, 3))]
    assert meter_.used_bytes(1) == 20 * MIB
    assert (meter_.used_bytes(1, {one}), meter_.used_bytes(1, {one, other})) == (7 * MIB, 10 * MIB)
    assert (meter_.used_bytes(1, {0}), meter_.used_bytes(0, {one})) == (None, None)
    held[0].unlink()
    assert meter_.used_bytes(1, {one}) == 2 * MIB


def test_a_card_has_no_more_than_it_has(tmp_path: Path) -> None:
    """The meter of the tests is one."""
    meter(tmp_path)
    with pytest.raises(fake.OutOfMemoryError, match="card 0 has 94371840 bytes free of 104857600"):
        fake.take(tmp_path / "cards", 0, 91 * MIB)


def test_a_device_that_fell_off_the_bus_is_left_out(tmp_path: Path) -> None:
    """The others keep their numbers."""
    meter_ = meter(tmp_path)
    (tmp_path / "cards" / "1" / "card.json").unlink()
    assert [each.index for each in meter_.devices()] == [0, 2]
    assert (meter_.used_bytes(1), meter_.used_bytes(2)) == (None, 10 * MIB)


def found(folder: Path, monkeypatch: pytest.MonkeyPatch, *, is_installed: bool = True) -> DeviceMeter:
    """What is found with a fake module in the place of the real one, or with none."""
    monkeypatch.setenv("FAKE_NVML", str(folder / "cards"))
    monkeypatch.setitem(sys.modules, "pynvml", fake if is_installed else None)
    return find_devices({})


def test_the_machines_devices_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the module's own functions."""
    fake.make_cards(tmp_path / "cards", [MIB, MIB])
    found_ = found(tmp_path, monkeypatch)
    assert ([each.index for each in found_.devices()], found_.why_none) == ([0, 1], "")


@pytest.mark.parametrize(
    ("is_installed", "why"),
    [(False, "the package nvidia-ml-py is not installed"), (True, "NVML says: Driver Not Loaded")],
)
def test_without_nvml_there_are_no_devices_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_installed: bool, why: str
) -> None:
    """Package or driver: it says which."""
    found_ = found(tmp_path, monkeypatch, is_installed=is_installed)
    assert (found_.devices(), found_.used_bytes(0), found_.why_none) == ((), None, why)


@pytest.mark.parametrize(("is_wanted", "level"), [(True, logging.WARNING), (False, logging.DEBUG)])
def test_no_devices_is_a_warning_for_who_wants_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_wanted: bool, level: int
) -> None:
    """Else it is nobody's trouble."""
    caplog.set_level(logging.DEBUG)
    say_devices(found(tmp_path, monkeypatch), {}, is_wanted=is_wanted)
    assert [(each.levelno, each.message.partition(" ")[0]) for each in caplog.records] == [(level, "event=no_devices")]


def test_what_there_is_is_logged_and_numbers_that_are_not_sure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Cards of two kinds: CUDA puts the fastest first, NVML the first on the bus."""
    caplog.set_level(logging.INFO)
    cards = meter(tmp_path, None, 2)
    say_devices(cards, {}, is_wanted=True)
    assert "event=device index=1 name='Fake T4' uuid=GPU-1000-fake capacity=104857600 used=10485760" in caplog.text
    assert "device_order" not in caplog.text
    text = (tmp_path / "cards" / "1" / "card.json").read_text()
    (tmp_path / "cards" / "1" / "card.json").write_text(text.replace("T4", "A10G"))
    say_devices(cards, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, is_wanted=True)
    assert "device_order" not in caplog.text
    say_devices(cards, {}, is_wanted=True)
    assert "event=device_order_unknown" in caplog.text


def test_a_placement_is_one_device_or_several_or_none() -> None:
    """`device` is for those who know of one."""
    assert (Placement((1, 2)).device, NOWHERE.device) == (1, None)


def test_the_fake_has_the_functions_of_the_real_module() -> None:
    """By name and by number of arguments that must be given."""
    real = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    for name in (name for name in dir(fake.Library) if name.startswith("nvml")):
        given = list(inspect.signature(getattr(fake.Library, name)).parameters)[1:]
        inspect.signature(getattr(real, name)).bind(*given)
    assert {name: getattr(real, name) for name in dir(fake) if name.startswith("NVML_ERROR")} == {
        name: getattr(fake, name) for name in dir(fake) if name.startswith("NVML_ERROR")
    }
    assert issubclass(real.NVMLError, Exception)
