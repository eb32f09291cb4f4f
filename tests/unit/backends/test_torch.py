"""The torch backend: TorchScript and exported programs."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import textwrap
import threading
import uuid
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends.torch import TorchBackend
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

# The tests make TorchScript, which torch advises against; the backend's own warnings are not excused by this.
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.(script|trace|trace_method)` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning"),
]

ONES = np.ones((2, 3), np.float32)
X = TensorSpec("x", "FP32", (-1, 3))


NET = """
from typing import Dict, Optional
import torch
from torch import Tensor

class Net(torch.nn.Module):
"""


def scripted(folder: Path, forward: str) -> Path:
    """Save a TorchScript module whose forward() is this source."""
    import torch

    (folder / "net.py").write_text(NET + textwrap.indent(forward, "    ") + "\n")
    found = importlib.util.spec_from_file_location(f"net_{uuid.uuid4().hex}", folder / "net.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    torch.jit.script(module.Net().eval()).save(str(folder / "model.pt"))
    return folder / "model.pt"


def exported(folder: Path, module: Any, *samples: Any, free: Iterable[int] = (0,)) -> Path:
    """Save an exported program; `free` dims of every input are dynamic."""
    import torch

    dims = tuple(dict.fromkeys(free, torch.export.Dim.DYNAMIC) for _ in samples)
    torch.export.save(torch.export.export(module, samples, dynamic_shapes=dims), folder / "model.pt2")
    return folder / "model.pt2"


def spec_of(file: Path, *inputs: TensorSpec, outputs: tuple[str, ...] = (), **settings: Any) -> ModelSpec:
    """Describe a file, with inputs and names of outputs as a wharf.toml would."""
    kind = {".pt": "torchscript", ".pt2": "torch_export"}[file.suffix]
    named = tuple(TensorSpec(name) for name in outputs)
    return ModelSpec("m", kind, file, file.stat().st_size, inputs or None, named or None, **settings)


def load(file: Path, *inputs: TensorSpec, cores: int = 2, **settings: Any) -> Any:
    """Make a file ready on the CPU."""
    return TorchBackend("cpu", cores).load(spec_of(file, *inputs, **settings))


def conv_net(folder: Path) -> Path:
    """Save a convolution with batch norm, which the optimiser folds."""
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()
    torch.jit.script(net).save(str(folder / "model.pt"))
    return folder / "model.pt"


IMAGE = TensorSpec("input", "FP32", (-1, 3, -1, -1))


# --- TorchScript: inputs


def test_a_script_answers_under_its_argument_names(tmp_path: Path) -> None:
    """Without a configuration inputs are forward()'s arguments and the output is `output`."""
    model = load(scripted(tmp_path, "def forward(self, a, b):\n    return a - b"))
    assert [spec.name for spec in model.signature.inputs] == ["a", "b"]
    np.testing.assert_array_equal(model.run({"b": ONES, "a": 3 * ONES})["output"], 2 * ONES)


def test_configured_names_that_are_arguments_are_fed_by_name(tmp_path: Path) -> None:
    """The order of the configuration does not matter then."""
    file = scripted(tmp_path, "def forward(self, a, b):\n    return a - b")
    model = load(file, TensorSpec("b", "FP32", (-1, 3)), TensorSpec("a", "FP32", (-1, 3)))
    np.testing.assert_array_equal(model.run({"b": ONES, "a": 3 * ONES})["output"], 2 * ONES)


def test_tritons_numbered_names_are_fed_by_position(tmp_path: Path) -> None:
    """INPUT__1 is the second argument wherever the configuration puts it."""
    file = scripted(tmp_path, "def forward(self, a, b):\n    return a - b")
    model = load(file, TensorSpec("INPUT__1"), TensorSpec("INPUT__0"))
    np.testing.assert_array_equal(model.run({"INPUT__1": ONES, "INPUT__0": 3 * ONES})["output"], 2 * ONES)


