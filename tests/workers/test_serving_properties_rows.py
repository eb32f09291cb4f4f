"""Each key of a serving.properties does what it says, is refused, or is named in the log: through a real server.

One row a key of DJL's table. How the text is read and what wins over what is `tests/unit/repository`'s; who handles a
folder is `test_djl_layout`'s.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.repository.properties_keys import _FOREIGN, _OPTIONS, _UNSERVED
from tests.people.apps import House
from tests.server import RunningServer
from tests.waiting import until

TELLER = """
import os, sys, time
from djl_python import Input, Output

warm = {}
ready = lambda path: os.path.exists(path)

def hold(path):
    open(path + str(os.getpid()), "w").close()
    while not os.path.exists(path):
        time.sleep(0.002)

def handle(inputs):
    if inputs.is_empty():
        warm.update(inputs.get_properties())
        return None
    out, size = Output(), inputs.get_batch_size()
    for index, item in enumerate(inputs.get_batches()):
        told = eval(item.get_as_string(), dict(globals(), size=size))
        out.add_as_json(told, batch_index=index if inputs.is_batch() else None)
    return out
"""
"""Answers with the value of the expression that it is sent."""

_names = (f"m{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server whose models come by POST /models; budget 2 GiB."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "models").mkdir()
    env = {"WHARF_PRELOAD": "numpy", "WHARF_MEMORY_BUDGET": "2GiB", "SAGEMAKER_MULTI_MODEL": "true"}
    with RunningServer(folder / "models", folder / "log", env) as running:
        yield running


class Model:
    """A model of the server."""

    def __init__(self, server: RunningServer, name: str) -> None:
        self.server = server
        self.name = name
        self.folder = server.root / name
        self.house = House(server)

    def load(self) -> httpx.Response:
        """POST /models."""
        return self.house.load(self.name)

    def post(self, expression: str) -> httpx.Response:
        """Have an expression evaluated."""
        path = f"/models/{self.name}/invoke"
        return self.house.client.post(path, content=expression, headers={"Content-Type": "text/plain"})

    def ask(self, expression: str) -> Any:
        """Return the value of an expression."""
        answer = self.post(expression)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def configuration(self) -> list[str]:
        """Return what the log says of its configuration."""
        start = f"event=configuration model={self.name} "
        return [each for each in self.server.log().splitlines() if start in each]

    def workers(self) -> int:
        """Count its processes."""
        return len(self.house.workers(self.name))


Make = Callable[..., Model]


@pytest.fixture
def make(server: RunningServer) -> Iterator[Make]:
    """Write models, `model.py` the teller unless given otherwise; unload them in the end."""
    made: list[Model] = []

    def write(text: str, **files: str) -> Model:
        model = Model(server, next(_names))
        model.folder.mkdir()
        files = {"serving_properties": text, "model_py": TELLER} | files
        for name, content in files.items():
            file = model.folder / ".".join(name.replace("__", "/").rsplit("_", 1))
            file.parent.mkdir(exist_ok=True)
            file.write_text(content)
        made.append(model)
        return model

    yield write
    for model in made:
        model.house.client.delete(f"/models/{model.name}")
        model.house.client.close()


@pytest.fixture
def loaded(make: Make) -> Make:
    """Write and load."""

    def load(text: str, **files: str) -> Model:
        model = make(text, **files)
        answer = model.load()
        assert answer.status_code == 200, answer.text
        return model

    return load


@pytest.fixture
def clients() -> Iterator[ThreadPoolExecutor]:
    """Some clients at once."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def begun(flag: Path) -> int:
    """Count the workers that hold until `flag` is there."""
    return len(list(flag.parent.glob(f"{flag.name}?*")))


# ---- the workload manager's ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["batch_size", "max_dynamic_batch_size"])
def test_batch_size_and_delay(loaded: Make, clients: ThreadPoolExecutor, key: str) -> None:
    """A full batch does not wait for its delay, which here nobody would live to see."""
    model = loaded(f"{key}=3\nmax_batch_delay=50000\nmaxWorkers=1")
    assert list(clients.map(model.ask, ["size"] * 3)) == [3, 3, 3]


def test_max_batch_delay(loaded: Make) -> None:
    """In milliseconds; so long a lone request waits for others."""
    model = loaded("batch_size=3\nmax_batch_delay=300")
    started = time.monotonic()
    assert model.ask("size") == 1
    assert time.monotonic() - started >= 0.3


