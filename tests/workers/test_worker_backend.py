"""The backend of models that need Python: predicted, loaded, measured, run and gone, over real workers."""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends.worker import WorkerBackend, WorkerModel, WorkerSettings, _specs
from serving.devices import Placement
from serving.errors import InvalidArtifactError, LoadFailedError, ModelFailedError
from serving.repository.handler_spec import HandlerSpec
from serving.repository.layouts import ModelSpec, describe
from serving.tensors import TensorSpec
from serving.workers.environments import Environments
from serving.workers.handler import Request
from tests.waiting import until
from tests.workers.processes import PYTHON, is_alive, launch_of, soon

MIB = 1 << 20
SETTINGS = WorkerSettings(cores=4, preload=("numpy", "sklearn"), max_workers=2, request_timeout_s=30)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerBackend]:
    """One backend, its zygote started, for most tests."""
    environments = Environments(tmp_path_factory.mktemp("environments"), may_install=False, timeout_s=60)
    made = WorkerBackend(SETTINGS, environments)
    assert made.prepare()
    assert not made.prepare()
    yield made
    made.close()


def script_spec(folder: Path, source: str = PYTHON, **handler: Any) -> ModelSpec:
    """What a model of the SageMaker dialect is."""
    launch = launch_of(folder, source)
    spec = HandlerSpec("sagemaker", folder, Path(launch.file), paths=(folder / "code",), **handler)
    return ModelSpec("m", "worker", Path(launch.file), 1000, handler=spec)


Load = Callable[..., WorkerModel]


@pytest.fixture
def load(backend: WorkerBackend, tmp_path: Path) -> Iterator[Load]:
    """Load models; those that a test leaves are closed."""
    models: list[WorkerModel] = []

    def loaded(source: str = PYTHON, **handler: Any) -> WorkerModel:
        models.append(backend.load(script_spec(tmp_path, source, **handler)))
        return models[-1]

    yield loaded
    for model in models:
        model.close()


def invoke(model: WorkerModel, body: str) -> bytes:
    return bytes(model.invoke(Request(body.encode()), soon()).body)


# ---- before ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "workers"), [({}, 1), ({"min_workers": 2}, 2), ({"min_workers": 2, "max_workers": 3}, 3)]
)
def test_on_a_device_there_is_room_for_all_workers_that_may_be(
    backend: WorkerBackend, tmp_path: Path, handler: dict[str, Any], workers: int
) -> None:
    """With a context each; the server's most is no reason to take it."""
    spec = replace(script_spec(tmp_path, **handler), device="cuda")
    found = backend.footprint(spec)
    assert found.device_peak_bytes == found.device_resident_bytes == workers * (512 * MIB + 1000)
    assert (found.devices, found.is_apart) == ((), True)
    assert backend.footprint(replace(spec, device="cuda:1")).devices == (1,)
    assert backend.footprint(replace(spec, device="cpu")).device_peak_bytes == 0


def test_each_device_of_a_group_has_room_for_one_rank(
    backend: WorkerBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context and its share of the files, on all that the groups may use."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,6,5,4,3")
    spec = replace(script_spec(tmp_path, tensor_parallel=2), device="cuda")
    found = backend.footprint(spec)
    assert spec.handler is not None
    assert found.device_peak_bytes == found.device_resident_bytes == 512 * MIB + 500
    assert (found.devices, found.is_apart) == ((0, 1, 2, 3), True)
    chosen = replace(spec, handler=replace(spec.handler, devices=(4, 0), tensor_parallel="max"))
    assert backend.footprint(chosen).devices == (4, 0)
    assert backend._device(chosen.placed(Placement((4, 0)))) == "cuda"


def test_a_worker_is_told_which_device_has_room(backend: WorkerBackend, tmp_path: Path) -> None:
    """By its number; on the CPU a placement says nothing."""
    spec = script_spec(tmp_path).placed(Placement((2,)))
    assert backend._device(replace(spec, device="cuda")) == "cuda:2"
    assert (backend._device(spec), backend._device(script_spec(tmp_path))) == ("cpu", "cpu")


