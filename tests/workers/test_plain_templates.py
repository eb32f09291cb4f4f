"""The templates that Python loads: each is built, loads as it is, and is right on what it never saw."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.workers.dialects import huggingface, sklearn, trees
from serving.workers.handler import Launch, Request

TEMPLATES = Path(__file__).resolve().parents[2] / "model_repo_templates"
pytest.importorskip("sklearn")


def build(out: Path, *names: str) -> list[str]:
    """Run build.py as people do; return the lines that it prints."""
    command = [sys.executable, str(TEMPLATES / "build.py"), "--out", str(out), *names]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()


@pytest.fixture(scope="module")
def iris() -> tuple[Any, Any]:
    """Rows and labels that no template was trained on."""
    _, rows, _, labels = runpy.run_path(str(TEMPLATES / "iris.py"))["split"]()
    return rows, labels


def predict(name: str, folder: Path, rows: Any) -> Any:
    """Load a template of rows with its dialect and predict."""
    dialect, file = {
        "iris_sklearn": (sklearn, "model.joblib"),
        "iris_xgboost": (trees, "model.ubj"),
        "iris_lightgbm": (trees, "model.txt"),
    }[name]
    (reply,) = dialect.load(Launch(name, "", str(folder / name), file)).call([Request(tensors={"x": rows})])
    assert reply.tensors is not None
    return reply.tensors["predictions"]


def test_the_sklearn_template_names_the_flowers(tmp_path: Path, iris: tuple[Any, Any]) -> None:
    """At least 9 in 10 of them."""
    build(tmp_path, "iris_sklearn")
    named = np.array([b"setosa", b"versicolor", b"virginica"], object)[iris[1]]
    assert (predict("iris_sklearn", tmp_path, iris[0]) == named).mean() >= 0.9


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_the_tree_templates_are_right(tmp_path: Path, iris: tuple[Any, Any], library: str) -> None:
    """At least 9 in 10; a probability a kind."""
    pytest.importorskip(library)
    build(tmp_path, f"iris_{library}")
    answer = predict(f"iris_{library}", tmp_path, iris[0].astype(np.float32))
    assert (answer.argmax(1) == iris[1]).mean() >= 0.9
    np.testing.assert_allclose(answer.sum(1), 1, atol=1e-6)


@pytest.mark.torch
def test_the_hugging_face_template_answers_like_its_eager_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label and the chance that the module itself gives the text, spelled by a tokenizer that knows no [UNK]."""
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")
    build(tmp_path, "tiny_bert_hf")
    folder = tmp_path / "tiny_bert_hf"
    (reply,) = huggingface.load(Launch("m", "", str(folder))).call([Request(b'{"inputs": "What a day, in 2024!"}')])
    (answer,) = json.loads(bytes(reply.body))
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)("What a day, in 2024!", return_tensors="pt")
    with torch.inference_mode():
        chances = AutoModelForSequenceClassification.from_pretrained(folder)(**tokens).logits.softmax(-1)[0]
    assert answer["label"] == ("NEGATIVE", "POSITIVE")[int(chances.argmax())]
    assert answer["score"] == pytest.approx(float(chances.max()), abs=1e-5)
    assert 1 not in tokens["input_ids"][0].tolist()


def test_a_template_whose_library_is_missing_is_skipped_with_a_sentence(tmp_path: Path) -> None:
    """The others are built; nothing of the skipped one is left."""
    program = (
        f"import sys, runpy; sys.argv = ['build.py', '--out', {str(tmp_path)!r}, 'iris_xgboost', 'iris_sklearn']\n"
        f"sys.path.insert(0, {str(TEMPLATES)!r})\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'xgboost' else find(name, *more)\n"
        f"runpy.run_path({str(TEMPLATES / 'build.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    skipped, built = done.stdout.splitlines()
    assert skipped == "iris_xgboost: skipped, because xgboost is not installed (pip install xgboost-cpu)"
    assert built.startswith("iris_sklearn: built in ")
    assert [path.name for path in tmp_path.iterdir()] == ["iris_sklearn"]


def test_the_plain_templates_are_deterministic(tmp_path: Path) -> None:
    """The same sources give the same bytes."""
    for side in ("a", "b"):
        build(tmp_path / side, "iris_sklearn", "iris_xgboost", "iris_lightgbm")
    for path in (tmp_path / "a").rglob("*"):
        assert path.is_dir() or path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
