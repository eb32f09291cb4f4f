"""XGBoost and LightGBM files answer what their libraries' Boosters answer."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.workers.dialects import sklearn, trees
from serving.workers.handler import Handler, HandlerError, Launch, Request

RNG = np.random.default_rng(0)
ROWS = RNG.random((80, 3), np.float32)
CLASSES = (ROWS[:, 0] > 0.5).astype(int) + (ROWS[:, 1] > 0.5)


def load(path: Path, **options: str) -> Handler:
    """Load a file."""
    return trees.load(Launch("m", "trees", str(path.parent), path.name, options))


def ask(handler: Handler, rows: Any) -> Any:
    """Return the predictions of the one reply."""
    (reply,) = handler.call([Request(tensors={"x": rows})])
    assert reply.tensors is not None
    assert list(reply.tensors) == ["predictions"]
    return reply.tensors["predictions"]


def xgboost_booster(rounds: int = 3, **parameters: Any) -> Any:
    """Train on three classes, or on what the parameters say."""
    xgboost = pytest.importorskip("xgboost")
    parameters = {"objective": "multi:softprob", "num_class": 3, "nthread": 1} | parameters
    return xgboost.train(parameters, xgboost.DMatrix(ROWS, CLASSES), rounds)


def direct(booster: Any, rows: Any = ROWS) -> Any:
    """Predict without us."""
    return booster.predict(sys.modules["xgboost"].DMatrix(rows))


# --- XGBoost


@pytest.mark.parametrize("file", ["model.json", "model.ubj", "xgboost-model"])
def test_an_xgboost_file_answers_what_its_booster_does(tmp_path: Path, file: str) -> None:
    """A probability a class, as SageMaker's container answers multi:softprob; JSON and UBJSON under any name."""
    booster = xgboost_booster()
    (tmp_path / file).write_bytes(booster.save_raw("json" if file.endswith("json") else "ubj"))
    handler = load(tmp_path / file)
    assert handler.inputs == [{"name": "x", "dtype": "FP32", "dims": [-1, 3]}]
    np.testing.assert_array_equal(ask(handler, ROWS), direct(booster))


@pytest.mark.parametrize(("objective", "shape"), [("multi:softmax", (80,)), ("reg:squarederror", (80,))])
def test_other_objectives_answer_one_number_a_row(tmp_path: Path, objective: str, shape: tuple[int, ...]) -> None:
    """A class number or a value, FP32 both."""
    booster = xgboost_booster(objective=objective, num_class=3 if "multi" in objective else 0)
    booster.save_model(tmp_path / "model.json")
    answer = ask(load(tmp_path / "model.json"), ROWS)
    assert (answer.shape, answer.dtype) == (shape, np.float32)


def test_a_pickled_booster_is_loaded(tmp_path: Path) -> None:
    """As SageMaker's script mode leaves it under the name xgboost-model."""
    booster = xgboost_booster()
    (tmp_path / "xgboost-model").write_bytes(pickle.dumps(booster))
    np.testing.assert_array_equal(ask(load(tmp_path / "xgboost-model"), ROWS), direct(booster))


def test_a_pickled_wrapper_answers_as_its_booster_here_and_as_itself_in_a_joblib_file(tmp_path: Path) -> None:
    """What scikit-learn's dialect loads answers labels; what is called xgboost-model answers what the Booster does."""
    xgboost = pytest.importorskip("xgboost")
    wrapper = xgboost.XGBClassifier(n_estimators=2, n_jobs=1).fit(ROWS, CLASSES)
    for file in ("xgboost-model", "model.pkl"):
        (tmp_path / file).write_bytes(pickle.dumps(wrapper))
    assert ask(load(tmp_path / "xgboost-model"), ROWS).shape == (80, 3)
    labels = ask(sklearn.load(Launch("m", "sklearn", str(tmp_path), "model.pkl")), ROWS)
    np.testing.assert_array_equal(labels, wrapper.predict(ROWS))


def test_a_booster_in_a_joblib_file_is_served_as_one(tmp_path: Path) -> None:
    """It has no predict for arrays, which scikit-learn's dialect would call."""
    booster = xgboost_booster()
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(booster))
    handler = sklearn.load(Launch("m", "sklearn", str(tmp_path), "model.pkl"))
    np.testing.assert_array_equal(ask(handler, ROWS), direct(booster))


def test_trees_after_the_best_one_are_left_out(tmp_path: Path) -> None:
    """Early stopping says which is the best; a linear booster knows no trees."""
    booster = xgboost_booster(6)
    booster.set_attr(best_iteration="2")
    booster.save_model(tmp_path / "model.ubj")
    np.testing.assert_array_equal(ask(load(tmp_path / "model.ubj"), ROWS), direct(booster[:3]))
    linear = xgboost_booster(booster="gblinear", updater="coord_descent")
    linear.set_attr(best_iteration="0")
    linear.save_model(tmp_path / "linear.ubj")
    np.testing.assert_allclose(ask(load(tmp_path / "linear.ubj"), ROWS), direct(linear), rtol=1e-5)


