"""DJL's models are found by serving.properties or by their model.py, and served by the engine that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import InvalidArtifactError
from serving.repository.layouts import describe
from serving.repository.memory_wish import MemoryWish
from serving.repository.surroundings import Surroundings
from tests.unit.repository.test_saved_model_layout import saved
from tests.unit.repository.written import DJL, handled, worker, write


def properties(folder: Path, *names: str, text: str = "engine=Python", **texts: str) -> Path:
    return write(folder, *names, serving_properties=text, **texts)


@pytest.mark.parametrize(
    "text", [DJL, "def handle(inputs):\n    return None\n", "from djl_python import *\n", "import djl_python.inputs\n"]
)
def test_a_model_py_in_djls_manner_is_enough(tmp_path: Path, text: str) -> None:
    """Beside a model that it loads, too."""
    folder = write(tmp_path / "m", "model.pt", "lib/x.py", "requirements.txt", model_py=text)
    handler = handled(folder)
    assert (handler.dialect, handler.file) == ("djl", folder / "model.py")
    assert handler.paths == (folder, folder / "lib")
    assert handler.requirements == folder / "requirements.txt"


def test_the_properties_reach_the_worker(tmp_path: Path) -> None:
    """Options to the handler, figures to the pool."""
    text = """
    engine = Python
    batch_size = 4
    max_batch_delay = 50
    minWorkers = 1
    maxWorkers = 3
    job_queue_size = 9
    required_memory_mb = 2
    retry_threshold = 1
    option.model_id = gpt2
    option.predict_timeout = 7
    option.env = A=1,B=2
    option.handler = answer
    """
    spec, handler = worker(properties(tmp_path / "m", text=text, model_py="def answer(inputs): ..."))
    assert (handler.batch_size, handler.max_batch_delay_s, handler.queue_size) == (4, 0.05, 9)
    assert (handler.min_workers, handler.max_workers, handler.predict_timeout_s) == (1, 3, 7)
    assert (handler.memory_bytes, handler.environ) == (2 << 20, {"A": "1", "B": "2"})
    assert (handler.options["model_id"], handler.options["handler"]) == ("gpt2", "answer")
    assert spec.sources == ("serving.properties", "model.py")
    assert (handler.max_deaths, spec.warnings) == (2, ())


@pytest.mark.parametrize(
    ("name", "entry", "found"),
    [
        ("m", "run.py", "run.py"),
        ("m", "pkg/serve.py", "pkg/serve.py"),
        ("m", "pkg.serve", "pkg/serve.py"),
        ("m", "pkg", "pkg/__init__.py"),
        ("m", "/opt/ml/model/run.py", "run.py"),
        ("m", "", "model.py"),
        ("team/gpt.tar.gz", "", "gpt.py"),
        ("gpt", "", "gpt.py"),
        ("gpt", "run.py", "run.py"),
    ],
)
def test_the_entry_point_is_named_or_found(tmp_path: Path, name: str, entry: str, found: str) -> None:
    """option.entryPoint, a file of the model's name, model.py."""
    names = ["run.py", "pkg/serve.py", "pkg/__init__.py", "gpt.py", "model.py"]
    text = f"option.entryPoint={entry}" if entry else "engine=Python"
    handler = handled(properties(tmp_path / "m", *names, text=text), name=name)
    assert handler.file == tmp_path / "m" / found
    assert "entryPoint" not in handler.options