def test_job_queue_size(loaded: Make, clients: ThreadPoolExecutor, tmp_path: Path) -> None:
    """One is with the worker and one waits; the others are 503 at once, with the number."""
    model, flag = loaded("job_queue_size=1\nmaxWorkers=1"), tmp_path / "go"
    held = clients.submit(model.post, f"hold({str(flag)!r})")
    until(lambda: begun(flag) == 1)
    more = [clients.submit(model.post, "1") for _ in range(4)]
    until(lambda: sum(each.done() for each in more) == 3)
    flag.touch()
    answers = [each.result() for each in more]
    assert sorted(each.status_code for each in answers) == [200, 503, 503, 503]
    (text,) = {each.json()["error"] for each in answers if each.status_code == 503}
    assert (text, held.result().status_code) == (
        f"Model '{model.name}' has 1 requests waiting, its limit: try again.",
        200,
    )


@pytest.mark.parametrize(
    ("text", "workers"),
    [
        ("minWorkers=2", 2),
        ("min_worker=2\nmax_worker=2", 2),
        ("minWorkers=1\ncpu.minWorkers=2", 2),
        ("minWorkers=2\ngpu.minWorkers=3", 2),
        ("minWorkers=0", 1),
        ("", 1),
    ],
)
def test_min_workers(loaded: Make, text: str, workers: int) -> None:
    """Are there once it is loaded; a GPU's are not meant here."""
    assert loaded(text).workers() == workers


@pytest.mark.parametrize("text", ["maxWorkers=2", "maxWorkers=1\ncpu.maxWorkers=2"])
def test_max_workers_and_idle_time(loaded: Make, clients: ThreadPoolExecutor, tmp_path: Path, text: str) -> None:
    """A second worker comes while many wait, never a third, and goes after a second without work."""
    model, flag = loaded(f"{text}\nmax_idle_time=1"), tmp_path / "go"
    held = [clients.submit(model.post, f"hold({str(flag)!r})") for _ in range(8)]
    until(lambda: begun(flag) == 2)
    assert model.workers() == 2
    flag.touch()
    assert {each.result().status_code for each in held} == {200}
    until(lambda: f"event=worker_idle model={model.name} " in model.server.log())
    assert model.workers() == 1


def test_a_least_above_the_most_is_refused(make: Make) -> None:
    """With both figures."""
    answer = make("minWorkers=3\nmaxWorkers=2").load()
    assert (answer.status_code, "minWorkers = 3 above maxWorkers = 2" in answer.text) == (400, True)


@pytest.mark.parametrize("value", ["*", "cpu", "-1", " CPU "])
def test_load_on_devices(loaded: Make, value: str) -> None:
    """On a machine without a GPU: the CPU, whatever it is called."""
    assert loaded(f"load_on_devices={value}").ask("warm['device_id']") == "-1"


@pytest.mark.parametrize(("value", "device"), [("0", "cuda:0"), ("gpu1", "cuda:1"), ("1;0", "cuda:1")])
def test_a_gpu_that_is_not_there_is_refused(make: Make, value: str, device: str) -> None:
    """In words, before a worker starts."""
    answer = make(f"load_on_devices={value}").load()
    assert answer.status_code == 400
    assert f"is to run on {device} and this machine shows no GPU: take load_on_devices" in answer.json()["error"]


@pytest.mark.parametrize(("limit", "deaths"), [("0", 1), ("1", 2)])
def test_retry_threshold(loaded: Make, limit: str, deaths: int) -> None:
    """So many deaths in a row are forgiven, to this model alone; the next one takes it away, with the reason."""
    model = loaded(f"retry_threshold={limit}")

    def die() -> bool:
        model.post("os._exit(3)")
        return model.house.client.get(f"/models/{model.name}").status_code == 404

    until(die)
    answer = model.post("1")
    assert answer.status_code == 404
    assert f"died {deaths} times without one answer, the last time: its worker exited with status 3" in answer.text
    assert model.house.client.get("/ping").status_code == 200


@pytest.mark.parametrize("key", ["required_memory_mb", "reserved_memory_mb"])
def test_memory_that_is_not_there(make: Make, loaded: Make, key: str) -> None:
    """507 before anything starts; of a GPU it is not asked on the CPU."""
    model = make(f"{key}=4000")
    answer = model.load()
    assert answer.status_code == 507
    assert "needs" in answer.json()["error"]
    assert "the whole budget is" in answer.json()["error"]
    assert (model.workers(), f"event=load_failed model={model.name}" in model.server.log()) == (0, True)
    assert loaded(f"gpu.{key}=4000\n{key}=100").ask("1") == 1


