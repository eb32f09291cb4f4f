"""How many ranks, how many groups, on which GPUs; and where they meet."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from serving.errors import LoadFailedError
from serving.workers import rendezvous
from serving.workers.device_slices import Slices, chosen_devices, visible_devices
from serving.workers.group_sizes import group_sizes
from serving.workers.rendezvous import Rendezvous


@pytest.mark.parametrize(
    ("degree", "least", "most", "wanted"),
    [(2, None, None, (2, 1, 1)), ("max", None, None, (1, 1, 1)), (4, 2, None, (4, 2, 2)), (2, None, 3, (2, 1, 3))],
)
def test_on_the_cpu_a_group_is_so_many_processes(
    degree: int, least: int | None, most: int | None, wanted: tuple[int, int, int]
) -> None:
    """One group unless more are asked for."""
    sizes = group_sizes("m", degree, least, most, None)
    assert ((sizes.ranks, sizes.least, sizes.most), sizes.slices) == (wanted, None)


@pytest.mark.parametrize(
    ("degree", "least", "most", "wanted"),
    [
        (2, None, None, (2, 4, 4)),
        ("max", None, None, (8, 1, 1)),
        (3, None, None, (3, 2, 2)),
        (2, 1, None, (2, 1, 4)),
        (2, None, 2, (2, 2, 2)),
        (1, None, None, (1, 8, 8)),
    ],
)
def test_on_gpus_there_are_as_many_groups_as_fit(
    degree: int, least: int | None, most: int | None, wanted: tuple[int, int, int]
) -> None:
    """All started, unless fewer are asked for."""
    sizes = group_sizes("m", degree, least, most, {each: str(each) for each in range(8)})
    assert (sizes.ranks, sizes.least, sizes.most) == wanted
    assert sizes.slices is not None
    assert sizes.slices.count == sizes.most
    assert sizes.devices == tuple(range(sizes.ranks * sizes.most))


@pytest.mark.parametrize(
    ("degree", "least", "devices", "words"),
    [
        (4, None, ["2", "3"], r"wants 4 GPUs \(1 groups of tensor_parallel_degree=4\) and there are 2 \(.*=2,3\)"),
        (2, 2, ["0", "1"], "wants 4 GPUs"),
        ("max", None, [], "there are none: lower the degree or minWorkers"),
    ],
)
def test_devices_that_do_not_suffice_are_an_error(
    degree: int, least: int | None, devices: list[str], words: str
) -> None:
    """That says what there is."""
    with pytest.raises(LoadFailedError, match=words):
        group_sizes("m", degree, least, None, dict(enumerate(devices)))


@pytest.mark.parametrize(
    ("told", "wanted"),
    [("0,1", "01"), ("3, 2", "32"), ("", ""), ("-1", ""), ("0,-1,1", "0"), ("NoDevFiles", ""), (None, "0129")],
)
def test_devices_are_the_visible_ones(tmp_path: Path, told: str | None, wanted: str) -> None:
    """In the order of CUDA_VISIBLE_DEVICES, else those that the driver shows."""
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidia9", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_devices({} if told is None else {"CUDA_VISIBLE_DEVICES": told}, tmp_path) == tuple(wanted)


def test_the_gpus_of_a_model_are_those_that_it_chose() -> None:
    """In its order; all without a choice; one that is not there is named."""
    visible = ("4", "GPU-b", "6")
    assert chosen_devices("m", visible, (2, 1)) == {2: "6", 1: "GPU-b"}
    assert chosen_devices("m", visible, ()) == {0: "4", 1: "GPU-b", 2: "6"}
    with pytest.raises(LoadFailedError, match="'m' is to use GPU 3 and CUDA_VISIBLE_DEVICES shows 3, from 0"):
        chosen_devices("m", visible, (0, 3))


def test_groups_are_cut_from_the_chosen_gpus() -> None:
    """In their order."""
    sizes = group_sizes("m", 2, None, 1, {3: "c", 1: "a", 2: "b"})
    assert (sizes.most, sizes.devices) == (1, (3, 1))
    assert sizes.slices is not None
    assert sizes.slices.take() == ("c", "a")


def test_a_slice_is_one_groups_until_it_is_given_back() -> None:
    """What is left over belongs to nobody."""
    slices = Slices(["a", "b", "c", "d", "e"], 2)
    first, second = slices.take(), slices.take()
    assert (slices.count, first, second) == (2, ("a", "b"), ("c", "d"))
    slices.give_back(first)
    assert slices.take() == first


def test_ranks_see_the_gpus_of_their_group() -> None:
    """All of its ranks the same, and LOCAL_RANK tells which is whose."""
    place = Rendezvous(2, ("4", "5"))
    environ = [place.environ(rank) for rank in range(2)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environ] == ["4,5", "4,5"]
    assert [each["LOCAL_RANK"] for each in environ] == ["0", "1"]
    place.close(())


def test_two_groups_never_meet_at_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor at one that somebody listens at; when none is left, that is said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        monkeypatch.setattr(rendezvous, "_PORTS", range(taken, taken + 1))
        with pytest.raises(LoadFailedError, match="No port from"):
            Rendezvous(1)
    only = Rendezvous(1)
    with pytest.raises(LoadFailedError, match="for a group of ranks"):
        Rendezvous(1)
    only.close(())
    Rendezvous(1).close(())
