"""SavedModels and Keras files through the real backend: good, old and odd ones serve or are refused in words."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends.base import methods_of
from serving.backends.grouped import GroupedModel, GroupingBackend, UnboundModel
from serving.backends.tensorflow import TensorFlowBackend
from serving.backends.worker import WorkerModel, WorkerSettings
from serving.errors import BadRequestError, InvalidArtifactError, LoadFailedError, ServingError
from serving.outcomes import failure
from serving.repository.layouts import describe
from serving.tensors import Tensors, TensorSpec
from serving.workers.environments import Environments
from serving.workers.handler import Reply, Request
from tests.workers.processes import is_alive

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="no TensorFlow for this machine")

Model = WorkerModel | GroupedModel
Load = Callable[..., Model]


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TensorFlowBackend]:
    """One backend, with a zygote that has TensorFlow."""
    environments = Environments(tmp_path_factory.mktemp("environments"), may_install=False, timeout_s=60)
    made = TensorFlowBackend(WorkerSettings(cores=2, request_timeout_s=60), environments, os.environ)
    assert made.prepare()
    yield made
    made.close()


@pytest.fixture
def load(backend: TensorFlowBackend, saved_models: Path, tmp_path: Path) -> Iterator[Load]:
    """Load one of the models, with a wharf.toml or a config.pbtxt beside it; close it afterwards."""
    models: list[Model] = []

    def loaded(name: str, **texts: str) -> Model:
        folder = tmp_path / f"{name}{len(models)}"
        folder.mkdir()
        if texts.pop("place", "") or texts:
            _lay(folder, saved_models / name, texts)
        else:
            folder = saved_models / name
        found = GroupingBackend(backend).load(describe(name, folder))
        models.append(found)
        return found

    yield loaded
    for model in models:
        model.close()


def _lay(folder: Path, source: Path, texts: dict[str, str]) -> None:
    """Lay a SavedModel out as Triton's, with files beside."""
    (folder / "1").mkdir()
    (folder / "1/model.savedmodel").symlink_to(source / "1" if (source / "1").is_dir() else source)
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)


def ask(model: Model, name: str = "", **tensors: Any) -> Tensors:
    """Call a model's signature; raise what its reply says."""
    reply = call(model, name, **tensors)
    if reply.tensors is None:
        raise failure(reply)
    return reply.tensors


def call(model: Model, name: str = "", **tensors: Any) -> Reply:
    """Return the reply of a call."""
    about = {"parameters": {"signature_name": name}} if name else {}
    arrays = {key: np.asarray(value) for key, value in tensors.items()}
    return model.invoke(Request(tensors=arrays, about=about), time.monotonic() + 60)


def floats(*rows: list[float]) -> Any:
    """Rows of 32-bit floats."""
    return np.array(rows, np.float32)


def test_a_saved_model_says_what_it_takes_and_computes(load: Load) -> None:
    """The highest version's default signature; without TensorFlow in this process."""
    model = load("half")
    assert model.signature.inputs == (TensorSpec("x", "FP32", (-1, 2)),)
    assert model.signature.outputs == (TensorSpec("y", "FP32", (-1, 2)),)
    np.testing.assert_allclose(ask(model, x=floats([2, 4]))["y"], [[6, 9]])
    assert "tensorflow" not in sys.modules


def test_signatures_are_called_by_name(load: Load) -> None:
    """Each with its own inputs and outputs; one that is not there is the request's fault and lists what is."""
    model = load("half")
    methods = methods_of(model)
    assert sorted(methods) == ["serving_default", "total"]
    assert methods["total"].name == "tensorflow/serving/predict"
    assert [each.name for each in methods["total"].signature.outputs] == ["least", "sum"]
    found = ask(model, "total", x=floats([2, 4], [5, 1]))
    assert {name: each.tolist() for name, each in found.items()} == {"sum": [6, 6], "least": [2, 1]}
    with pytest.raises(ServingError, match=r"no signature 'classify', but \['serving_default', 'total'\]") as caught:
        ask(model, "classify", x=floats([2, 4]))
    assert caught.value.status == 400