@pytest.mark.parametrize("variable", ["DJL_ENTRY_POINT", "OPTION_ENTRYPOINT"])
def test_the_environment_names_the_entry_point(tmp_path: Path, variable: str) -> None:
    """Unless the file does."""
    folder = properties(tmp_path / "m", "run.py", "other.py", "model.py")
    assert handled(folder, {variable: "run.py"}).file == folder / "run.py"
    properties(folder, text="option.entryPoint=other.py")
    assert handled(folder, {variable: "run.py"}).file == folder / "other.py"


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("gone.py", "not there"),
        ("../out.py", "outside its folder"),
        ("/etc/passwd.py", "outside its folder"),
        ("https://example.com/model.py", "not downloaded"),
        ("djl_python.tensorrt_llm", "neither a file of the folder nor built in"),
    ],
)
def test_an_entry_point_that_is_none_is_refused(tmp_path: Path, entry: str, fault: str) -> None:
    """Missing, elsewhere, or a handler that we do not have."""
    write(tmp_path, "out.py")
    with pytest.raises(InvalidArtifactError, match=fault):
        handled(properties(tmp_path / "m", "model.py", text=f"option.entryPoint={entry}"))


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("option.entryPoint=djl_python.huggingface", ["model.py"]),
        ("option.model_id=gpt2", []),
        ("engine=Python\noption.model_id=gpt2", ["model.py"]),
        ("engine=Python", ["config.json", "model.safetensors"]),
        ("engine=DeepSpeed", ["config.json"]),
    ],
)
def test_the_built_in_handler_serves_what_has_no_function(tmp_path: Path, text: str, files: list[str]) -> None:
    """A model of the hub or a folder in its manner, also beside a model.py that defines none."""
    handler = handled(properties(tmp_path / "m", *files, text=text))
    assert (handler.dialect, handler.file) == ("djl", None)
    assert handler.options["entryPoint"] == "djl_python.huggingface"


@pytest.mark.parametrize(
    "text",
    [
        "@prediction_handler\ndef run(inputs): ...",
        "def model_fn(folder): ...",
        "from service import *",
        "handle = 1",
        "if True:\n    def handle(inputs): ...",
    ],
)
def test_a_model_py_that_answers_goes_before_the_built_in(tmp_path: Path, text: str) -> None:
    """In any manner that DJL's newer images know."""
    folder = properties(tmp_path / "m", "config.json", model_py=text)
    assert handled(folder).file == folder / "model.py"


@pytest.mark.parametrize("engine", ["Rubikon", "DeepSpeed", "MPI", "Python\noption.mpi_mode=true"])
@pytest.mark.parametrize(("key", "degree"), [("=2", 2), ("=max", "max"), ("", "max")])
def test_the_engines_of_groups_make_ranks(tmp_path: Path, engine: str, key: str, degree: object) -> None:
    """Whatever their number; without one as many as there are devices."""
    text = f"engine={engine}" + (f"\noption.tensor_parallel_degree{key}" if key else "")
    assert handled(properties(tmp_path / "m", text=text, model_py=DJL)).tensor_parallel == degree


def test_the_stages_of_a_pipeline_are_refused_by_name(tmp_path: Path) -> None:
    """A group splits tensors, not layers."""
    text = "engine=MPI\noption.pipeline_parallel_degree=2"
    with pytest.raises(InvalidArtifactError, match="pipeline_parallel_degree=2 wants stages"):
        handled(properties(tmp_path / "m", text=text, model_py=DJL))


def test_a_degree_of_the_environment_counts(tmp_path: Path) -> None:
    """TENSOR_PARALLEL_DEGREE is for all models; engine Python takes it as a property."""
    folder = properties(tmp_path / "m", text="engine=DeepSpeed", model_py=DJL)
    assert handled(folder, {"TENSOR_PARALLEL_DEGREE": "4"}).tensor_parallel == 4
    properties(folder, text="engine=Python\noption.tensor_parallel_degree=4")
    found = handled(folder)
    assert (found.options["tensor_parallel_degree"], found.tensor_parallel) == ("4", None)


@pytest.mark.parametrize("entry", ["djl_python.huggingface", "djl_python.deepspeed"])
def test_the_built_in_handlers_have_ranks_under_any_engine(tmp_path: Path, entry: str) -> None:
    """Its degree is no property that somebody's code reads."""
    text = f"engine=Python\noption.entryPoint={entry}\noption.tensor_parallel_degree=2"
    handler = handled(properties(tmp_path / "m", "config.json", text=text))
    assert (handler.tensor_parallel, handler.options["entryPoint"]) == (2, entry)


def test_devices_of_a_group_are_those_that_it_names(tmp_path: Path) -> None:
    """By their numbers, in its order; that is nothing to warn about."""
    text = "engine=MPI\nload_on_devices=3;gpu1"
    spec = describe("m", properties(tmp_path / "m", text=text, model_py=DJL))
    assert spec.handler is not None
    assert (spec.handler.devices, spec.device) == ((3, 1), "cuda")
    assert not any("load_on_devices" in each for each in spec.warnings)
    assert handled(properties(tmp_path / "all", text="engine=MPI", model_py=DJL)).devices == ()