# ---- the launch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("option.entryPoint=serve.py", {"serve_py": TELLER, "model_py": "raise ImportError"}),
        ("option.entryPoint=parts/serve.py", {"parts__serve_py": TELLER, "model_py": "raise ImportError"}),
        ("option.entryPoint=parts.serve", {"parts__serve_py": TELLER, "model_py": "raise ImportError"}),
        ("option.handler=answer", {"model_py": TELLER.replace("def handle", "def answer")}),
    ],
)
def test_entry_point_and_handler(loaded: Make, text: str, files: dict[str, str]) -> None:
    """A file, a path, a module; a function of another name."""
    assert loaded(text, **files).ask("1 + 1") == 2


def test_python_executable(make: Make) -> None:
    """An environment in the model's folder."""
    ours = Path(sys.executable).resolve()
    model = make("option.pythonExecutable=env/bin/python", env__pyvenv_cfg=f"home = {ours.parent}\n")
    (model.folder / "env" / "bin").mkdir()
    (model.folder / "env" / "bin" / "python").symlink_to(ours)
    assert model.load().status_code == 200
    assert model.ask("sys.prefix") == str(model.folder / "env")


def test_variables(loaded: Make) -> None:
    """option.env."""
    assert loaded("option.env=A=1, B=x=y").ask("[os.environ['A'], os.environ['B']]") == ["1", "x=y"]


@pytest.mark.parametrize(
    "engine", ["Rubikon", "DeepSpeed", "MPI ", "FasterTransformer", "Python\noption.mpi_mode=true"]
)
def test_engines_of_groups(loaded: Make, engine: str) -> None:
    """A process a rank; the degree is an integer, as launchers have it. A blank behind the name does not matter."""
    model = loaded(f"engine={engine}\noption.tensor_parallel_degree=2")
    assert model.ask("[warm['tensor_parallel_degree'], os.environ['WORLD_SIZE'], warm['device_id']]") == [2, "2", "-1"]


def test_the_engine_python(loaded: Make) -> None:
    """One process, and a degree that the handler reads."""
    model = loaded("engine=Python\noption.tensor_parallel_degree=2\noption.parallel_loading=true")
    assert model.ask("[warm['tensor_parallel_degree'], os.environ.get('WORLD_SIZE')]") == [2, None]


def test_stages_of_a_pipeline_are_refused(make: Make) -> None:
    """By name."""
    answer = make("engine=MPI\noption.pipeline_parallel_degree=2").load()
    assert (answer.status_code, "pipeline_parallel_degree=2 wants stages" in answer.text) == (400, True)


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_predict_timeout(loaded: Make) -> None:
    """503 after a second, and a new worker."""
    model = loaded("option.predict_timeout=1")
    first = model.ask("os.getpid()")
    answer = model.post("time.sleep(50)")
    assert (answer.status_code, "did not answer" in answer.text) == (503, True)
    until(lambda: model.post("1").status_code == 200)
    assert model.ask("os.getpid()") != first


def test_model_loading_timeout(make: Make) -> None:
    """504 for the load, and no process is left."""
    model = make("option.model_loading_timeout=1", model_py="import time\ntime.sleep(50)\n" + TELLER)
    answer = model.load()
    assert (answer.status_code, model.workers()) == (504, 0)


def test_max_output_size(loaded: Make) -> None:
    """424 for a longer answer; the others are as ever."""
    model = loaded("option.max_output_size=1000")
    answer = model.post("'x' * 2000")
    assert (answer.status_code, "1000 are allowed" in answer.text) == (424, True)
    assert model.ask("'x' * 900") == "x" * 900


# ---- options and what has no effect ----------------------------------------------------------------------------------

_OUR_OWN = ("entryPoint", "handler", "pythonExecutable", "env", "engine", "mpi_mode", "pipeline_parallel_degree")
_NUMBERS = ("tensor_parallel_degree", "predict_timeout", "model_loading_timeout", "max_output_size")
PASSED = [each for each in _OPTIONS if each not in _OUR_OWN + _NUMBERS]


def test_every_option_reaches_the_handler(loaded: Make) -> None:
    """In its warm-up, without the prefix, and no word of it in the log: the handler may read it."""
    assert set(_FOREIGN) < set(PASSED)
    model = loaded("\n".join(f"option.{name}=of {name}" for name in PASSED))
    assert model.ask(f"[warm[name] for name in {PASSED}]") == [f"of {name}" for name in PASSED]
    assert model.configuration() == []


def test_the_old_name_of_the_model_is_its_id(loaded: Make) -> None:
    """option.s3url."""
    assert loaded("option.s3url=s3://b/k").ask("warm['model_id']") == "s3://b/k"