def test_a_model_may_have_another_default(load: Load) -> None:
    """By wharf.toml or by Triton's parameter."""
    assert ask(load("half", wharf__toml='options = { signature = "total" }'), x=floats([2, 4]))["sum"] == [6]
    config = 'platform: "tensorflow_savedmodel" parameters { key: "TF_SIGNATURE_DEF" value { string_value: "total" } }'
    assert ask(load("half", config__pbtxt=config), x=floats([2, 4]))["sum"] == [6]


def test_several_inputs_and_a_dict_of_outputs(load: Load) -> None:
    """By name, whatever their order and type."""
    found = ask(load("pair"), right=np.array([2, 3]), left=floats([1, 2, 3], [1, 1, 1]))
    assert found["product"].tolist() == [[2, 4, 6], [3, 3, 3]]
    assert found["right_too"].tolist() == [2, 3]
    assert str(found["right_too"].dtype) == "int64"


def test_texts_are_bytes(load: Load) -> None:
    """In and out, of any length."""
    model = load("texts")
    assert model.signature.inputs[0].dtype == "BYTES"
    found = ask(model, words=np.array([b"ab", "\u00e9t\u00e9".encode(), b""], object))
    assert found["upper"].tolist() == [b"AB", "\u00e9T\u00e9".encode(), b""]
    assert found["length"].tolist() == [2, 5, 0]


def test_a_vocabulary_among_the_assets_is_there(load: Load) -> None:
    """Tables are filled before the first request."""
    assert ask(load("table"), word=np.array([b"two", b"ten"], object))["number"].tolist() == [2, -1]


def test_shapes_and_types_that_are_no_usual_ones(load: Load) -> None:
    """Fixed, none, unknown, and a type that numpy has not."""
    fixed, scalar, brain = load("fixed"), load("scalar"), load("bfloat16")
    assert fixed.signature.inputs[0].dims == (1, 2)
    assert ask(fixed, x=floats([1, 2]))["y"].tolist() == [[2, 3]]
    assert [each.dims for each in scalar.signature.inputs] == [(), None]
    assert ask(scalar, a=np.float32(2), b=floats([1, 2]))["y"].tolist() == [[2, 4]]
    assert brain.signature.inputs[0].dtype == "FP32"
    assert ask(brain, x=floats([1.5, 2]))["y"].tolist() == [[3, 4]]


def test_tensorflow_1s_models_are_served(load: Load) -> None:
    """The only signature is the default one, under its own name too."""
    model = load("tf1")
    assert [each.name for each in model.signature.inputs] == ["images"]
    assert ask(model, images=floats([1, 1]))["scores"].tolist() == [[2, 3]]
    assert ask(model, "predict_images", images=floats([1, 2]))["scores"].tolist() == [[2, 6]]
    assert ask(load("trained", wharf__toml='options = { tags = "train" }'), images=floats([1, 1]))["scores"].any()


def test_keras_files_are_served(load: Load) -> None:
    """Keras 3's and the old kind, with the names that the model has."""
    for name in ("keras_one", "keras_old"):
        assert next(iter(ask(load(name), **{load(name).signature.inputs[0].name: floats([1, 2])}).values())) == [[3]]
    dicts = load("keras_dicts")
    assert sorted(each.name for each in dicts.signature.inputs) == ["a", "b"]
    found = ask(dicts, a=floats([3, 4]), b=floats([1, 1]))
    assert {name: each.tolist() for name, each in found.items()} == {"sum": [[4, 5]], "difference": [[2, 3]]}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("custom_op", r"operations that TensorFlow \S+ does not know: MyFancyMul\."),
        ("in_python", r"calls Python inside its graph \(PyFunc\), which a SavedModel does not carry"),
        ("no_variables", r"has variables and its SavedModel no variables/variables\.index"),
        ("short_shard", "cannot be loaded: "),
        ("trained", r"graphs with the tags \[\['train'\]\] and \['serve'\] is wanted.*option tags"),
        ("tf1_bare", "has no signature to call"),
        ("nameless", r"signatures \['ask', 'tell'\] and no serving_default: name one \(option signature\)"),
        ("keras_lambda", "cannot be loaded by keras .*Lambda"),
        ("keras_cut", "cannot be loaded by keras"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_words(load: Load, name: str, words: str) -> None:
    """By the worker, with the next step, and the worker is gone."""
    with pytest.raises(LoadFailedError, match=words) as caught:
        load(name)
    assert caught.value.message.count("\n") == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("truncated", r"'saved_model\.pb' is no SavedModel, or cut short"),
        ("no_shard", r"lacks variables/variables\.data-00000-of-00001"),
        ("no_index", r"lacks variables/variables\.index"),
    ],
)
def test_what_is_not_whole_is_refused_before_any_worker(load: Load, name: str, words: str) -> None:
    """From the files alone."""
    with pytest.raises(InvalidArtifactError, match=words):
        load(name)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('input { name: "z" data_type: TYPE_FP32 dims: 2 }', r"has the input 'z' and the model's are \['x'\]"),
        ('output { name: "z" data_type: TYPE_FP32 dims: 2 }', r"has the output 'z' and the model's are \['y'\]"),
    ],
)
def test_a_configuration_of_other_tensors_is_refused(load: Load, config: str, words: str) -> None:
    """At the load, not at the first request."""
    with pytest.raises(LoadFailedError, match=words):
        load("half", config__pbtxt=f'platform: "tensorflow_savedmodel" max_batch_size: 4 {config}')