@pytest.mark.parametrize(
    ("handler", "wanted_mib"),
    [
        ({}, 24 + 100),
        ({"min_workers": 3}, 3 * (24 + 100)),
        ({"python": Path("/usr/bin/python3")}, 150 + 100),
        ({"memory_bytes": 70 * MIB}, 70),
        ({"memory_bytes": 70 * MIB, "min_workers": 2}, 140),
        ({"tensor_parallel": 2}, 2 * (24 + 100)),
        ({"tensor_parallel": "max"}, 24 + 100),
        ({"tensor_parallel": 2, "min_workers": 2}, 4 * (24 + 100)),
        ({"tensor_parallel": 2, "memory_bytes": 70 * MIB}, 70),
        ({"tensor_parallel": 4, "dialect": "huggingface"}, 4 * (24 + 46) + 100),
    ],
)
def test_the_footprint_is_the_files_once_more_for_each_worker(
    backend: WorkerBackend, tmp_path: Path, handler: dict[str, Any], wanted_mib: int
) -> None:
    """Unless its configuration knows better; an interpreter of its own shares nothing. A group's is all its ranks'."""
    spec = script_spec(tmp_path)
    assert spec.handler is not None
    spec = replace(spec, bytes=100 * MIB, handler=replace(spec.handler, **handler))
    footprint = backend.footprint(spec)
    assert footprint.resident_bytes == footprint.peak_bytes == wanted_mib * MIB


def test_a_model_without_a_handler_is_none_of_ours(backend: WorkerBackend, tmp_path: Path) -> None:
    """The manager gave it to the wrong backend."""
    spec = replace(script_spec(tmp_path), handler=None)
    with pytest.raises(InvalidArtifactError, match="'m' names no handler"):
        backend.footprint(spec)
    with pytest.raises(InvalidArtifactError):
        backend.load(spec)


def test_the_zygote_is_the_runtimes_memory(backend: WorkerBackend) -> None:
    """What its imports cost once, for all."""
    assert backend.outside_bytes() > 5 * MIB


# ---- loaded ----------------------------------------------------------------------------------------------------------


def test_a_script_takes_bodies_and_leaves_its_signature_open(load: Load) -> None:
    """Its own code decodes."""
    model = load()
    assert (model.takes_bodies, model.is_outside) == (True, True)
    assert model.signature.inputs == (TensorSpec("x"),)
    assert invoke(model, "1 + 1") == b"2"


def test_what_it_holds_is_measured_and_comes_back(backend: WorkerBackend, load: Load) -> None:
    """Its private pages and its share; nothing once it is closed, and no process either."""
    model = load("weights = bytearray(b'x' * (50 << 20))" + PYTHON)
    (pid,) = (each.pids[0] for each in model._pool._live)
    assert 50 * MIB < model.held_bytes() < 120 * MIB
    assert backend.all_bytes() > 50 * MIB + backend.outside_bytes() // 2
    model.close()
    assert model.held_bytes() == 0
    assert not is_alive(pid)


def test_its_threads_are_its_share_of_the_cores(load: Load) -> None:
    """Of four cores two for each of at most two workers."""
    assert invoke(load(), "os.environ['OMP_NUM_THREADS']") == b'"2"'


def test_what_the_files_say_wins_over_the_settings(load: Load) -> None:
    """Workers, batches, times."""
    model = load(min_workers=3, max_workers=1, batch_size=4, max_batch_delay_s=0.01, idle_s=5.0, predict_timeout_s=7.0)
    plan = model._pool.plan
    assert (plan.min_workers, plan.max_workers, plan.launch.batch_size) == (3, 3, 4)
    assert (plan.max_batch_delay_s, plan.idle_s, plan.predict_timeout_s) == (0.01, 5.0, 7.0)
    assert (plan.queue_size, plan.load_timeout_s) == (SETTINGS.queue_size, SETTINGS.load_timeout_s)
    assert model._pool.workers == 3


def test_a_tensor_dialect_runs_on_tensors(backend: WorkerBackend, tmp_path: Path) -> None:
    """A scikit-learn file as it is: found by its folder, asked by name, answered by name."""
    linear = pytest.importorskip("sklearn.linear_model")
    rows = np.arange(8.0).reshape(4, 2)
    fitted = linear.LinearRegression().fit(rows, rows.sum(axis=1))
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(fitted))
    spec = describe("regression", tmp_path)
    model = backend.load(spec)
    try:
        assert not model.takes_bodies
        (wanted,) = model.signature.inputs
        assert wanted.dims == (-1, 2)
        outputs = model.run({wanted.name: rows})
        np.testing.assert_allclose(outputs[model.signature.outputs[0].name].ravel(), rows.sum(axis=1))
        large = np.ones((200_000, 2))
        assert model.run({wanted.name: large})[model.signature.outputs[0].name].shape[0] == 200_000
    finally:
        model.close()