def test_categories_are_read_as_their_codes(tmp_path: Path) -> None:
    """A model with categorical features takes an array of floats all the same."""
    xgboost = pytest.importorskip("xgboost")
    options: dict[str, Any] = {"feature_types": ["c", "q"], "enable_categorical": True}
    rows = np.c_[np.arange(80) % 4, ROWS[:, 0]].astype(np.float32)
    matrix = xgboost.DMatrix(rows, rows[:, 0] == 2, **options)
    booster = xgboost.train({"nthread": 1}, matrix, 3)
    booster.save_model(tmp_path / "model.json")
    np.testing.assert_array_equal(ask(load(tmp_path / "model.json"), rows), booster.predict(matrix))


def test_a_missing_value_is_nan(tmp_path: Path) -> None:
    """As XGBoost has it."""
    booster = xgboost_booster()
    booster.save_model(tmp_path / "model.json")
    rows = np.array([[np.nan, 0.5, 0.5]], np.float32)
    np.testing.assert_array_equal(ask(load(tmp_path / "model.json"), rows), direct(booster, rows))


def test_requests_of_a_batch_get_their_own_rows(tmp_path: Path) -> None:
    """One call, dealt out again."""
    booster = xgboost_booster()
    booster.save_model(tmp_path / "model.json")
    replies = load(tmp_path / "model.json").call([Request(tensors={"x": ROWS[n : n + n + 1]}) for n in (0, 1, 2)])
    for n, reply in enumerate(replies):
        assert reply.tensors is not None
        np.testing.assert_array_equal(reply.tensors["predictions"], direct(booster)[n : n + n + 1])


@pytest.mark.parametrize("content", [b"binf" + bytes(300), b"{nonsense", bytes(300)])
def test_a_file_that_xgboost_cannot_read_is_named(tmp_path: Path, content: bytes) -> None:
    """With how to save it again, and no place in C++."""
    pytest.importorskip("xgboost")
    (tmp_path / "model.bst").write_bytes(content)
    with pytest.raises(
        HandlerError, match=r"'model.bst' is no model that xgboost .*save_model\('model.ubj'\)"
    ) as fault:
        load(tmp_path / "model.bst")
    assert ".cc:" not in str(fault.value)


def test_an_empty_file_is_refused_before_xgboost_sees_it(tmp_path: Path) -> None:
    """xgboost 3.2 ends the process on an empty buffer."""
    (tmp_path / "model.ubj").touch()
    with pytest.raises(HandlerError, match="is empty"):
        load(tmp_path / "model.ubj")


def test_a_pickle_of_something_else_is_refused_with_its_type(tmp_path: Path) -> None:
    """A list is no Booster."""
    (tmp_path / "xgboost-model").write_bytes(pickle.dumps([1]))
    with pytest.raises(HandlerError, match="holds a list and an xgboost.Booster was wanted"):
        load(tmp_path / "xgboost-model")


# --- LightGBM


def lightgbm_booster(path: Path, **parameters: Any) -> Any:
    """Train a small model and save it to `path`."""
    lightgbm = pytest.importorskip("lightgbm")
    parameters = {"objective": "binary", "verbose": -1, "min_data_in_leaf": 2, "num_threads": 1} | parameters
    booster = lightgbm.train(
        parameters, lightgbm.Dataset(ROWS, CLASSES if "num_class" in parameters else CLASSES > 0), 3
    )
    booster.save_model(path)
    return booster


@pytest.mark.parametrize("file", ["model.txt", "lightgbm-model", "model.bst"])
def test_a_lightgbm_file_is_known_by_its_first_word(tmp_path: Path, file: str) -> None:
    """Whatever it is called; a probability a row."""
    booster = lightgbm_booster(tmp_path / file)
    handler = load(tmp_path / file)
    assert handler.inputs == [{"name": "x", "dtype": "FP32", "dims": [-1, 3]}]
    np.testing.assert_array_equal(ask(handler, ROWS), booster.predict(ROWS))


def test_several_classes_are_a_probability_each(tmp_path: Path) -> None:
    """[rows, classes], FP64."""
    lightgbm_booster(tmp_path / "model.txt", objective="multiclass", num_class=3)
    answer = ask(load(tmp_path / "model.txt"), ROWS[:5])
    assert (answer.shape, answer.dtype) == ((5, 3), np.float64)
    np.testing.assert_allclose(answer.sum(1), 1)


def test_a_broken_lightgbm_file_is_named(tmp_path: Path) -> None:
    """With how to save it again."""
    pytest.importorskip("lightgbm")
    (tmp_path / "model.txt").write_text("tree\nnonsense")
    with pytest.raises(HandlerError, match=r"'model.txt' is no model that lightgbm .*booster.save_model"):
        load(tmp_path / "model.txt")


# --- both


@pytest.mark.parametrize(("library", "content"), [("xgboost", b"{}"), ("lightgbm", b"tree\n")])
def test_a_missing_library_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, content: bytes
) -> None:
    """And where to name it."""
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(HandlerError, match=rf"pip package {library}.*WHARF_INSTALL_REQUIREMENTS=1"):
        load(tmp_path / "model")


def test_an_output_that_trees_do_not_have_is_refused(tmp_path: Path) -> None:
    """The predictions are the probabilities already."""
    with pytest.raises(HandlerError, match="has outputs predictions and the option outputs asks for 'probabilities'"):
        load(tmp_path / "model.txt", outputs="probabilities")