def test_a_group_of_a_model_that_is_served_in_process_is_warned_about(tmp_path: Path) -> None:
    """It has no workers that could be ranks."""
    spec = describe("m", properties(tmp_path / "m", "net.pt", text="engine=PyTorch\noption.tensor_parallel_degree=2"))
    assert any("group of ranks" in each for each in spec.warnings)


@pytest.mark.parametrize(
    ("text", "names", "file", "format_"),
    [
        ("engine=PyTorch", ["net.pt", "net.onnx", "model.py"], "net.pt", "torchscript"),
        ("engine=OnnxRuntime", ["net.pt", "net.onnx"], "net.onnx", "onnx"),
        ("engine=OnnxRuntime", ["1/net.onnx", "2/net.onnx"], "2/net.onnx", "onnx"),
        ("engine=PyTorch\noption.modelName=b", ["a.pt", "b.pt"], "b.pt", "torchscript"),
        ("engine=PyTorch", ["model.pt", "b.pt"], "model.pt", "torchscript"),
        ("batch_size=1", ["net.onnx"], "net.onnx", "onnx"),
        ("batch_size=1", ["1/net.onnx"], "1/net.onnx", "onnx"),
        ("batch_size=1", ["net.pt", "net.onnx", "net.pkl"], "net.pt", "torchscript"),
    ],
)
def test_javas_engines_are_served_as_their_file(
    tmp_path: Path, text: str, names: list[str], file: str, format_: str
) -> None:
    """In process: what they ran is what we run."""
    spec = describe("m", properties(tmp_path, *names, text=text))
    assert (spec.handler, spec.format, spec.file) == (None, format_, tmp_path / file)
    assert spec.sources[0] == "serving.properties"


@pytest.mark.parametrize(
    ("text", "place", "found"),
    [
        ("engine=TensorFlow", ".", "."),
        ("engine=TensorFlow", "1", "1"),
        ("engine=TensorFlow\noption.modelName=resnet", "resnet", "resnet"),
        ("batch_size=4", ".", "."),
    ],
)
def test_tensorflows_engine_serves_a_saved_model(tmp_path: Path, text: str, place: str, found: str) -> None:
    """Named or told by its file, with the figures of workers; beside an .onnx too, as DJL's order has it."""
    folder = saved(properties(tmp_path / "m", "net.onnx", text=text + "\nmaxWorkers=3\nmax_batch_delay=5"), place)
    handler = handled(folder)
    assert (handler.dialect, handler.file) == ("savedmodel", (folder / found / "saved_model.pb").resolve())
    assert (handler.min_workers, handler.max_workers, handler.max_batch_delay_s) == (1, 3, 0.005)


@pytest.mark.parametrize(
    ("on", "server", "config", "device", "workers"),
    [
        ("*", "cpu", "", None, 2),
        ("*", "cuda", "", None, 3),
        ("cpu", "cuda", "", "cpu", 2),
        ("1", "cpu", "", "cuda:1", 3),
        ("-1", "cpu", 'device = "cuda"', "cuda", 3),
    ],
)
def test_keys_of_a_device_are_those_where_it_runs(
    tmp_path: Path, *, on: str, server: str, config: str, device: str | None, workers: int
) -> None:
    """wharf.toml's device, the file's own, or the server's."""
    text = f"load_on_devices={on}\ncpu.minWorkers=2\ngpu.minWorkers=3\nmaxWorkers=9"
    folder = properties(tmp_path / "m", text=text, model_py=DJL, wharf_toml=config)
    spec = describe("m", folder, surroundings=Surroundings(device=server))
    assert spec.handler is not None
    assert (spec.device, spec.handler.min_workers) == (device, workers)


