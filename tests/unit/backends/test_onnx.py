"""The ONNX backend."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends.onnx import OnnxBackend, is_bf16_right
from serving.errors import (
    BadRequestError,
    InsufficientMemoryError,
    InvalidArtifactError,
    LoadFailedError,
    ModelFailedError,
    UnavailableError,
)
from serving.repository.layouts import ModelSpec
from serving.tensors import TensorSpec

onnx = pytest.importorskip("onnx")

ONES = np.ones((2, 3), np.float32)
FLOAT, INT64, STRING = 1, 7, 8


def graph(folder: Path, nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], **settings: Any) -> Path:
    """Save a graph; inputs and outputs are (type, dims)."""
    make = onnx.helper
    told = [[make.make_tensor_value_info(name, *kind) for name, kind in side.items()] for side in (inputs, outputs)]
    model = make.make_model(
        make.make_graph(nodes, "g", *told, **settings), opset_imports=[make.make_opsetid("", 17)], ir_version=8
    )
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """Make a node."""
    return onnx.helper.make_node(operator, inputs.split(), outputs.split(), **attributes)


def load(file: Path, cores: int = 2, **settings: Any) -> Any:
    """Make a file ready on the CPU."""
    return OnnxBackend("cpu", cores).load(ModelSpec("m", "onnx", file, file.stat().st_size, **settings))


def adder(folder: Path) -> Path:
    """Save y = a + b with a free batch."""
    shape = (FLOAT, ["batch", 3])
    return graph(folder, [node("Add", "a b", "y")], {"a": shape, "b": shape}, {"y": (FLOAT, [None, 3])})


def text(folder: Path) -> Path:
    """Save the identity of strings."""
    return graph(folder, [node("Identity", "x", "y")], {"x": (STRING, [None])}, {"y": (STRING, [None])})


def filler(folder: Path) -> Path:
    """Save a model that allocates as many floats as it is told."""
    return graph(folder, [node("ConstantOfShape", "n", "y")], {"n": (INT64, [1])}, {"y": (FLOAT, [None])})


def test_the_session_tells_the_signature(tmp_path: Path) -> None:
    """Named and unnamed symbolic dims are free."""
    signature = load(adder(tmp_path)).signature
    assert signature.inputs == (TensorSpec("a", "FP32", (-1, 3)), TensorSpec("b", "FP32", (-1, 3)))
    assert signature.outputs == (TensorSpec("y", "FP32", (-1, 3)),)


@pytest.mark.parametrize("cores", [1, 2])
def test_outputs_come_by_name(tmp_path: Path, cores: int) -> None:
    """With one thread and with more."""
    model = load(adder(tmp_path), cores, threads=cores)
    assert model.threads == cores
    np.testing.assert_array_equal(model.run({"a": ONES, "b": 2 * ONES})["y"], 3 * ONES)


def test_read_only_and_strided_arrays_are_taken(tmp_path: Path) -> None:
    """Request bodies are read-only; slices have gaps."""
    body = np.frombuffer(ONES.tobytes(), np.float32).reshape(2, 3)
    answer = load(adder(tmp_path)).run({"a": body, "b": np.ones((4, 3), np.float32)[::-2]})
    np.testing.assert_array_equal(answer["y"], 2 * ONES)


def test_numbers_at_odd_addresses_are_taken(tmp_path: Path) -> None:
    """A binary tensor begins where the JSON before it ends."""
    odd = np.frombuffer(b"{}}" + ONES.tobytes(), np.float32, ONES.size, 3).reshape(ONES.shape)
    assert not odd.flags.aligned
    assert load(adder(tmp_path)).run({"a": odd, "b": ONES})["y"].tolist() == (ONES + ONES).tolist()


def test_a_configuration_may_narrow_and_not_contradict(tmp_path: Path) -> None:
    """dims = [4, 3] of [-1, 3] is fine; another type, other dims, another name are not."""
    file = adder(tmp_path)
    assert load(file, inputs=(TensorSpec("a", dims=(4, 3)),)).signature.inputs[0].dims == (4, 3)
    for wrong in (TensorSpec("a", "FP32", (-1, 5)), TensorSpec("a", "INT64", (-1, 3)), TensorSpec("a", "FP32", (3,))):
        with pytest.raises(InvalidArtifactError, match=r"'a' of FP32 \[-1, 3\] and is configured with"):
            load(file, inputs=(wrong,))
    with pytest.raises(InvalidArtifactError, match="the output 'z' and has"):
        load(file, outputs=(TensorSpec("z"),))


@pytest.mark.parametrize("given", ["é", "é".encode()])
def test_text_goes_in_as_str_or_utf8(tmp_path: Path, given: str | bytes) -> None:
    """Bytes are decoded, and come back as text."""
    assert load(text(tmp_path)).run({"x": np.array([given], dtype=object)})["y"].tolist() == ["é"]


def test_text_that_is_not_utf8_is_a_bad_request(tmp_path: Path) -> None:
    """The message names the input."""
    with pytest.raises(BadRequestError, match="Input 'x' is not UTF-8"):
        load(text(tmp_path)).run({"x": np.array([b"\xff"], dtype=object)})


def test_an_output_that_is_no_tensor_is_refused_with_advice(tmp_path: Path) -> None:
    """What skl2onnx writes by default: a list of dicts."""
    make = onnx.helper
    zipmap = make.make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    kind = make.make_sequence_type_proto(make.make_map_type_proto(INT64, make.make_tensor_type_proto(FLOAT, [])))
    inputs = [make.make_tensor_value_info("p", FLOAT, [None, 2])]
    model = make.make_model(
        make.make_graph([zipmap], "g", inputs, [make.make_value_info("y", kind)]),
        opset_imports=[make.make_opsetid("", 17), make.make_opsetid("ai.onnx.ml", 3)],
        ir_version=8,
    )
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InvalidArtifactError, match="zipmap=False"):
        load(tmp_path / "model.onnx")


def test_a_wrong_type_is_a_failed_model_with_one_line(tmp_path: Path) -> None:
    """The runtime's own words, first line only."""
    with pytest.raises(ModelFailedError, match=r"on this input: .*Unexpected input data type") as caught:
        load(adder(tmp_path)).run({"a": ONES.astype(np.float64), "b": ONES})
    assert "\n" not in str(caught.value)