def test_a_signature_that_is_wanted_and_not_there_is_refused(load: Load) -> None:
    """With those that are."""
    with pytest.raises(LoadFailedError, match=r"has the signatures \['serving_default', 'total'\] and 'sum' is wanted"):
        load("half", wharf__toml='options = { signature = "sum" }')


def test_a_library_of_operations_that_is_none_is_refused(load: Load) -> None:
    """By its name."""
    with pytest.raises(LoadFailedError, match=r"The library 'libmine\.so' of model 'half' cannot be loaded: "):
        load("half", wharf__toml='options = { op_libraries = "libmine.so" }')


def test_an_operation_that_reaches_files_is_warned_about_by_name(saved_models: Path) -> None:
    """It is served: who made it may mean it."""
    folder = saved_models / "reads_files"
    code = f"""
from serving.workers.dialects.savedmodel import load
from serving.workers.handler import Launch
load(Launch("other", "savedmodel", {str(saved_models / "half/1")!r}, "saved_model.pb"))
print(load(Launch("m", "savedmodel", {str(folder)!r}, "saved_model.pb")).inputs)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[{'name': 'path', 'dtype': 'BYTES', 'dims': []}]"
    assert "Model 'm' has operations that reach files, the network or the log: ReadFile: serve it only" in done.stderr
    assert "'other'" not in done.stderr  # every SavedModel can save itself, and nobody can ask it to


def test_an_input_that_the_graph_refuses_is_the_requests_fault(load: Load) -> None:
    """With TensorFlow's first line; the worker goes on."""
    model = load("picky")
    with pytest.raises(BadRequestError, match=r"InvalidArgumentError: .*not in \[0, 3\)"):
        ask(model, index=np.array([7], np.int32))
    assert ask(model, index=np.array([2], np.int32))["y"] == [30]
    with pytest.raises(BadRequestError, match=r"has inputs \['x'\] and the signature wants \['index'\]"):
        ask(model, x=np.array([1], np.int32))


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls in threads; return results and errors in their order."""
    found: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        try:
            found[number] = calls[number]()
        except ServingError as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_requests_share_no_run_unless_asked(load: Load) -> None:
    """A free first dimension need not be a batch: here each answer depends on all numbers of its request."""
    for model in (load("center"), load("center", wharf__toml="batch_size = 1")):
        assert isinstance(model, WorkerModel)
        found = at_once(*(partial(ask, model, x=np.array([n, n + 2], np.float32)) for n in range(24)))
        assert [each["y"].tolist() for each in found] == [[-1, 1]] * 24


def test_a_batch_size_for_what_cannot_be_joined_is_refused(load: Load) -> None:
    """At the load, with the next step."""
    words = r"batch_size = 4 and not all tensors of its signature 'serving_default' .*: take batch_size away"
    with pytest.raises(LoadFailedError, match=words):
        load("fixed", wharf__toml="batch_size = 4")


def test_rows_of_many_requests_share_runs(load: Load) -> None:
    """Each gets its own back; larger ones than a batch are taken too, and other signatures go by themselves."""
    model = load("half", wharf__toml="batch_size = 8")
    assert isinstance(model, UnboundModel)
    calls = [partial(ask, model, x=floats([n, n])) for n in range(40)]
    calls += [partial(ask, model, "total", x=floats([1, 2])), partial(ask, model, x=np.ones((100, 2), np.float32))]
    *found, total, large = at_once(*calls)
    assert [each["y"].tolist() for each in found] == [[[n / 2 + 1] * 2] for n in range(40)]
    assert (total["sum"].tolist(), large["y"].shape) == ([3], (100, 2))


def test_one_bad_request_does_not_fail_those_that_it_shares_a_run_with(load: Load) -> None:
    """It alone gets the error."""
    model = load("picky", wharf__toml="batch_size = 8")
    found = at_once(*(partial(ask, model, index=np.array([n % 4], np.int32)) for n in range(24)))
    for number, each in enumerate(found):
        if number % 4 == 3:
            assert isinstance(each, BadRequestError)
        else:
            assert each["y"].tolist() == [(number % 4 + 1) * 10]


def test_a_config_pbtxt_rules_its_batches(load: Load) -> None:
    """Its largest batch is one, and what does not join is left alone."""
    inputs = 'platform: "tensorflow_savedmodel" input { name: "x" data_type: TYPE_FP32 dims: 2 }'
    model = load("half", config__pbtxt=inputs + "max_batch_size: 4 dynamic_batching { }")
    assert isinstance(model, GroupedModel)
    assert not isinstance(model, UnboundModel)
    with pytest.raises(BadRequestError, match="batch-size must be <= 4"):
        ask(model, x=np.ones((5, 2), np.float32))
    assert isinstance(load("half", config__pbtxt=inputs + "max_batch_size: 4"), WorkerModel)
    assert isinstance(load("fixed"), WorkerModel)
    assert isinstance(load("scalar"), WorkerModel)


def test_instances_of_a_group_are_workers(load: Load) -> None:
    """As many as it asks for, and the cores are shared among them."""
    config = 'platform: "tensorflow_savedmodel" instance_group { count: 2 kind: KIND_CPU }'
    model = load("half", config__pbtxt=config)
    assert isinstance(model, WorkerModel)
    assert model._pool.workers == 2
    assert model._pool.plan.launch.threads == 1
    assert load("pair")._pool.plan.launch.threads == 2  # type: ignore[union-attr]


def test_an_unload_gives_all_of_it_back(load: Load, backend: TensorFlowBackend) -> None:
    """The process is gone, and what all processes hold is as before."""
    before = backend.all_bytes()
    model = load("half")
    pids = [each.process.pid for each in model._pool._live]  # type: ignore[union-attr]
    ask(model, x=floats([1, 2]))
    held = model.held_bytes() or 0
    assert 4 << 20 < held < 120 << 20
    model.close()
    assert not any(is_alive(pid) for pid in pids)
    assert abs(backend.all_bytes() - before) < max(held // 10, 8 << 20)


def test_the_zygote_has_one_thread_and_ran_nothing(backend: TensorFlowBackend) -> None:
    """Else its workers could not be forked."""
    pid = backend._supervisor.zygote_pid
    assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
    assert {"tensorflow", "numpy"} <= backend._supervisor.modules
    assert "torch" not in backend._supervisor.modules


def test_the_prediction_covers_what_a_model_holds(
    saved_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not by far; in a process that nothing but its model weighs on."""
    for name in [each for each in os.environ if each.startswith("COV")]:
        monkeypatch.delenv(name)  # what measures coverage holds 14 MiB in each worker
    environments = Environments(tmp_path / "environments", may_install=False, timeout_s=60)
    backend = TensorFlowBackend(WorkerSettings(cores=2), environments, os.environ)
    backend.prepare()
    try:
        spec = describe("pair", saved_models / "pair")
        predicted, held = backend.footprint(spec).resident_bytes, backend.load(spec).held_bytes()
    finally:
        backend.close()
    assert held < predicted < 4 * held
