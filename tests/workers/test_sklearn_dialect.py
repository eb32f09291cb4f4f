"""The scikit-learn dialect: what people save with joblib, pickle and skops answers as SageMaker's container does."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.workers.dialects import sklearn as dialect
from serving.workers.handler import Handler, HandlerError, Launch, Request

pytest.importorskip("sklearn")
joblib = pytest.importorskip("joblib")

from sklearn.cluster import KMeans  # noqa: E402  after the skip
from sklearn.datasets import load_iris  # noqa: E402
from sklearn.ensemble import RandomForestClassifier  # noqa: E402
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer  # noqa: E402
from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: E402
from sklearn.svm import LinearSVC  # noqa: E402

ROWS, LABELS = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[LABELS]
Save = Callable[..., Launch]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write an object to a file as its suffix says; return how to launch it."""

    def saved(model: Any, file: str = "model.joblib", threads: int = 1, **options: str) -> Launch:
        if file.endswith(".pkl"):
            (tmp_path / file).write_bytes(pickle.dumps(model))
        else:
            joblib.dump(model, tmp_path / file)
        return Launch("m", "sklearn", str(tmp_path), file, options, threads=threads)

    return saved


def ask(handler: Handler, array: Any, name: str = "x") -> dict[str, Any]:
    """Return the tensors of the one reply."""
    (reply,) = handler.call([Request(tensors={name: np.asarray(array)})])
    assert reply.tensors is not None
    return reply.tensors


def texts(*words: str) -> Any:
    """Return BYTES as the codecs make them."""
    return np.array([word.encode() for word in words], object)


# --- answers


@pytest.mark.parametrize("file", ["model.joblib", "model.pkl", "model.pickle"])
def test_a_classifier_answers_the_labels_that_it_was_trained_on(save: Save, file: str) -> None:
    """Strings travel as bytes; joblib's and pickle's files are told apart by what is in them."""
    model = LogisticRegression(max_iter=500).fit(ROWS, NAMES)
    answer = ask(dialect.load(save(model, file)), ROWS)
    assert list(answer) == ["predictions"]
    assert answer["predictions"].dtype == object
    assert [label.decode() for label in answer["predictions"]] == model.predict(ROWS).tolist()


def test_probabilities_come_along_where_the_option_asks(save: Save) -> None:
    """Beside the predictions, a row each."""
    model = LogisticRegression(max_iter=500).fit(ROWS, LABELS)
    answer = ask(dialect.load(save(model, outputs="predictions, probabilities")), ROWS[:5])
    np.testing.assert_array_equal(answer["predictions"], model.predict(ROWS[:5]))
    np.testing.assert_array_equal(answer["probabilities"], model.predict_proba(ROWS[:5]))


def test_probabilities_of_several_targets_are_one_array(save: Save) -> None:
    """[rows, targets, classes] where the targets have as many classes, a clear error where they have not."""
    forest = RandomForestClassifier(2, random_state=0)
    even = dialect.load(save(forest.fit(ROWS, np.c_[LABELS, LABELS[::-1]]), outputs="probabilities"))
    assert ask(even, ROWS[:4])["probabilities"].shape == (4, 2, 3)
    odd = dialect.load(save(forest.fit(ROWS, np.c_[LABELS, LABELS > 0]), outputs="probabilities"))
    with pytest.raises(HandlerError, match="different numbers of classes"):
        ask(odd, ROWS[:4])


def test_a_regressor_answers_floats_as_they_are(save: Save) -> None:
    """One column or several."""
    one = ask(dialect.load(save(LinearRegression().fit(ROWS, LABELS))), ROWS[:3])
    two = ask(dialect.load(save(LinearRegression().fit(ROWS, np.c_[LABELS, LABELS]))), ROWS[:3])
    assert (one["predictions"].dtype, one["predictions"].shape) == (np.float64, (3,))
    assert two["predictions"].shape == (3, 2)


def test_whole_numbers_are_int64(save: Save) -> None:
    """KMeans answers int32."""
    assert ask(dialect.load(save(KMeans(2, n_init=1).fit(ROWS))), ROWS[:3])["predictions"].dtype == np.int64


def test_a_text_pipeline_reads_bytes_as_utf8(save: Save) -> None:
    """As a list, and as the one column of a CSV."""
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["schön", "übel"], ["good", "bad"])
    handler = dialect.load(save(model))
    assert handler.inputs == [{"name": "x", "dtype": "BYTES", "dims": [-1]}]
    for words in (texts("schön", "übel"), texts("schön", "übel").reshape(2, 1)):
        assert ask(handler, words)["predictions"].tolist() == [b"good", b"bad"]
    with pytest.raises(HandlerError, match="not UTF-8 at byte 0") as refusal:
        ask(handler, np.array([b"\xff"], object))
    assert refusal.value.status == 400