def test_an_allocation_that_fails_is_insufficient_memory(tmp_path: Path) -> None:
    """std::bad_alloc becomes 507."""
    with pytest.raises(InsufficientMemoryError, match="Model 'm' found no memory for this request"):
        load(filler(tmp_path)).run({"n": np.array([1 << 45])})


def test_an_impossible_size_is_a_failed_model(tmp_path: Path) -> None:
    """A negative size is the input's fault, not memory's."""
    with pytest.raises(ModelFailedError):
        load(filler(tmp_path)).run({"n": np.array([-5])})


def test_a_failing_node_called_oom_is_a_failed_model(tmp_path: Path) -> None:
    """Words in a model's names never become 507."""
    nodes = [node("Reshape", "x s", "y", name="OOM std::bad_alloc")]
    file = graph(tmp_path, nodes, {"x": (FLOAT, [None]), "s": (INT64, [None])}, {"y": (FLOAT, None)})
    with pytest.raises(ModelFailedError, match="OOM"):
        load(file).run({"x": np.ones(3, np.float32), "s": np.array([7])})


def test_failures_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The error is in the reply and in our log; the runtime's own log would be three lines in colour."""
    model = load(filler(tmp_path))
    for size in (1 << 45, 1 << 62, -5):
        with pytest.raises((ModelFailedError, InsufficientMemoryError)):
            model.run({"n": np.array([size])})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04"])
def test_a_file_that_is_no_model_is_an_invalid_artifact(tmp_path: Path, content: bytes) -> None:
    """Garbage, nothing, and an archive."""
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(InvalidArtifactError, match=r"model.onnx is no ONNX model"):
        load(tmp_path / "model.onnx")


def test_an_unknown_operator_is_an_invalid_artifact(tmp_path: Path) -> None:
    """Custom libraries are never loaded, so the graph cannot run here."""
    file = graph(tmp_path, [node("Imaginary", "x", "y")], {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])})
    with pytest.raises(InvalidArtifactError, match="Imaginary"):
        load(file)


def test_a_file_that_is_gone_does_not_load(tmp_path: Path) -> None:
    """The artifact may vanish between its description and its load."""
    with pytest.raises(LoadFailedError, match=r"model.onnx could not be loaded"):
        OnnxBackend("cpu", 1).load(ModelSpec("m", "onnx", tmp_path / "model.onnx", 1))


def test_cuda_without_the_provider_says_what_to_do(tmp_path: Path) -> None:
    """The backend's device and the model's own are both checked."""
    file = adder(tmp_path)
    with pytest.raises(LoadFailedError, match="install onnxruntime-gpu"):
        OnnxBackend("cuda", 1).load(ModelSpec("m", "onnx", file, 1))
    with pytest.raises(LoadFailedError, match="install onnxruntime-gpu"):
        load(file, device="cuda:1")


