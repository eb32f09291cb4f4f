"""How many threads a run uses, and which."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from serving.backends.threads import TINY_BYTES, TorchThreads, threads_for
from serving.repository.layouts import ModelSpec

MIB = 1 << 20


def spec(size: int, threads: int | None = None) -> ModelSpec:
    """Describe a model of a size."""
    return ModelSpec("m", "onnx", Path("model.onnx"), size, threads=threads)


@pytest.mark.parametrize(
    ("size", "configured", "cores", "expected"),
    [
        (MIB, None, 4, 1),
        (64 * MIB, None, 4, 4),
        (64 * MIB, None, 32, 8),
        (1, 3, 4, 3),
        (1, 16, 4, 4),
        (64 * MIB, 1, 4, 1),
    ],
)
def test_threads_follow_size_configuration_and_cores(
    size: int, configured: int | None, cores: int, expected: int
) -> None:
    """Small models get one, large ones up to eight, nobody more than there are cores."""
    assert threads_for(spec(size, configured), cores) == expected


def test_threads_beyond_the_cores_are_capped_aloud(caplog: pytest.LogCaptureFixture) -> None:
    """A setting that cannot be kept is not ignored silently."""
    caplog.set_level(logging.WARNING)
    threads_for(spec(1, 16), 4)
    assert "event=threads_capped model=m wanted=16 cores=4" in caplog.text


@pytest.mark.torch
@pytest.mark.parametrize(("threads", "size"), [(1, 1), (1, 2 * MIB), (2, 1), (3, 64 * MIB)])
def test_a_run_sees_exactly_its_threads(threads: int, size: int) -> None:
    """Whatever count was set on that thread or elsewhere before."""
    import torch

    pool = TorchThreads(4)
    for before in (4, 1, 2):
        torch.set_num_threads(before)
        assert pool.run(threads, size, torch.get_num_threads) == threads


@pytest.mark.torch
def test_a_load_sees_one_thread() -> None:
    """Loads leave the cores to the runs."""
    import torch

    torch.set_num_threads(4)
    assert TorchThreads(4).load(torch.get_num_threads) == 1


@pytest.mark.torch
def test_only_tiny_models_run_on_the_thread_of_the_request() -> None:
    """A larger one would leave scratch memory on every request thread."""
    pool, here = TorchThreads(2), threading.get_ident()
    assert pool.run(1, TINY_BYTES - 1, threading.get_ident) == here
    assert pool.run(1, TINY_BYTES, threading.get_ident) != here
    assert pool.run(2, 1, threading.get_ident) != here


@pytest.mark.torch
@pytest.mark.parametrize(("threads", "most"), [(1, 4), (2, 2), (3, 1), (4, 1)])
def test_many_callers_share_a_few_compute_threads(threads: int, most: int) -> None:
    """32 request threads on 4 cores are served by as many compute threads as fit the cores."""
    pool, seen = TorchThreads(4), set()
    callers = [
        threading.Thread(target=lambda: seen.add(pool.run(threads, 64 * MIB, threading.get_ident))) for _ in range(32)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert 1 <= len(seen) <= most


@pytest.mark.torch
def test_a_run_does_not_wait_for_a_load() -> None:
    """Loads have threads of their own."""
    pool, loading, go_on = TorchThreads(1), threading.Event(), threading.Event()

    def load() -> bool:
        loading.set()
        return go_on.wait(10)

    loader = threading.Thread(target=pool.load, args=(load,))
    loader.start()
    assert loading.wait(10)
    assert pool.run(1, 64 * MIB, lambda: "answered") == "answered"
    go_on.set()
    loader.join()


@pytest.mark.torch
def test_an_error_reaches_the_caller() -> None:
    """As it was raised, from another thread too."""
    with pytest.raises(ZeroDivisionError):
        TorchThreads(2).run(2, 64 * MIB, lambda: 1 // 0)