def test_other_names_are_fed_in_order_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Names that fit nothing keep the configuration's order, and the log says so."""
    file = scripted(tmp_path, "def forward(self, a, b):\n    return a - b")
    model = load(file, TensorSpec("left"), TensorSpec("right"))
    np.testing.assert_array_equal(model.run({"left": 3 * ONES, "right": ONES})["output"], 2 * ONES)
    assert "event=inputs_by_order model=m configured=left,right arguments=a,b" in caplog.text


def test_an_optional_argument_may_be_left_out_or_given(tmp_path: Path) -> None:
    """A default of None stands in for an input that the configuration does not name."""
    source = "def forward(self, x, y: Optional[Tensor] = None):\n    return x if y is None else x - y"
    file = scripted(tmp_path, source)
    assert [spec.name for spec in load(file).signature.inputs] == ["x"]
    both = load(file, TensorSpec("y"), TensorSpec("x"))
    np.testing.assert_array_equal(both.run({"x": 3 * ONES, "y": ONES})["output"], 2 * ONES)


def test_a_single_dict_argument_gets_the_named_tensors(tmp_path: Path) -> None:
    """The configured names are the keys."""
    file = scripted(tmp_path, "def forward(self, d: Dict[str, Tensor]):\n    return d['a'] - d['b']")
    model = load(file, TensorSpec("a", "FP32", (-1, 3)), TensorSpec("b", "FP32", (-1, 3)))
    np.testing.assert_array_equal(model.run({"a": 3 * ONES, "b": ONES})["output"], 2 * ONES)


@pytest.mark.parametrize(
    ("source", "inputs", "advice"),
    [
        ("def forward(self, d: Dict[str, Tensor]):\n    return d['a']", (), "describe its inputs"),
        ("def forward(self, x, k: int):\n    return x * k", (), "'k' of type int"),
        ("def forward(self, x, y):\n    return x + y", (X,), r"takes \['x', 'y'\]"),
        ("def forward(self, x):\n    return x", (X, TensorSpec("z")), r"takes \['x'\]"),
    ],
)
def test_arguments_that_no_request_can_fill_are_refused(
    tmp_path: Path, source: str, inputs: tuple[TensorSpec, ...], advice: str
) -> None:
    """The message names the argument and what to do."""
    with pytest.raises(InvalidArtifactError, match=advice):
        load(scripted(tmp_path, source), *inputs)


# --- TorchScript: outputs


@pytest.mark.parametrize(
    ("returned", "names"),
    [
        ("x", ["output"]),
        ("(x, x + 1)", ["output_0", "output_1"]),
        ("[x, x + 1]", ["output_0", "output_1"]),
        ("{'sum': x, 'more': x + 1}", ["sum", "more"]),
    ],
)
def test_results_are_named_by_their_form(tmp_path: Path, returned: str, names: list[str]) -> None:
    """A tensor, a tuple, a list and a dict; a described input lets the signature tell the same names beforehand."""
    model = load(scripted(tmp_path, f"def forward(self, x):\n    return {returned}"), X)
    assert list(model.run({"x": ONES})) == names
    assert [(spec.name, spec.dtype) for spec in model.signature.outputs] == [(name, "FP32") for name in names]


@pytest.mark.parametrize(
    ("returned", "configured", "expected"),
    [
        ("(x, x + 1)", ("first", "second"), {"first": 1, "second": 2}),
        ("(x, x + 1)", ("OUTPUT__1", "OUTPUT__0"), {"OUTPUT__1": 2, "OUTPUT__0": 1}),
        ("{'a': x, 'b': x + 1}", ("b",), {"b": 2}),
        ("{'a': x, 'b': x + 1}", ("p", "q"), {"p": 1, "q": 2}),
    ],
)
def test_configured_outputs_rename_or_choose(
    tmp_path: Path, returned: str, configured: tuple[str, ...], expected: dict[str, int]
) -> None:
    """By order, by Triton's position, by key; names that are no keys rename in order."""
    model = load(scripted(tmp_path, f"def forward(self, x):\n    return {returned}"), X, outputs=configured)
    assert {name: int(array[0, 0]) for name, array in model.run({"x": ONES}).items()} == expected