def test_categories_are_read_as_the_strings_they_were(save: Save) -> None:
    """A table of strings; the type of its cells is left open."""
    model = make_pipeline(OneHotEncoder(), LogisticRegression())
    handler = dialect.load(save(model.fit([["red", "s"], ["blue", "l"]], [1, 0])))
    assert handler.inputs == [{"name": "x", "dtype": None, "dims": [-1, 2]}]
    assert ask(handler, texts("blue", "l").reshape(1, 2))["predictions"].tolist() == [0]


def test_requests_of_a_batch_are_one_call(save: Save) -> None:
    """Each gets its own rows; one of another shape makes them go one by one."""
    model = LogisticRegression(max_iter=500).fit(ROWS, LABELS)
    handler, calls = dialect.load(save(model)), []
    inner = handler.predict
    handler.predict = lambda tensors: calls.append(1) or inner(tensors)  # type: ignore[func-returns-value]
    parts = [ROWS[:1], ROWS[60:63], ROWS[100:102]]
    replies = handler.call([Request(tensors={"x": part}) for part in parts])
    found = [reply.tensors["predictions"].tolist() for reply in replies if reply.tensors]
    assert found == [model.predict(part).tolist() for part in parts]
    handler.call([Request(tensors={"x": ROWS[:1]}), Request(tensors={"x": ROWS[:1].astype(np.float32)})])
    assert len(calls) == 3


def test_the_specs_say_what_the_model_knows(save: Save) -> None:
    """Features and labels; a vectorizer without a memory takes texts too, a stranger nothing that is known."""
    handler = dialect.load(save(make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, NAMES)))
    assert handler.inputs == [{"name": "x", "dtype": "FP64", "dims": [-1, 4]}]
    assert handler.outputs == [{"name": "predictions", "dtype": "BYTES", "dims": None}]
    hashed = make_pipeline(HashingVectorizer(n_features=8), LogisticRegression()).fit(["a b", "c d"], [0, 1])
    assert dialect.load(save(hashed)).inputs == [{"name": "x", "dtype": "BYTES", "dims": [-1]}]
    assert dialect.load(save(types.SimpleNamespace(predict=len))).inputs is None
    handler.close()


# --- frames


def test_rows_for_a_model_that_was_fitted_on_a_frame_have_its_columns(save: Save) -> None:
    """With pandas as a frame of those names; without, as they are, and without a warning a call."""
    model = make_pipeline(StandardScaler(), LinearRegression()).fit(ROWS, LABELS)
    model.steps[0][1].feature_names_in_ = np.array(["a", "b", "c", "d"], object)  # as a frame would leave it
    assert ask(dialect.load(save(model)), ROWS[:2])["predictions"].shape == (2,)


def test_mixed_columns_are_inputs_by_name(save: Save) -> None:
    """Numbers and words in one table: an input a column, a frame for the model."""
    pandas = pytest.importorskip("pandas")
    from sklearn.compose import ColumnTransformer

    columns = ColumnTransformer([("n", StandardScaler(), ["age"]), ("c", OneHotEncoder(), ["color"])], n_jobs=-1)
    frame = pandas.DataFrame({"age": [20.0, 30, 40, 50], "color": ["red", "blue", "red", "blue"]})
    handler = dialect.load(save(make_pipeline(columns, LogisticRegression()).fit(frame, [1, 0, 1, 0])))
    assert handler.inputs == [{"name": name, "dtype": None, "dims": [-1]} for name in ("age", "color")]
    (reply,) = handler.call([Request(tensors={"age": np.array([20, 30]), "color": texts("red", "blue")})])
    assert reply.tensors is not None
    assert reply.tensors["predictions"].tolist() == [1, 0]
    with pytest.raises(HandlerError, match=r"wants the columns \['age', 'color'\]"):
        ask(handler, np.zeros((1, 3)))


# --- files and versions


@pytest.mark.parametrize(("outputs", "words"), [
    ("labels", "has outputs predictions, probabilities and the option outputs asks for 'labels'"),
    (",", "choose among those"),
    ("probabilities", r"LinearSVC\) has no predict_proba"),
])  # fmt: skip
def test_an_output_that_is_none_is_refused_at_load(save: Save, outputs: str, words: str) -> None:
    """Not at the first request."""
    with pytest.raises(HandlerError, match=words):
        dialect.load(save(LinearSVC().fit(ROWS, LABELS), outputs=outputs))


def test_another_version_is_said_once_with_what_to_do(save: Save, capfd: pytest.CaptureFixture[str]) -> None:
    """One line for a pipeline of three estimators, and no warning."""
    launch = save(make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, LABELS))
    file = Path(launch.folder) / launch.file
    here = __import__("sklearn").__version__.encode()
    file.write_bytes(file.read_bytes().replace(here, b"1.0.9"))
    dialect.load(launch)
    (line,) = capfd.readouterr().err.splitlines()
    assert "saved by scikit-learn 1.0.9" in line
    assert "pin scikit-learn==1.0.9 in requirements.txt and set WHARF_INSTALL_REQUIREMENTS=1" in line