@pytest.mark.parametrize("optimize", [True, False])
def test_optimize_false_answers_the_same(tmp_path: Path, optimize: bool) -> None:
    """The setting changes the graph, not the answer."""
    answer = load(adder(tmp_path), optimize=optimize).run({"a": ONES, "b": ONES})["y"]
    np.testing.assert_array_equal(answer, 2 * ONES)


def test_a_closed_model_lets_go_of_its_session_and_refuses_to_run(tmp_path: Path) -> None:
    """Nothing keeps the session alive."""
    model = load(adder(tmp_path))
    session = weakref.ref(model._session)
    model.close()
    gc.collect()
    assert session() is None
    with pytest.raises(UnavailableError, match="Model 'm' is closed"):
        model.run({"a": ONES, "b": ONES})


def test_the_footprint_of_trees_is_a_multiple_of_their_file(tmp_path: Path) -> None:
    """A forest's compact lists grow 4.5-fold as nodes; weights stay what they are."""
    (tmp_path / "model.onnx").write_bytes(b"..TreeEnsembleClassifier..")
    backend, size = OnnxBackend("cpu", 1), 10 << 20
    forest = backend.footprint(ModelSpec("m", "onnx", tmp_path / "model.onnx", size))
    dense = backend.footprint(ModelSpec("m", "onnx", tmp_path / "gone.onnx", size))
    assert (forest.resident_bytes, forest.peak_bytes) == (46 << 20, 131 << 20)
    assert (dense.resident_bytes, dense.peak_bytes) == (int(size * 1.02) + (1 << 20), 23 << 20)


def test_the_footprint_on_a_device_is_the_weights_and_a_workspace(tmp_path: Path) -> None:
    """On the device that is named, else on one of the house's choice."""
    backend, size = OnnxBackend("cuda", 1), 10 << 20
    spec = ModelSpec("m", "onnx", tmp_path / "gone.onnx", size)
    found = backend.footprint(spec)
    assert (found.device_peak_bytes, found.device_resident_bytes, found.devices) == (138 << 20, 138 << 20, ())
    assert backend.footprint(replace(spec, device="cuda:1")).devices == (1,)
    assert backend.footprint(replace(spec, device="cpu")).device_peak_bytes == 0


# --- inputs that may be left out


def test_an_input_with_a_default_may_be_left_out_where_it_is_configured(tmp_path: Path) -> None:
    """Without a configuration it is the model's own business."""
    default = onnx.helper.make_tensor("b", FLOAT, [1, 3], [1.0, 1.0, 1.0])
    shapes = {"a": (FLOAT, ["batch", 3]), "b": (FLOAT, [1, 3])}
    file = graph(tmp_path, [node("Add", "a b", "y")], shapes, {"y": (FLOAT, [None, 3])}, initializer=[default])
    assert [spec.name for spec in load(file).signature.inputs] == ["a"]
    spec = TensorSpec("b", "FP32", (1, 3), is_optional=True)
    model = load(file, inputs=(TensorSpec("a", "FP32", (-1, 3)), spec))
    assert model.signature.inputs[1] == spec
    for given, wanted in ({"a": ONES}, 2 * ONES), ({"a": ONES, "b": 2 * ONES[:1]}, 3 * ONES):
        np.testing.assert_array_equal(model.run(model.signature.check(given))["y"], wanted)


def test_an_input_that_only_the_configuration_calls_optional_is_a_bad_request(tmp_path: Path) -> None:
    """With the name, not the runtime's words."""
    model = load(adder(tmp_path), inputs=(TensorSpec("b", "FP32", (-1, 3), is_optional=True),))
    with pytest.raises(BadRequestError, match="Input 'b' of model 'm' is optional in its configuration"):
        model.run(model.signature.check({"a": ONES}))


def test_a_cpu_with_bf16_is_asked_for_it_where_its_products_are_right(tmp_path: Path) -> None:
    """The option is Arm's alone: here nothing changes. What 1.31 does with it on arm64 the image's test shows."""
    assert is_bf16_right()
    file = adder(tmp_path)
    model = OnnxBackend("cpu", 1, is_bf16=True).load(ModelSpec("m", "onnx", file, file.stat().st_size))
    ones = np.ones((1, 3), np.float32)

    assert model.run({"a": ones, "b": ones})["y"].tolist() == [[2.0, 2.0, 2.0]]
