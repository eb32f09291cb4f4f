"""CUDA's driver as far as it can be looked at without a GPU: what it calls is there, and who has none is told."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from serving.backends import torch_cuda
from serving.backends.torch_cuda import CudaDriver, open_cuda
from serving.backends.torch_device import Driver
from serving.errors import LoadFailedError

pytestmark = pytest.mark.torch


def test_every_name_of_torch_that_it_uses_is_there() -> None:
    """In the very torch that is pinned; a renamed function would else be found on somebody's GPU."""
    import torch

    tree = ast.parse(Path(torch_cuda.__file__).read_text())
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used = sorted(name for name in names if name.startswith("torch."))
    assert "torch.cuda.empty_cache" in used
    for name in used:
        found = torch
        for part in name.split(".")[1:]:
            found = getattr(found, part)


def test_streams_and_events_take_what_they_are_given() -> None:
    """Arguments by name, and methods that exist without a GPU as well."""
    import torch

    assert "blocking" in inspect.signature(torch.cuda.Event.__new__).parameters
    assert "device" in inspect.signature(torch.cuda.Stream.__new__).parameters
    for method in ("wait_event", "record_event", "synchronize"):
        assert callable(getattr(torch.cuda.Stream, method))
    assert callable(torch.cuda.Event.synchronize)


def test_it_has_all_that_a_device_asks_of_a_driver() -> None:
    """The protocol's methods, with its arguments."""
    for name, wanted in inspect.getmembers(Driver, inspect.isfunction):
        if not name.startswith("_"):
            found = inspect.signature(getattr(CudaDriver, name))
            assert list(found.parameters) == list(inspect.signature(wanted).parameters), name


@pytest.mark.parametrize("index", [0, 7])
def test_where_there_is_no_such_device_the_error_says_what_to_do(index: int) -> None:
    """No GPU here, or not so many."""
    import torch

    if torch.cuda.device_count() > index:
        pytest.skip("that GPU is here")
    with pytest.raises(LoadFailedError, match=r"set WHARF_DEVICE=cpu|numbered from 0"):
        open_cuda(index)