def test_every_key_without_effect_is_named_in_the_log(loaded: Make) -> None:
    """One line each, with what to do or why."""
    model = loaded("\n".join(f"{key}=1" for key in _UNSERVED))
    lines = model.configuration()
    for key, why in _UNSERVED.items():
        assert any(f"{key} = 1 has no effect: {why}." in each for each in lines), key
    assert len(lines) == len(_UNSERVED)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("option.max_rolling_batch_prefill_tokes", "option.max_rolling_batch_prefill_tokens"),
        ("option.batch_size", "batch_size"),
        ("dtype", "option.dtype"),
        ("maxworkers", "maxWorkers"),
        ("option.mine", None),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_one(loaded: Make, key: str, nearest: str | None) -> None:
    """It reaches the handler all the same."""
    model = loaded(f"{key}=7")
    assert model.ask(f"warm[{key.removeprefix('option.')!r}]") == "7"
    (line,) = (each for each in model.server.log().splitlines() if f"event=configuration model={model.name} " in each)
    assert f"serving.properties: {key} is not known" in line
    assert ("Did you mean" in line, nearest is None or f"Did you mean {nearest}?" in line) == (
        nearest is not None,
        True,
    )


# ---- engines of Java's -----------------------------------------------------------------------------------------------


def rows(model: Model) -> Any:
    """Send two rows of two."""
    answer = model.house.client.post(f"/models/{model.name}/invoke", json={"instances": [[2.0, 4.0], [0.0, 0.0]]})
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def lay(model: Model) -> Model:
    """Take the teller away."""
    (model.folder / "model.py").unlink()
    return model


def doubling() -> bytes:
    """Return an ONNX model."""
    onnx = pytest.importorskip("onnx")
    (x, y) = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 2]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


@pytest.mark.parametrize("text", ["engine=TensorFlow", "batch_size=1", "engine=TensorFlow\noption.modelName=net"])
def test_the_engine_tensorflow(make: Make, saved_models: Path, text: str) -> None:
    """A SavedModel, by name or without one."""
    model = lay(make(text))
    place = model.folder / "net" if "modelName" in text else model.folder
    shutil.copytree(saved_models / "half" / "1", place, dirs_exist_ok=True)
    assert model.load().status_code == 200
    assert rows(model) == [[2.0, 3.0], [1.0, 1.0]]


@pytest.mark.torch
@pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("text", ["engine=PyTorch", "engine=PyTorch\noption.modelName=net", "maxWorkers=1"])
def test_the_engine_pytorch(make: Make, text: str) -> None:
    """A TorchScript file, in process; what only workers have is named."""
    import torch

    model = lay(make(text))
    doubler = torch.nn.Linear(2, 2, bias=False)
    doubler.weight.data = 2 * torch.eye(2)
    torch.jit.script(doubler).save(str(model.folder / ("net.pt" if "modelName" in text else "model.pt")))
    assert model.load().status_code == 200
    assert rows(model) == [[4.0, 8.0], [0.0, 0.0]]
    is_named = (
        "serving.properties sets maxWorkers, which a model that is served in process has not" in model.server.log()
    )
    assert is_named == ("maxWorkers" in text)


@pytest.mark.parametrize("text", ["engine=OnnxRuntime", "batch_size=2\noption.predict_timeout=3"])
def test_the_engine_onnxruntime(make: Make, text: str) -> None:
    """An ONNX file, in process."""
    model = lay(make(text))
    (model.folder / "net.onnx").write_bytes(doubling())
    assert model.load().status_code == 200
    assert rows(model) == [[4.0, 8.0], [0.0, 0.0]]
    assert ["sets batch_size, option.predict_timeout, which" in each for each in model.configuration()] == (
        [True] if "batch_size" in text else []
    )


@pytest.mark.parametrize("key", ["required_memory_mb", "reserved_memory_mb"])
def test_memory_is_asked_for_without_workers_too(make: Make, key: str) -> None:
    """A file that is served in process is no exception."""
    model = lay(make(f"engine=OnnxRuntime\n{key}=4000"))
    (model.folder / "net.onnx").write_bytes(doubling())
    assert model.load().status_code == 507


@pytest.mark.parametrize("engine", ["TritonServer", "Rust", "Pyhton"])
def test_other_engines_are_refused(make: Make, engine: str) -> None:
    """With those that there are."""
    answer = make(f"engine={engine}").load()
    assert (answer.status_code, "TensorFlow" in answer.json()["error"]) == (400, True)
