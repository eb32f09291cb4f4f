"""System shared memory: registered, listed, read from and written to, and taken back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import shared_memory

from tests.oracle.clients import call, use
from tests.oracle.conftest import Same
from tests.oracle.servers import Target

KEY = "/wharf_oracle_test"
VECTOR = np.arange(16, dtype=np.float32).reshape(1, 16)
SIZE = 4 * VECTOR.nbytes


@pytest.fixture
def region(target: Target) -> Iterator[Any]:
    """A segment of this host: two inputs, then room for two outputs."""
    made = shared_memory.create_shared_memory_region("here", KEY, SIZE)
    shared_memory.set_shared_memory_region(made, [VECTOR, VECTOR * 2])
    yield made
    call(target, "http", "unregister_system_shared_memory")
    shared_memory.destroy_shared_memory_region(made)


def test_a_region_is_registered_listed_and_unregistered(target: Target, same: Same, flavour: str, region: Any) -> None:
    """Each step's answer."""
    seen = {"register": call(target, flavour, "register_system_shared_memory", "r", KEY, SIZE)}
    seen["again"] = call(target, flavour, "register_system_shared_memory", "r", KEY, SIZE)
    seen["status"] = call(target, flavour, "get_system_shared_memory_status")
    seen["status of it"] = call(target, flavour, "get_system_shared_memory_status", "r")
    seen["status of another"] = call(target, flavour, "get_system_shared_memory_status", "other")
    seen["unregister"] = call(target, flavour, "unregister_system_shared_memory", "r")
    seen["unregister again"] = call(target, flavour, "unregister_system_shared_memory", "r")
    seen["status after"] = call(target, flavour, "get_system_shared_memory_status")
    same(seen)


@pytest.mark.parametrize(
    ("key", "size", "offset"),
    [("/no_such_segment", 64, 0), (KEY, SIZE * 4096, 0), (KEY, 64, SIZE * 4096), ("../etc/passwd", 64, 0), (KEY, 0, 0)],
)
def test_regions_that_are_refused(
    target: Target, same: Same, flavour: str, region: Any, key: str, size: int, offset: int
) -> None:
    """No such segment, larger than it, behind its end, a path, nothing."""
    same(call(target, flavour, "register_system_shared_memory", "bad", key, size, offset=offset))


def test_inputs_and_outputs_in_a_region(target: Target, same: Same, flavour: str, region: Any) -> None:
    """The answer holds no data; the region does."""
    call(target, flavour, "register_system_shared_memory", "r", KEY, SIZE)
    answer = use(target, flavour, lambda client: _infer(client, flavour))
    found = [shared_memory.get_contents_as_numpy(region, np.float32, [1, 16], place) for place in (128, 192)]
    same({"response": answer, "found": [each.tolist() for each in found]})


@pytest.mark.parametrize("wrong", ["output too small", "input behind the end", "input too small", "unknown region"])
def test_places_that_are_refused(target: Target, same: Same, flavour: str, region: Any, wrong: str) -> None:
    """Status and text."""
    call(target, flavour, "register_system_shared_memory", "r", KEY, SIZE)
    inputs, outputs = _placed(flavour)
    if wrong == "output too small":
        outputs[0].set_shared_memory("r", 32, 128)
    elif wrong == "input behind the end":
        inputs[0].set_shared_memory("r", 64, SIZE)
    elif wrong == "input too small":
        inputs[0].set_shared_memory("r", 32, 0)
    else:
        inputs[0].set_shared_memory("other", 64, 0)
    same(use(target, flavour, lambda client: client.infer("add_sub", inputs, outputs=outputs)))


def _placed(flavour: str) -> tuple[list[Any], list[Any]]:
    of = tritonclient.http if flavour.startswith("http") else tritonclient.grpc
    inputs = [of.InferInput(name, [1, 16], "FP32") for name in ("INPUT0", "INPUT1")]
    outputs = [of.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
    for index, each in enumerate([*inputs, *outputs]):
        each.set_shared_memory("r", VECTOR.nbytes, index * VECTOR.nbytes)
    return inputs, outputs


def _infer(client: Any, flavour: str) -> Any:
    inputs, outputs = _placed(flavour)
    return client.infer("add_sub", inputs, outputs=outputs)