def test_memory_is_wished_for_with_or_without_workers(tmp_path: Path) -> None:
    """A handler's own figure of the host is its prediction, which wharf.toml may correct; all else is the load's."""
    text = "required_memory_mb=3\nreserved_memory_mb=4\ngpu.required_memory_mb=5"
    spec, handler = worker(properties(tmp_path / "m", text=text, model_py=DJL))
    assert (handler.memory_bytes, spec.wish) == (3 << 20, MemoryWish(0, 4 << 20, 5 << 20, 4 << 20))
    spec = describe("m", properties(tmp_path / "n", "net.pt", text=text))
    assert (spec.wish, spec.warnings) == (MemoryWish(3 << 20, 4 << 20, 5 << 20, 4 << 20), ())


def test_options_that_the_built_in_handler_does_not_read_are_warned_about(tmp_path: Path) -> None:
    """Somebody's own handler may read them."""
    text = "option.model_id=gpt2\noption.device_map=auto\noption.quantize=false\noption.dtype=fp16"
    folder = properties(tmp_path / "m", text=text)
    (line,) = describe("m", folder).warnings
    assert "option.device_map = auto has no effect: the built-in handler does not read it" in line
    write(folder, model_py=DJL)
    assert describe("m", folder).warnings == ()


def test_figures_of_workers_are_idle_in_process(tmp_path: Path) -> None:
    """And said so."""
    spec = describe("m", properties(tmp_path, "net.pt", text="engine=PyTorch\nminWorkers=2\nload_on_devices=0;1"))
    assert spec.device == "cuda:0"
    assert any("minWorkers, which a model that is served in process has not" in each for each in spec.warnings)
    assert any("load_on_devices only cuda:0" in each for each in spec.warnings)


@pytest.mark.parametrize(
    ("text", "name", "dialect"),
    [
        ("engine=XGBoost", "model.json", "trees"),
        ("engine=Python\nbatch_size=3", "model.joblib", "sklearn"),
        ("batch_size=3", "model.pkl", "sklearn"),
    ],
)
def test_plain_files_have_their_built_in_handlers(tmp_path: Path, text: str, name: str, dialect: str) -> None:
    """With the figures of the file."""
    handler = handled(properties(tmp_path / "m", name, text=text))
    assert (handler.dialect, handler.file) == (dialect, tmp_path / "m" / name)
    assert handler.batch_size == (3 if "batch" in text else 1)


@pytest.mark.parametrize(
    ("text", "names", "fault"),
    [
        ("engine=PyTorch", ["a.pt", "b.pt"], r"found are a\.pt, b\.pt"),
        ("engine=OnnxRuntime", ["a.pt"], "found are none"),
        ("engine=TensorFlow", ["model.onnx"], "has no saved_model.pb"),
        ("engine=TritonServer", ["model.py"], "asks for the engine TritonServer"),
        ("engine=Rust", ["model.py"], "asks for the engine Rust"),
        ("engine=XGBoost", ["model.pt"], "configured as trees"),
        ("engine=Python", ["notes.txt"], r"has no model\.py"),
        ("engine=Foo", ["model.py"], "engine"),
        ("batch_size=x", ["model.py"], "batch_size"),
    ],
)
def test_what_is_not_there_or_not_served_is_refused(tmp_path: Path, text: str, names: list[str], fault: str) -> None:
    """By its name, with what is served."""
    with pytest.raises(InvalidArtifactError, match=fault):
        describe("m", properties(tmp_path, *names, text=text))


@pytest.mark.parametrize("value", ["python3", ""])
def test_a_bare_name_of_an_interpreter_is_ours(tmp_path: Path, value: str) -> None:
    """As DJL's examples write it."""
    assert handled(properties(tmp_path / "m", text=f"option.pythonExecutable={value}", model_py=DJL)).python is None


def test_an_interpreter_is_a_path_inside(tmp_path: Path) -> None:
    """An environment's own link to the machine's Python is none that leads outside."""
    folder = properties(tmp_path / "m", "env/pyvenv.cfg", text="option.pythonExecutable=env/bin/python", model_py=DJL)
    (folder / "env" / "bin").mkdir()
    with pytest.raises(InvalidArtifactError, match="'python' is not there"):
        handled(folder)
    (folder / "env" / "bin" / "python").symlink_to("/bin/sh")
    assert handled(folder).python == folder / "env" / "bin" / "python"
    properties(folder, text="option.pythonExecutable=/bin/sh")
    with pytest.raises(InvalidArtifactError, match="leads outside"):
        handled(folder)