def module_of_their_own(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Return a module with a class, importable until the test ends."""
    module = types.ModuleType("their_features")
    exec("class Trick:\n    def predict(self, rows):\n        return rows", vars(module))
    monkeypatch.setitem(sys.modules, "their_features", module)
    return module


def test_a_module_that_is_absent_is_named(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pip's name, and where to name it."""
    launch = save(module_of_their_own(monkeypatch).Trick(), "model.pkl")
    monkeypatch.delitem(sys.modules, "their_features")
    with pytest.raises(HandlerError, match=r"'their_features'.*requirements.txt.*WHARF_INSTALL_REQUIREMENTS=1"):
        dialect.load(launch)


def test_a_class_that_is_gone_is_named(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a training script are, which was `__main__` then."""
    module = module_of_their_own(monkeypatch)
    launch = save(module.Trick(), "model.pkl")
    del vars(module)["Trick"]
    with pytest.raises(HandlerError, match=r"Trick.*belongs into a module beside the model"):
        dialect.load(launch)


def test_a_module_that_scikit_learn_moved_is_a_question_of_versions(save: Save) -> None:
    """The library is there: installing it is no advice."""
    launch = save(None, "model.pkl")
    (Path(launch.folder) / "model.pkl").write_bytes(b"csklearn.ensemble.forest\nForest\n.")
    with pytest.raises(HandlerError, match=r"sklearn.ensemble.forest.*pin the version that saved it"):
        dialect.load(launch)


def test_an_object_without_predict_is_refused_with_its_type(save: Save) -> None:
    """A dict of parts is what people save by mistake."""
    with pytest.raises(HandlerError, match=r"holds a dict and something with predict\(\) was wanted"):
        dialect.load(save({"model": 1}))


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"{}", b"\x80\x04junk", b"hello"])
def test_a_broken_file_is_named(save: Save, content: bytes) -> None:
    """Whatever unpickling makes of it."""
    launch = save(None)
    (Path(launch.folder) / launch.file).write_bytes(content)
    with pytest.raises(HandlerError, match=r"'model.joblib' does not load .*joblib.dump"):
        dialect.load(launch)


def test_a_file_that_is_empty_or_not_there_is_named(tmp_path: Path) -> None:
    """Before it is opened."""
    (tmp_path / "empty.pkl").touch()
    for file, words in (("empty.pkl", "is empty"), ("none.pkl", "has no file 'none.pkl'"), ("", "has no file")):
        with pytest.raises(HandlerError, match=words):
            dialect.load(Launch("m", "sklearn", str(tmp_path), file))


def test_skops_files_load_when_their_types_are_trusted(tmp_path: Path) -> None:
    """scikit-learn's own are; others are listed, and pass once the option names them."""
    skops = pytest.importorskip("skops.io")
    skops.dump(LinearRegression().fit(ROWS, LABELS), tmp_path / "model.skops")
    assert dialect.load(Launch("m", "sklearn", str(tmp_path), "model.skops")).inputs
    skops.dump(types.SimpleNamespace(predict=len), tmp_path / "own.skops")
    with pytest.raises(HandlerError, match="types.SimpleNamespace"):
        dialect.load(Launch("m", "sklearn", str(tmp_path), "own.skops"))


def test_skops_that_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no part of scikit-learn."""
    monkeypatch.setitem(sys.modules, "skops", None)
    (tmp_path / "model.skops").write_bytes(b"PK")
    with pytest.raises(HandlerError, match="pip package skops"):
        dialect.load(Launch("m", "sklearn", str(tmp_path), "model.skops"))


def test_all_cores_become_the_threads_of_the_worker(save: Save) -> None:
    """n_jobs=-1 in the file would take the machine, a search's best estimator as well."""
    forest = RandomForestClassifier(2, n_jobs=-1, random_state=0)
    search = GridSearchCV(forest, {"max_depth": [2]}, cv=2).fit(ROWS, LABELS)
    dialect._bound_jobs(search, 3)
    assert (search.estimator.n_jobs, search.best_estimator_.n_jobs) == (3, 3)
    dialect._bound_jobs(forest.set_params(n_jobs=None), 3)
    assert forest.n_jobs is None
    assert dialect.load(save(search, threads=2))


@pytest.mark.parametrize("names", [(), ("a", "b")])
def test_a_request_without_or_with_several_arrays_is_a_400(save: Save, names: tuple[str, ...]) -> None:
    """The names that came are in the message."""
    handler = dialect.load(save(LinearRegression().fit(ROWS, LABELS)))
    with pytest.raises(HandlerError, match="wants one array of rows") as refusal:
        handler.call([Request(tensors=dict.fromkeys(names, ROWS))])
    assert refusal.value.status == 400