@pytest.mark.parametrize(("source", "outputs"), [("(x, x)", 2), ("x", 1), ("{'a': x}", 0)])
def test_undescribed_inputs_leave_the_declared_outputs(tmp_path: Path, source: str, outputs: int) -> None:
    """Without a sample run the type of forward() tells how many there are; a dict tells nothing."""
    model = load(scripted(tmp_path, f"def forward(self, x):\n    return {source}"))
    assert len(model.signature.outputs) == outputs


def test_more_outputs_than_configured_names_fail_with_both_counts(tmp_path: Path) -> None:
    """Nothing is dropped silently."""
    model = load(scripted(tmp_path, "def forward(self, x):\n    return x, x"), outputs=("only",))
    with pytest.raises(ModelFailedError, match=r"returns 2 outputs and its configuration names 1 \(only\)"):
        model.run({"x": ONES})


def test_a_result_that_is_no_tensor_fails_with_advice(tmp_path: Path) -> None:
    """A nest of tuples has no flat names."""
    model = load(scripted(tmp_path, "def forward(self, x):\n    return x, (x, x)"))
    with pytest.raises(ModelFailedError, match="'output_1' is a tuple and has to be a tensor"):
        model.run({"x": ONES})


@pytest.mark.parametrize(
    ("kind", "dtype"), [("torch.half", np.float16), ("torch.bfloat16", np.float32), ("torch.int64", np.int64)]
)
def test_outputs_keep_their_type_and_bfloat16_becomes_float32(tmp_path: Path, kind: str, dtype: type) -> None:
    """The dtype in the signature is the one that is answered."""
    model = load(scripted(tmp_path, f"def forward(self, x):\n    return x.to({kind}).t()"), X)
    answer = model.run({"x": ONES})["output"]
    assert (answer.dtype, answer.shape, answer.flags.c_contiguous) == (dtype, (3, 2), True)
    assert model.signature.outputs[0].numpy_dtype == dtype


# --- TorchScript: the optimised graph


