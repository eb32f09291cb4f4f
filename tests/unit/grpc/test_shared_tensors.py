"""Tensors that gRPC clients leave in shared memory: read from it, written to it, and what does not go together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.codecs.v2 import Wanted
from serving.errors import BadRequestError, ServingError, UnsupportedError
from serving.grpc import messages
from serving.inference import Answer
from serving.shared_memory import Regions

pb = pytest.importorskip("tritonclient.grpc.service_pb2")

FLOATS = np.array([1, 2], np.float32)
REGION, OFFSET, SIZE = "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"
PLACE = {REGION: "r", SIZE: 8}
CHOICES = {str: "string_param", int: "int64_param"}


@pytest.fixture
def regions(tmp_path: Path) -> Regions:
    """A region `r` of two floats and room for two more."""
    (tmp_path / "key").write_bytes(FLOATS.tobytes() + bytes(8))
    made = Regions(is_on=True, folder=tmp_path)
    made.register("r", "key", 0, 16)
    return made


def put(tensor: Any, parameters: dict[str, Any]) -> None:
    """Give a tensor of a message parameters."""
    for name, value in parameters.items():
        setattr(tensor.parameters[name], CHOICES[type(value)], value)


def request(x: dict[str, Any], y: dict[str, Any] | None = None) -> Any:
    """A request of one input at a place, and of one output at another."""
    made = pb.ModelInferRequest(model_name="m")
    put(made.inputs.add(name="x", datatype="FP32", shape=[2]), x)
    if y is not None:
        put(made.outputs.add(name="y"), y)
    return made


def test_an_input_is_read_where_it_lies(regions: Regions) -> None:
    """And an output's place is remembered."""
    question, _ = messages.read(request(PLACE, PLACE | {OFFSET: 8}), regions)
    assert question.array("x", "m").tolist() == [1, 2]
    assert question.outputs == [Wanted("y", is_binary=True, region="r", offset=8, size=8)]


def test_raw_contents_are_those_of_the_other_inputs(regions: Regions) -> None:
    """In their order."""
    made = request(PLACE)
    made.inputs.add(name="z", datatype="FP32", shape=[1])
    made.raw_input_contents.append(np.array([7], np.float32).tobytes())
    question, length = messages.read(made, regions)
    assert {name: question.array(name, "m").tolist() for name in question.inputs} == {"x": [1, 2], "z": [7]}
    assert length == 4
    made.raw_input_contents.append(b"more")
    with pytest.raises(BadRequestError, match="expected 1 raw_input_contents for model 'm', got 2"):
        messages.read(made, regions)


def test_an_output_is_written_where_it_was_asked_for(regions: Regions) -> None:
    """The message has its description and no bytes."""
    question, _ = messages.read(request(PLACE, PLACE | {OFFSET: 8}), regions)
    written = messages.write(Answer("m", "1", "", {"y": FLOATS * 2, "z": FLOATS}), question, regions)
    assert [(each.name, list(each.shape)) for each in written.outputs] == [("y", [2]), ("z", [2])]
    assert list(written.raw_output_contents) == [b"", FLOATS.tobytes()]
    assert np.frombuffer(regions.read("r", 8, 8), np.float32).tolist() == [2, 4]


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {REGION: 7, SIZE: 8},
        {},
        "invalid value type for 'shared_memory_region' parameter for tensor 'x', expected string",
    ),
    (PLACE | {SIZE: "8"}, {}, "'shared_memory_byte_size' parameter for tensor 'x', expected int64_param."),
    (PLACE | {OFFSET: "8"}, {}, "'shared_memory_offset' parameter for tensor 'x', expected int64_param."),
    ({REGION: "r"}, {}, "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter"),
    ({SIZE: 8}, {}, "'shared_memory_byte_size' can not be specified without 'shared_memory_region' parameter"),
    (PLACE, {OFFSET: 8}, "'shared_memory_offset' can not be specified without 'shared_memory_region' parameter"),
    (PLACE | {REGION: ""}, {}, "Unable to find shared memory region: ''"),
    (PLACE | {OFFSET: -1}, {}, "Invalid offset for shared memory region: 'r'"),
    (PLACE | {SIZE: -1}, {}, "Invalid offset + byte size for shared memory region: 'r'"),
    (PLACE, PLACE | {REGION: "other"}, "Unable to find shared memory region: 'other'"),
    (PLACE, PLACE | {OFFSET: 16}, "Invalid offset for shared memory region: 'r'"),
    (PLACE, PLACE | {"classification": 1}, "output can't set both 'shared_memory_region' and 'classification'"),
]


@pytest.mark.parametrize(("x", "y", "text"), WRONG)
def test_places_that_are_none_are_refused(regions: Regions, x: dict[str, Any], y: dict[str, Any], text: str) -> None:
    """Before the model runs, in Triton's words."""
    with pytest.raises(ServingError, match=re.escape(text)):
        messages.read(request(x, y), regions)


def test_contents_and_a_place_at_once_are_refused(regions: Regions) -> None:
    """Which of them counts is not ours to say."""
    made = request(PLACE)
    made.inputs[0].contents.fp32_contents.extend([1, 2])
    text = "unexpected 'content' provided when using shared memory for input tensor 'x' for model 'm'"
    with pytest.raises(BadRequestError, match=text):
        messages.read(made, regions)


def test_off_is_off() -> None:
    """With the setting's name."""
    with pytest.raises(UnsupportedError, match="WHARF_SHARED_MEMORY=true"):
        messages.read(request(PLACE), Regions(is_on=False))
