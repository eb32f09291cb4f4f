"""The sample models: each is built, loads as it is, answers its sample request, and is right."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends.base import LoadedModel
from serving.backends.onnx import OnnxBackend
from serving.backends.torch import TorchBackend
from serving.codecs.media import decode
from serving.repository.layouts import describe
from serving.tensors import Array

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "model_repo_templates"
SMALL = ("iris_onnx", "digits_onnx", "diabetes_onnx")
NETWORKS = [f"{network}_{kind}" for network in ("resnet50", "bert_base") for kind in ("torchscript", "export", "onnx")]
SAMPLES = sorted(path.stem for path in (TEMPLATES / "samples").glob("*.json"))

needs_torch = pytest.mark.torch
pytest.importorskip("skl2onnx")


def build(out: Path, *arguments: str) -> list[str]:
    """Run build.py as people do; return the lines that it prints."""
    command = [sys.executable, str(TEMPLATES / "build.py"), "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600, cwd=out)
    return done.stdout.splitlines()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`models/` of `make models` where there is one, else a folder of the session; what is done is left alone."""
    made = ROOT / "models"
    return made if made.is_dir() else tmp_path_factory.mktemp("models")


@pytest.fixture
def model(repository: Path) -> Callable[[str], LoadedModel]:
    """Build and load a template."""

    def load(name: str) -> LoadedModel:
        build(repository, name)
        spec = describe(name, repository / name)
        backend = OnnxBackend("cpu", 2) if spec.format == "onnx" else TorchBackend("cpu", 2)
        return backend.load(spec)

    return load


def held_out(template: str) -> tuple[Array, Array]:
    """Return rows as float32 and labels that the model was not trained on."""
    _, rows, _, labels = runpy.run_path(str(TEMPLATES / f"{template}.py"))["split"]()
    return np.asarray(rows, np.float32), np.asarray(labels)


# --- the builder


def test_the_small_set_is_built_without_torch_and_only_once(tmp_path: Path) -> None:
    """A second run leaves everything as it is."""
    first, before = build(tmp_path), {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert [line.split(":")[0] for line in first] == list(SMALL)
    assert all(" built in " in line for line in first)
    assert build(tmp_path) == [f"{name}: up to date" for name in SMALL]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_small_set_imports_no_torch(tmp_path: Path) -> None:
    """`make serve` has none."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('torch was imported')")
    command = [sys.executable, str(TEMPLATES / "build.py"), "--out", str(tmp_path / "models")]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run(command, env=environment, check=True, timeout=120)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == sorted(SMALL)


def test_builders_are_deterministic(tmp_path: Path) -> None:
    """The same sources give the same bytes."""
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        build(tmp_path / side, *SMALL)
    for name in SMALL:
        first, second = ((tmp_path / side / name / "model.onnx").read_bytes() for side in ("a", "b"))
        assert first == second


def test_an_outdated_folder_is_replaced_whole(tmp_path: Path) -> None:
    """Another stamp means other sources: nothing of the old folder stays."""
    (tmp_path / "iris_onnx").mkdir()
    (tmp_path / "iris_onnx" / "old.onnx").write_bytes(b"old")
    (tmp_path / ".iris_onnx.unfinished").mkdir()
    build(tmp_path, "iris_onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["iris_onnx"]
    assert sorted(path.name for path in (tmp_path / "iris_onnx").iterdir()) == [".built", "model.onnx"]


def test_an_unknown_template_is_refused_with_the_list(tmp_path: Path) -> None:
    """The error names what there is."""
    command = [sys.executable, str(TEMPLATES / "build.py"), "--out", str(tmp_path), "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "no template nonsense; there are iris_onnx" in done.stderr


def test_the_readme_lists_every_template() -> None:
    """The table is complete."""
    readme = (TEMPLATES / "README.md").read_text()
    templates = runpy.run_path(str(TEMPLATES / "build.py"))["TEMPLATES"]
    assert [name for name in templates if f"`{name}`" not in readme] == []


# --- the models are right


@pytest.mark.parametrize("name", ["iris_onnx", "digits_onnx"])
def test_a_classifier_is_right_on_what_it_never_saw(model: Callable[[str], LoadedModel], name: str) -> None:
    """At least 9 in 10; labels agree with the largest probability."""
    rows, labels = held_out(name.removesuffix("_onnx"))
    answer = model(name).run({"x": rows})
    assert (answer["label"] == labels).mean() >= 0.9
    np.testing.assert_array_equal(answer["probabilities"].argmax(1), answer["label"])
    np.testing.assert_allclose(answer["probabilities"].sum(1), 1, atol=1e-5)


def test_the_regression_explains_the_progression(model: Callable[[str], LoadedModel]) -> None:
    """R squared on held-out patients is what a linear model reaches on this dataset: over 0.3."""
    rows, progression = held_out("diabetes")
    errors = progression - model("diabetes_onnx").run({"x": rows})["value"][:, 0]
    assert 1 - (errors**2).sum() / ((progression - progression.mean()) ** 2).sum() > 0.3


@needs_torch
def test_the_torchscript_classifier_is_right_on_what_it_never_saw(model: Callable[[str], LoadedModel]) -> None:
    """At least 9 in 10."""
    rows, labels = held_out("digits")
    assert (model("digits_torchscript").run({"x": rows})["scores"].argmax(1) == labels).mean() >= 0.9


@needs_torch
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_answers_like_its_eager_module(
    model: Callable[[str], LoadedModel], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-4 of the largest answer, for the exported batch and for one sample alone."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import torch

    template: dict[str, Any] = runpy.run_path(str(TEMPLATES / f"{name.rsplit('_', 1)[0]}.py"))
    network, samples, loaded = template["network"](), template["samples"](), model(name)
    for rows in (slice(0, 2), slice(1, 2)):
        part = {key: tensor[rows] for key, tensor in samples.items()}
        with torch.inference_mode():
            eager = network(**part).numpy()
        answer = loaded.run({key: tensor.numpy() for key, tensor in part.items()})["logits"]
        np.testing.assert_allclose(answer, eager, rtol=0, atol=1e-4 * max(1, np.abs(eager).max()))


# --- the samples


@needs_torch
@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_request_is_answered(model: Callable[[str], LoadedModel], name: str) -> None:
    """The committed bodies fit their models: one row out for each row in."""
    loaded = model(name)
    tensors = decode(
        (TEMPLATES / "samples" / f"{name}.json").read_bytes(), "application/json", loaded.signature
    ).tensors
    rows = {len(array) for array in tensors.values()}
    answer = loaded.run(loaded.signature.check(tensors))
    assert {len(array) for array in answer.values()} == rows


@needs_torch
def test_every_torchscript_template_says_what_the_format_does_not(repository: Path) -> None:
    """Its wharf.toml holds nothing but known keys, with a name, a type and dims for each input."""
    build(repository, "digits_torchscript")
    config = tomllib.loads((repository / "digits_torchscript" / "wharf.toml").read_text())
    assert config == {
        "format": "torchscript",
        "inputs": [{"name": "x", "dtype": "FP32", "dims": [-1, 64]}],
        "outputs": [{"name": "scores"}],
    }


def test_a_template_copied_elsewhere_is_the_same_model(tmp_path: Path) -> None:
    """A folder needs nothing outside itself."""
    build(tmp_path, "iris_onnx")
    shutil.copytree(tmp_path / "iris_onnx", tmp_path / "copy")
    loaded = OnnxBackend("cpu", 1).load(describe("copy", tmp_path / "copy"))
    assert loaded.run({"x": np.array([[5.1, 3.5, 1.4, 0.2]], np.float32)})["label"].tolist() == [0]