def test_a_graph_with_convolutions_is_optimised_and_agrees(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The packed graph's answers are the plain one's to 1e-4."""
    caplog.set_level(logging.INFO)
    file = conv_net(tmp_path)
    image = np.random.default_rng(0).standard_normal((2, 3, 20, 20), dtype=np.float32)
    found = load(file, IMAGE).run({"input": image})["output"]
    assert "event=optimised_graph model=m" in caplog.text
    plain = load(file, IMAGE, optimize=False).run({"input": image})["output"]
    np.testing.assert_allclose(found, plain, atol=1e-4)


def test_optimize_false_keeps_the_plain_graph(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The setting of the model wins, silently."""
    caplog.set_level(logging.INFO)
    load(conv_net(tmp_path), IMAGE, optimize=False)
    assert caplog.text == ""


def test_undescribed_inputs_keep_the_plain_graph_with_advice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says how to enable it."""
    caplog.set_level(logging.INFO)
    load(conv_net(tmp_path))
    assert "event=plain_graph model=m reason=inputs_unknown advice=describe_inputs_in_wharf.toml" in caplog.text


def test_a_sample_that_fails_keeps_the_plain_graph(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model that dislikes the made-up sample is served all the same."""
    source = "def forward(self, x):\n    assert x.shape[0] == 2, 'pairs only'\n    return x"
    model = load(scripted(tmp_path, source), X)
    assert "event=plain_graph" in caplog.text
    assert "pairs only" in caplog.text
    assert model.run({"x": ONES})["output"].shape == (2, 3)


def test_a_graph_that_differs_when_optimised_stays_plain(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A random answer never agrees with itself, and is reported as a difference."""
    load(scripted(tmp_path, "def forward(self, x):\n    return x + torch.rand_like(x)"), X)
    assert "output output of the optimised graph differs by more than 0.0001" in caplog.text


def test_answers_that_are_no_numbers_agree(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """NaN and infinity in the same places are no difference."""
    caplog.set_level(logging.INFO)
    load(scripted(tmp_path, "def forward(self, x):\n    return x / 0, x * float('nan')"), X)
    assert "event=optimised_graph" in caplog.text


# --- arrays


def test_read_only_and_strided_arrays_are_taken_without_a_warning(tmp_path: Path) -> None:
    """Request bodies are read-only; slices have gaps."""
    model = load(scripted(tmp_path, "def forward(self, x):\n    return x * 2"))
    body = np.frombuffer(ONES.tobytes(), np.float32).reshape(2, 3)
    np.testing.assert_array_equal(model.run({"x": body})["output"], 2 * ONES)
    np.testing.assert_array_equal(model.run({"x": np.ones((4, 3), np.float32)[::-2]})["output"], 2 * ONES)


def test_an_input_is_not_copied(tmp_path: Path) -> None:
    """What a model returns unchanged is the very memory of the request."""
    model = load(scripted(tmp_path, "def forward(self, x):\n    return x"))
    assert np.shares_memory(model.run({"x": ONES})["output"], ONES)


def test_text_is_refused_as_a_bad_request(tmp_path: Path) -> None:
    """torch has no strings; the message names the input."""
    model = load(scripted(tmp_path, "def forward(self, x):\n    return x"))
    with pytest.raises(BadRequestError, match="Input 'x' of model 'm' is of type object"):
        model.run({"x": np.array(["a"], dtype=object)})


# --- errors


def test_a_model_that_cries_oom_is_a_failed_model(tmp_path: Path) -> None:
    """Words in a model's own error never become 507."""
    model = load(scripted(tmp_path, "def forward(self, x):\n    assert False, 'BOOM_table OOM'\n    return x"))
    with pytest.raises(ModelFailedError, match="BOOM_table OOM"):
        model.run({"x": ONES})


def test_a_model_that_forges_the_allocators_words_is_a_failed_model(tmp_path: Path) -> None:
    """What TorchScript raises is of another type than what the allocator raises."""
    forged = (
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 9 bytes. Error code 12 (Cannot allocate memory)"
    )
    model = load(scripted(tmp_path, f"def forward(self, x):\n    raise RuntimeError({forged!r})\n    return x"))
    with pytest.raises(ModelFailedError):
        model.run({"x": ONES})


def test_an_allocation_that_fails_is_insufficient_memory(tmp_path: Path) -> None:
    """The allocator's own error becomes 507."""
    model = load(scripted(tmp_path, f"def forward(self, x):\n    return x.sum() + torch.zeros([{1 << 46}])"))
    with pytest.raises(InsufficientMemoryError, match="Model 'm' found no memory for this request"):
        model.run({"x": ONES})


def test_a_wrong_shape_is_a_failed_model_with_torchs_words(tmp_path: Path) -> None:
    """The last line of the traceback is what the caller reads."""
    model = load(scripted(tmp_path, "def forward(self, x):\n    return x @ x"))
    with pytest.raises(ModelFailedError, match=r"Model 'm' failed on this input: .*cannot be multiplied"):
        model.run({"x": ONES})


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_model_is_an_invalid_artifact(tmp_path: Path, suffix: str, content: bytes) -> None:
    """Garbage and an empty archive are refused as such."""
    file = tmp_path / f"model{suffix}"
    file.write_bytes(content)
    with pytest.raises(InvalidArtifactError, match=r"Model 'm': model.pt"):
        load(file)


def test_a_state_dict_is_no_torchscript(tmp_path: Path) -> None:
    """torch.save of weights makes the same kind of archive without a program."""
    import torch

    torch.save({"weight": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(InvalidArtifactError, match="is not a torchscript file"):
        load(tmp_path / "model.pt")


def test_a_file_that_is_gone_does_not_load(tmp_path: Path) -> None:
    """The artifact may vanish between its description and its load."""
    spec = ModelSpec("m", "torchscript", tmp_path / "model.pt", 1)
    with pytest.raises((InvalidArtifactError, LoadFailedError), match=r"model.pt"):
        TorchBackend("cpu", 1).load(spec)


def test_cuda_without_a_device_says_what_to_set(tmp_path: Path) -> None:
    """The backend's device and the model's own are both checked."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    file = scripted(tmp_path, "def forward(self, x):\n    return x")
    with pytest.raises(LoadFailedError, match="set WHARF_DEVICE=cpu"):
        TorchBackend("cuda", 1).load(spec_of(file))
    with pytest.raises(LoadFailedError, match="set WHARF_DEVICE=cpu"):
        load(file, device="cuda")


# --- exported programs


def linear(folder: Path) -> Path:
    """Export a linear layer with a free batch."""
    import torch

    torch.manual_seed(0)
    return exported(folder, torch.nn.Linear(3, 2).eval(), torch.ones(2, 3))


def module_of(forward: Any) -> Any:
    """Make a module of a function."""
    import torch

    return type("Net", (torch.nn.Module,), {"forward": forward})()


def test_an_exported_program_tells_its_signature(tmp_path: Path) -> None:
    """Names, types and dims come from the graph; a symbolic size is free."""
    signature = load(linear(tmp_path)).signature
    assert signature.inputs == (TensorSpec("input", "FP32", (-1, 3)),)
    assert signature.outputs == (TensorSpec("output", "FP32", (-1, 2)),)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_an_exported_program_answers_any_batch(tmp_path: Path, batch: int) -> None:
    """The answer is the eager module's, for one row too."""
    import torch

    answer = load(linear(tmp_path)).run({"input": np.ones((batch, 3), np.float32)})["output"]
    torch.manual_seed(0)
    np.testing.assert_allclose(answer, torch.nn.Linear(3, 2)(torch.ones(batch, 3)).detach(), atol=1e-6)


def test_an_exported_program_that_returns_a_dict_names_its_outputs(tmp_path: Path) -> None:
    """The keys of the dict are the names, in the signature too."""
    import torch

    net = module_of(lambda self, a, b: {"sum": a + b, "difference": a - b})
    model = load(exported(tmp_path, net, torch.ones(2, 3), torch.ones(2, 3)))
    answer = model.run({"a": 3 * ONES, "b": ONES})
    assert {name: int(array[0, 0]) for name, array in answer.items()} == {"sum": 4, "difference": 2}
    assert [spec.name for spec in model.signature.outputs] == ["sum", "difference"]


def test_a_configuration_names_the_outputs_of_an_exported_program(tmp_path: Path) -> None:
    """The name reaches the signature and the answer."""
    model = load(linear(tmp_path), outputs=("scores",))
    assert model.signature.outputs == (TensorSpec("scores", "FP32", (-1, 2)),)
    assert list(model.run({"input": ONES})) == ["scores"]


def test_a_configuration_may_narrow_a_free_dim_and_not_contradict(tmp_path: Path) -> None:
    """dims = [4, 3] of [-1, 3] is fine, [-1, 5] is not."""
    file = linear(tmp_path)
    assert load(file, TensorSpec("input", "FP32", (4, 3))).signature.inputs[0].dims == (4, 3)
    with pytest.raises(InvalidArtifactError, match=r"of FP32 \[-1, 3\] and is configured with FP32 \[-1, 5\]"):
        load(file, TensorSpec("input", "FP32", (-1, 5)))
    with pytest.raises(InvalidArtifactError, match="the input 'y' and has"):
        load(file, TensorSpec("y"))


def test_an_input_outside_the_exported_range_is_a_failed_model(tmp_path: Path) -> None:
    """The guards that the exporter wrote are checked."""
    import torch

    table = torch.nn.Parameter(torch.ones(5, 2))
    net = module_of(lambda self, x: x + table[: x.shape[0]])
    net.table = table
    model = load(exported(tmp_path, net, torch.ones(3, 2)))
    with pytest.raises(ModelFailedError):
        model.run({"x": np.ones((9, 2), np.float32)})


def test_programs_load_side_by_side(tmp_path: Path) -> None:
    """torch's loader cannot be entered twice; ours can."""
    file, backend, ready = linear(tmp_path), TorchBackend("cpu", 2), []
    threads = [threading.Thread(target=lambda: ready.append(backend.load(spec_of(file)))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ready) == 6


# --- threads


def test_waiting_threads_do_not_spin() -> None:
    """OpenMP was told before torch was imported by the backend, unless somebody had set it otherwise."""
    TorchBackend("cpu", 1).prepare()
    assert os.environ["OMP_WAIT_POLICY"]


# --- memory


@pytest.mark.parametrize("size", [1, 64 << 20])
def test_a_closed_model_lets_go_of_its_program_and_refuses_to_run(tmp_path: Path, size: int) -> None:
    """Nothing keeps the program alive, not even the thread that ran it."""
    file = scripted(tmp_path, "def forward(self, x):\n    return x")
    model: Any = TorchBackend("cpu", 2).load(ModelSpec("m", "torchscript", file, size))
    model.run({"x": ONES})
    module = weakref.ref(model._program.call.args[0])
    model.close()
    gc.collect()
    assert module() is None
    with pytest.raises(UnavailableError, match="Model 'm' is closed"):
        model.run({"x": ONES})


@pytest.mark.parametrize(
    ("convolves", "optimize", "described", "peak"),
    [(False, True, True, 1.15), (True, True, True, 2.7), (True, False, True, 1.7), (True, True, False, 1.7)],
)
def test_the_footprint_of_a_script_follows_its_code(
    tmp_path: Path, convolves: bool, optimize: bool, described: bool, peak: float
) -> None:
    """Packed convolutions take a second copy while they load; nothing is imported or read but the code."""
    file = conv_net(tmp_path) if convolves else scripted(tmp_path, "def forward(self, x):\n    return x")
    inputs = (IMAGE,) if described else None
    spec = ModelSpec("m", "torchscript", file, 100 << 20, inputs, optimize=optimize)
    footprint = TorchBackend("cpu", 2).footprint(spec)
    assert footprint.peak_bytes == int((100 << 20) * peak) + (1 << 20)
    assert 100 << 20 < footprint.resident_bytes <= footprint.peak_bytes


def test_the_footprint_of_a_program_needs_no_file() -> None:
    """It is a matter of its size alone."""
    footprint = TorchBackend("cpu", 2).footprint(ModelSpec("m", "torch_export", Path("gone.pt2"), 100 << 20))
    assert 104 << 20 < footprint.resident_bytes < footprint.peak_bytes < 150 << 20


# --- inputs that may be left out


@pytest.mark.parametrize("names", [("x", "y"), ("INPUT__0", "INPUT__1"), ("left", "right")])
def test_a_configured_optional_input_may_be_left_out_where_the_script_agrees(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    """However its name meets the argument; what the script demands is a bad request without it."""
    file = scripted(tmp_path, "def forward(self, x, y: Optional[Tensor] = None):\n    return x if y is None else x - y")
    first, second = names
    inputs = [TensorSpec(name, "FP32", (-1, 3), is_optional=True) for name in names]
    model = load(file, *inputs)
    np.testing.assert_array_equal(model.run({first: ONES})["output"], ONES)
    np.testing.assert_array_equal(model.run({first: ONES, second: ONES})["output"], 0 * ONES)
    with pytest.raises(BadRequestError, match=f"Input '{first}' of model 'm' is optional in its configuration"):
        model.run({second: ONES})


def test_an_exported_program_demands_its_inputs(tmp_path: Path) -> None:
    """Whatever the configuration calls optional."""
    model = load(linear(tmp_path), TensorSpec("input", "FP32", (-1, 3), is_optional=True))
    with pytest.raises(BadRequestError, match="Input 'input' of model 'm' is optional"):
        model.run({})


@pytest.mark.parametrize("names", [("OUTPUT__1",), ("OUTPUT__2", "OUTPUT__0")])
def test_numbered_outputs_choose_by_position(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Some of them, in any order, as Triton has it."""
    file = scripted(tmp_path, "def forward(self, x):\n    return 0 * x, x, 2 * x")
    answers = load(file, outputs=names).run({"x": ONES})
    assert {name: float(array[0, 0]) for name, array in answers.items()} == {name: int(name[-1]) for name in names}


def test_a_numbered_output_that_the_script_has_not_fails(tmp_path: Path) -> None:
    """With both counts."""
    model = load(scripted(tmp_path, "def forward(self, x):\n    return x, x"), outputs=("OUTPUT__2",))
    with pytest.raises(ModelFailedError, match="returns 2 outputs and its configuration names 1"):
        model.run({"x": ONES})