def test_its_exception_is_424(load: Load) -> None:
    """With its last line."""
    with pytest.raises(ModelFailedError, match="ZeroDivisionError"):
        invoke(load(), "1 / 0")


def test_the_configurations_tensors_win_over_the_models(backend: WorkerBackend, tmp_path: Path) -> None:
    """As with every backend."""
    mine = (TensorSpec("rows", "FP32", (-1, 3)),)
    model = backend.load(replace(script_spec(tmp_path), inputs=mine, outputs=mine))
    assert (model.signature.inputs, model.signature.outputs) == (mine, mine)
    model.close()


@pytest.mark.parametrize(
    ("described", "wanted"),
    [
        (None, ()),
        ([{"name": "x", "dtype": "FP32", "dims": [-1, 2]}], (TensorSpec("x", "FP32", (-1, 2)),)),
        ([{"name": "x", "dtype": "FP99", "dims": "many"}], (TensorSpec("x"),)),
        ([{"name": "x"}, {"name": 7}, 8, {}], (TensorSpec("x"),)),
        ([{"name": "x", "dims": [1.5]}, {"name": "y", "dtype": ["FP32"]}], (TensorSpec("x"), TensorSpec("y"))),
        (7, ()),
        ("FP32", ()),
    ],
)
def test_what_a_worker_gets_wrong_of_its_tensors_is_left_open(described: Any, wanted: tuple[TensorSpec, ...]) -> None:
    """It may be anybody's code that answers there."""
    assert _specs(described) == wanted


# ---- failures --------------------------------------------------------------------------------------------------------


def _workers(backend: WorkerBackend) -> str:
    pid = backend._supervisor.zygote_pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


@pytest.mark.parametrize("source", ["1 / 0", "import sys; sys.exit(1)", "import os; os._exit(1)"])
def test_a_load_that_fails_leaves_no_process(backend: WorkerBackend, load: Load, source: str) -> None:
    """And no environment is held for it."""
    before = _workers(backend)
    with pytest.raises(LoadFailedError, match="Model 'm' failed to load"):
        load(source, min_workers=2)
    assert _workers(backend) == before


def test_a_worker_that_describes_itself_as_nonsense_leaves_no_process(backend: WorkerBackend, load: Load) -> None:
    """Whatever stands in its first word, it is loaded with an open signature or not at all."""
    source = (
        "from serving.workers.dialects import sagemaker\n"
        "sagemaker.SageMakerHandler.inputs = [{'name': 'x', 'dtype': {}, 'dims': ['many']}]\n" + PYTHON
    )
    assert invoke(load(source), "3") == b"3"


def test_an_environment_that_cannot_be_is_refused_before_anything_starts(backend: WorkerBackend, load: Load) -> None:
    """With the path."""
    before = _workers(backend)
    with pytest.raises((InvalidArtifactError, LoadFailedError)):
        load(python=Path("/nonexistent/python"))
    assert _workers(backend) == before


# ---- idle ones -------------------------------------------------------------------------------------------------------


class Generous:
    """An owner of memory who grants everything."""

    def __init__(self) -> None:
        self.bytes = 0
        self.shrank = threading.Event()

    def grow(self, count: int) -> bool:
        self.bytes += count
        if count < 0:
            self.shrank.set()
        return True

    def correct(self, count: int) -> None:
        pass

    def withdraw(self, reason: str) -> None:
        pass


def test_a_busy_model_grows_and_its_idle_workers_end_by_themselves(load: Load, tmp_path: Path) -> None:
    """Somebody looks at them once a second."""
    model = load("import os, time" + PYTHON, idle_s=0.01)
    host = Generous()
    model.attach(host)
    code = f"time.sleep(0.002)\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.002)"
    threads = [threading.Thread(target=invoke, args=(model, code)) for _ in range(6)]
    for thread in threads:
        thread.start()
    until(lambda: model._pool.workers == 2)
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join(20)
    assert host.shrank.wait(10)
    until(lambda: model._pool.workers == 1)
    assert host.bytes == 0


def test_closing_the_backend_ends_everything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Zygote, workers, janitor; what is closed once more is no error."""
    settings = replace(SETTINGS, preload=())
    backend = WorkerBackend(settings, Environments(tmp_path / "e", may_install=False, timeout_s=60))
    with caplog.at_level(logging.INFO, "wharf.workers"):
        model = backend.load(script_spec(tmp_path / "m"))
    assert "event=zygote_started" in caplog.text
    pids = [each.pids[0] for each in model._pool._live]
    backend.close()
    until(lambda: not any(map(is_alive, pids)))
    model.close()
