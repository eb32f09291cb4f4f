"""What a .pt2 archive may hold: every way in which torch.export.load would run the file's code is refused."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.backends.pt2_archive import check_archive
from serving.errors import InvalidArtifactError

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning")]

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
SAMPLES = "data/sample_inputs/model.pt"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An honest archive with symbolic shapes and guards."""
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Flatten(0)).eval()
    program = torch.export.export(net, (torch.ones(2, 3, 4),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "model.pt2")
    return tmp_path / "model.pt2"


def rewrite(file: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Apply `change` to the records of an archive, by name below its root."""
    with zipfile.ZipFile(file) as packed:
        root = packed.namelist()[0].split("/")[0]
        records = {name.split("/", 1)[1]: packed.read(name) for name in packed.namelist()}
    change(records)
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in records.items():
            packed.writestr(f"{root}/{name}", content)


def edit_json(file: Path, record: str, change: Callable[[Any], None]) -> None:
    """Apply `change` to a record of JSON."""

    def apply(records: dict[str, bytes]) -> None:
        tree = json.loads(records[record])
        change(tree)
        records[record] = json.dumps(tree).encode()

    rewrite(file, apply)


class Exploit:
    """A pickle that runs a command."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def pickled(value: Any) -> bytes:
    """Return what torch.save writes."""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def graph_of(tree: Any) -> Any:
    """Return the graph of a program."""
    return tree["graph_module"]["graph"]


def test_an_honest_archive_passes(archive: Path) -> None:
    """Weights, symbolic shapes, guards and plain sample inputs are data."""
    check_archive("m", archive)


def test_an_honest_archive_passes_after_it_was_packed_again(archive: Path) -> None:
    """The other tests here change one thing and nothing else."""
    rewrite(archive, lambda records: None)
    check_archive("m", archive)


@pytest.mark.parametrize(
    "record",
    ["data/aotinductor/model/a.so", "data/weights/model.pt", "data/constants/custom_obj_0",
     "data/constants/opaque_obj_0", "data/constants/model.pt", "models/other.json", "serialized_state_dict.pt"],
)  # fmt: skip
def test_records_that_torch_would_load_as_code_are_refused(archive: Path, record: str) -> None:
    """Compiled libraries, old pickles, custom objects, second programs."""
    rewrite(archive, lambda records: records.update({record: b"x"}))
    with pytest.raises(InvalidArtifactError, match=f"holds the record '{record}', which could run code"):
        check_archive("m", archive)


def test_pickled_weights_are_refused(archive: Path) -> None:
    """A weight of an unusual type is stored as a pickle."""
    edit_json(archive, WEIGHTS, lambda tree: next(iter(tree["config"].values())).update(use_pickle=True))
    with pytest.raises(InvalidArtifactError, match=r"the pickled tensor '0.weight'"):
        check_archive("m", archive)


def test_weights_from_elsewhere_are_refused(archive: Path) -> None:
    """A path that leads out of its folder could name any record."""
    edit_json(archive, WEIGHTS, lambda tree: next(iter(tree["config"].values())).update(path_name="../x"))
    with pytest.raises(InvalidArtifactError, match="the pickled tensor"):
        check_archive("m", archive)


def test_sample_inputs_that_are_no_plain_tensors_are_refused(archive: Path, tmp_path: Path) -> None:
    """torch falls back to the unsafe reader when the safe one fails."""
    rewrite(archive, lambda records: records.update({SAMPLES: pickled(((Exploit(),), {}))}))
    with pytest.raises(InvalidArtifactError, match="sample inputs that are not plain tensors"):
        check_archive("m", archive)


@pytest.mark.parametrize(
    "target",
    ["torch.serialization.os.system", "_operator.call", "_operator.methodcaller", "torch.ops.import_module.__call__",
     "torch.ops.aten.__init__.__globals__", "math.__loader__.load_module", "torch.load", "#extension:x",
     "torch._sym_x.y", "torch.ops.load_library"],
)  # fmt: skip
def test_functions_that_are_no_operators_are_refused(archive: Path, target: str) -> None:
    """A dotted path could reach any function of any module that torch imports."""
    edit_json(archive, GRAPH, lambda tree: graph_of(tree)["nodes"][0].update(target=target))
    with pytest.raises(InvalidArtifactError, match="the target"):
        check_archive("m", archive)


@pytest.mark.parametrize(
    "target",
    ["torch.ops.aten.add.Tensor", "torch.ops.aten._softmax.default", "torch.ops.aten.__and__.Scalar", "_operator.mul",
     "math.ceil", "torch.sym_max", "torch._sym_sqrt", "torch.ops.higher_order.cond"],
)  # fmt: skip
def test_operators_are_let_through(archive: Path, target: str) -> None:
    """Registered operators, arithmetic, symbolic helpers."""
    edit_json(archive, GRAPH, lambda tree: graph_of(tree)["nodes"][0].update(target=target))
    check_archive("m", archive)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "exec(chr(105))",
        "s0.__class__",
        "(lambda: 1)()",
        "Symbol('s0').func",
        "open",
        "`x`",
    ],
)
def test_expressions_that_are_no_arithmetic_are_refused(archive: Path, expression: str) -> None:
    """Shapes and guards are evaluated by Python."""
    edit_json(archive, GRAPH, lambda tree: tree.update(guards_code=[expression]))
    with pytest.raises(InvalidArtifactError, match="the guards_code"):
        check_archive("m", archive)


@pytest.mark.parametrize(
    "expression",
    ["L['input_ids'].size()[1] <= 512", "Mul(Integer(12), Pow(Symbol('s53', positive=True, integer=True), Integer(2)))",
     "Max(1, s0 // 2) == s0", "Mod(s77, 8)"],
)  # fmt: skip
def test_arithmetic_is_let_through(archive: Path, expression: str) -> None:
    """What the exporter writes itself."""
    edit_json(archive, GRAPH, lambda tree: tree.update(guards_code=[expression]))
    check_archive("m", archive)


@pytest.mark.parametrize("name", ["x=__import__('os').system('true')", "a b", "x')", "x\n", "x;y"])
def test_names_that_could_be_source_are_refused(archive: Path, name: str) -> None:
    """Names of inputs become a Python function's arguments."""
    edit_json(archive, GRAPH, lambda tree: graph_of(tree)["inputs"][0]["as_tensor"].update(name=name))
    with pytest.raises(InvalidArtifactError, match="the name"):
        check_archive("m", archive)


@pytest.mark.parametrize("tree", ['["x=f()"]', "\\\\u0028"])
def test_call_specs_that_could_be_source_are_refused(archive: Path, tree: str) -> None:
    """Keyword names in the call's form end in source too, however they are escaped."""
    edit_json(
        archive, GRAPH, lambda graph: graph["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=tree)
    )
    with pytest.raises(InvalidArtifactError, match="the in_spec"):
        check_archive("m", archive)


def test_an_archive_without_a_program_is_refused(archive: Path) -> None:
    """The message says which torch writes what is wanted."""
    rewrite(archive, lambda records: records.update({"extra/model.json": records.pop(GRAPH)}))
    with pytest.raises(InvalidArtifactError, match=r"torch.export.save of torch 2.8 or later"):
        check_archive("m", archive)
