"""Whatever a config.pbtxt says beside a real file: it is served, warned about or refused by name, never a traceback."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.backends.onnx import OnnxBackend
from serving.backends.reshaped import ReshapedBackend
from serving.backends.warmed import WarmedBackend
from serving.errors import InvalidArtifactError, LoadFailedError
from serving.repository import triton_schema
from serving.repository.layouts import describe
from tests.unit.backends.test_onnx import adder

pytest.importorskip("tritonclient")
pytest.importorskip("onnx")

EXAMPLES = 400
BACKEND = WarmedBackend(ReshapedBackend(OnnxBackend("cpu", 1)))

# What makes a configuration nearly right is likelier than what does not; nesting ends where Triton's own schema does.
TEXTS = st.sampled_from(["a", "b", "y", "", "onnxruntime", "python", "labels.txt", "../x", "1", "true", "\0", "\u00e9"])
NUMBERS = st.sampled_from([0, 1, 1, 2, 3, 3, 8, 255, (1 << 31) - 1])
FREE = st.sampled_from([-1, -1, -2, 0, 1, 3, 3, 1 << 40, (1 << 63) - 1])
# Fields that are refused as soon as they are there: seldom, or nothing else would be seen.
SELDOM = {"ensemble_scheduling", "sequence_batching", "batch_input", "batch_output", "model_operations"}
SELDOM |= {"model_repository_agents", "runtime", "platform", "backend", "default_model_filename", "is_shape_tensor"}
SELDOM |= {"is_non_linear_format_io"}
# What a message may speak of besides what is set: a field that is wrong by not being there, or the file's own input.
ABSENT = {"max_batch_size", "inputs", "dims", "data_type", "name", "configuration", "version_policy"}
IDLE = ("optimization", "metric_tags", "cc_model_filenames", "model_metrics")


def _fill(draw: Any, message: Any, depth: int) -> None:
    for field in message.DESCRIPTOR.fields:
        if draw(st.integers(0, 60 if field.name in SELDOM else 2)):
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(draw, field, value, depth)
        elif not triton_schema._is_repeated(field):
            _fill_one(draw, field, message, depth)
        else:
            for _ in range(draw(st.integers(1, 2))):
                _fill(draw, value.add(), depth + 1) if field.message_type else value.append(_scalar(draw, field))


def _fill_one(draw: Any, field: Any, message: Any, depth: int) -> None:
    if field.message_type is None:
        setattr(message, field.name, _scalar(draw, field))
        return
    getattr(message, field.name).SetInParent()
    if depth < 4:
        _fill(draw, getattr(message, field.name), depth + 1)


def _fill_map(draw: Any, field: Any, value: Any, depth: int) -> None:
    key, member = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
    name = _scalar(draw, key)
    if member.message_type is None:
        value[name] = _scalar(draw, member)
    elif depth < 4:
        _fill(draw, value[name], depth + 1)


def _scalar(draw: Any, field: Any) -> Any:
    if field.enum_type is not None:
        known = [each.number for each in field.enum_type.values]
        return draw(st.sampled_from([*known, 11, 11]) if 11 in known else st.sampled_from(known))
    kind = {9: TEXTS, 8: st.booleans(), 3: FREE, 1: st.just(0.5), 2: st.just(0.5)}.get(field.type, NUMBERS)
    return draw(kind)


@st.composite
def configurations(draw: Any) -> str:
    """Return the text of a configuration of any fields, its inputs often those of the file."""
    schema, text_format = triton_schema.load_schema()
    message = schema.ModelConfig()
    _fill(draw, message, 0)
    if draw(st.booleans()):
        message.max_batch_size = draw(st.sampled_from([0, 1, 4]))
        del message.input[:]
        del message.output[:]
        for name in draw(st.sampled_from(["ab", "a", "b", ""])):
            message.input.add(name=name, data_type=11, dims=[3], optional=draw(st.booleans()))
    return str(text_format.MessageToString(message))


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)  # fmt: skip
@given(configurations())
def test_any_configuration_is_served_warned_about_or_refused_by_name(text: str) -> None:
    """A refusal names what of the text it is about."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adder(folder)
        (folder / "labels.txt").write_text("cat\n")
        (folder / "config.pbtxt").write_text(text)
        try:
            spec = describe("m", folder, within=folder)
            if spec.format == "onnx":
                BACKEND.load(spec).close()
        except (InvalidArtifactError, LoadFailedError) as error:
            assert {*re.findall(r"\w+", error.message)} & {*re.findall(r"(\w+)[:\s{]", text), *ABSENT}, (text, error)
            return
    assert spec.scheduling is not None
    assert spec.triton is not None
    assert all((name in spec.triton and bool(spec.triton[name])) <= (name in str(spec.warnings)) for name in IDLE)
