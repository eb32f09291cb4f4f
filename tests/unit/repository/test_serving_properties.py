"""serving.properties: Java's syntax, and what wins over what."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidArtifactError
from serving.repository.properties_syntax import parse_properties
from serving.repository.serving_properties import Properties, read_properties


def read(text: str = "", **environ: str) -> Properties:
    return read_properties(text, environ)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("engine=Python", {"engine": "Python"}),
        ("engine = MPI \t", {"engine": "MPI"}),
        ("  a:b\r\nc : d\re f", {"a": "b", "c": "d", "e": "f"}),
        ("# a=1\n  ! b=2\n\nc=#3", {"c": "#3"}),
        ("a=1,\\\n    2,\\\r\n\t3\nb=4", {"a": "1,2,3", "b": "4"}),
        ("a=1\\\n# no comment", {"a": "1# no comment"}),
        ("a=1\\\\\nb=2", {"a": "1\\", "b": "2"}),
        ("a=last\\", {"a": "last"}),
        ("a\\=b\\:c\\ d=e", {"a=b:c d": "e"}),
        ("a=x\\ty\\nz\\u00e9\\q", {"a": "x\ty\nz\xe9q"}),
        ("a=b=c:d", {"a": "b=c:d"}),
        ("a", {"a": ""}),
        ("a=\nb=2", {"a": "", "b": "2"}),
        ("a=1\na=2", {"a": "2"}),
        ("\ufeffa=1", {"a": "1"}),
        ("=nameless", {}),
        ("", {}),
    ],
)
def test_the_syntax_is_javas(text: str, wanted: dict[str, str]) -> None:
    """Separators, comments, continuations and escapes; blanks at either side go."""
    assert parse_properties(text) == wanted


def test_an_unfinished_escape_is_named() -> None:
    """As Java's reader refuses it."""
    with pytest.raises(InvalidArtifactError, match="four hexadecimal digits"):
        parse_properties("a=\\u12")


@given(st.text(alphabet="a=:\\u0# \n\r\t!é", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing else escapes the parser."""
    try:
        found = parse_properties(text)
    except InvalidArtifactError:
        return
    assert all(key for key in found)


def test_an_empty_file_leaves_all_open() -> None:
    """What nothing says is the settings'."""
    found = read()
    assert found == Properties()
    assert (found.handler, found.batch_size, found.max_batch_delay_s, found.is_python) == ("handle", 1, 0.1, True)


def test_every_key_is_read() -> None:
    """One of each."""
    text = """
    engine=python
    batch_size=4
    max_batch_delay=250
    job_queue_size=20
    max_idle_time=30
    minWorkers=1
    maxWorkers=3
    load_on_devices=0;gpu1;cpu;-1
    required_memory_mb=1024
    reserved_memory_mb=2
    retry_threshold=5
    option.entryPoint=mine.py
    option.handler=answer
    option.pythonExecutable=/opt/py/bin/python
    option.env=A=1, B=x=y
    option.tensor_parallel_degree=2
    option.pipeline_parallel_degree=3
    option.predict_timeout=7
    option.model_loading_timeout=8
    option.max_output_size=9
    """
    found = read(text)
    assert (found.engine, found.is_group, found.is_python) == ("Python", False, True)
    assert (found.batch_size, found.max_batch_delay_s, found.queue_size, found.idle_s) == (4, 0.25, 20, 30)
    assert (found.min_workers, found.max_workers, found.retry_threshold) == (1, 3, 5)
    assert found.devices == ("cuda:0", "cuda:1", "cpu", "cpu")
    assert (found.memory_bytes, found.reserved_bytes) == (1 << 30, 2 << 20)
    assert (found.entry_point, found.handler, found.python) == ("mine.py", "answer", "/opt/py/bin/python")
    assert found.environ == {"A": "1", "B": "x=y"}
    assert (found.tensor_parallel, found.pipeline_parallel) == (2, 3)
    assert (found.predict_timeout_s, found.load_timeout_s, found.max_output_bytes) == (7, 8, 9)
    assert found.warnings == ()


def test_the_handler_gets_every_key_without_the_prefix() -> None:
    """Options and others."""
    found = read("engine=Python\nbatch_size=2\noption.model_id=gpt2\noption.mine=x", OPTION_DTYPE="fp16")
    assert found.options == {"engine": "Python", "batch_size": "2", "model_id": "gpt2", "mine": "x", "dtype": "fp16"}


@pytest.mark.parametrize(
    ("text", "engine", "is_group", "is_python"),
    [
        ("engine=Rubikon", "Rubikon", True, True),
        ("engine=MPI ", "MPI", True, True),
        ("engine=deepspeed", "DeepSpeed", True, True),
        ("engine=Python\noption.mpi_mode=true", "Python", True, True),
        ("engine=Python", "Python", False, True),
        ("engine=PyTorch", "PyTorch", False, False),
        ("engine=XGBoost", "XGBoost", False, False),
    ],
)
def test_engines_say_how_a_model_runs(text: str, engine: str, is_group: bool, is_python: bool) -> None:
    """In Python or not, one process or a group of ranks; a trailing blank does not matter."""
    found = read(text)
    assert (found.engine, found.is_group, found.is_python) == (engine, is_group, is_python)


@pytest.mark.parametrize(("device", "workers"), [("cpu", (2, 4)), ("gpu", (5, 7))])
def test_keys_of_the_device_win(device: Literal["cpu", "gpu"], workers: tuple[int, int]) -> None:
    """As in the seed's example of workers by device."""
    text = "cpu.minWorkers=2\ncpu.maxWorkers=4\nminWorkers=5\nmaxWorkers=6\ngpu.maxWorkers=7"
    found = read_properties(text, {}, device=device)
    assert (found.min_workers, found.max_workers) == workers


@pytest.mark.parametrize(
    ("text", "environ", "parameters", "batch_size"),
    [
        ("", {}, {}, 1),
        ("", {"SERVING_BATCH_SIZE": "2"}, {}, 2),
        ("batch_size=3", {"SERVING_BATCH_SIZE": "2"}, {}, 3),
        ("max_dynamic_batch_size=3", {"SERVING_BATCH_SIZE": "2"}, {}, 3),
        ("batch_size=3", {"SERVING_BATCH_SIZE": "2"}, {"batch_size": "4"}, 4),
    ],
)
def test_the_call_wins_over_the_file_over_the_server(
    text: str, environ: dict[str, str], parameters: dict[str, str], batch_size: int
) -> None:
    """For the server's own defaults."""
    assert read_properties(text, environ, parameters).batch_size == batch_size


def test_option_variables_only_fill_in() -> None:
    """The file wins; names in capitals are lower-cased, known ones get their camel case."""
    environ = {"OPTION_DTYPE": "fp16", "OPTION_TASK": "fill-mask", "OPTION_ENGINE": "MPI", "OPTION_myOwn": "x"}
    found = read_properties("option.task=text-generation", environ | {"OPTION_ENTRYPOINT": "a.py", "OPTION_EMPTY": ""})
    assert (found.engine, found.entry_point) == ("MPI", "a.py")
    wanted = {"task": "text-generation", "dtype": "fp16", "engine": "MPI", "myOwn": "x", "entryPoint": "a.py"}
    assert found.options == wanted
    assert read(OPTION_ENTRY_POINT="b.py").entry_point == "b.py"


@pytest.mark.parametrize(
    ("text", "environ", "degree"),
    [
        ("", {"TENSOR_PARALLEL_DEGREE": "2"}, 2),
        ("", {"TENSOR_PARALLEL_DEGREE": "2", "OPTION_TENSOR_PARALLEL_DEGREE": "3"}, 3),
        ("option.tensor_parallel_degree=4", {"TENSOR_PARALLEL_DEGREE": "2"}, 4),
        ("option.tensor_parallel_degree=max", {}, "max"),
        ("", {}, None),
    ],
)
def test_the_degree_of_parallelism_has_its_own_variable(text: str, environ: dict[str, str], degree: object) -> None:
    """The file, OPTION_, then the global one of the seed; the handler sees the same."""
    found = read_properties(text, environ)
    assert found.tensor_parallel == degree
    assert found.options.get("tensor_parallel_degree") == (None if degree is None else str(degree))


def test_sagemakers_variables_overwrite_the_file() -> None:
    """Workers, also those of a device, and both timeouts; the call still wins."""
    environ = {
        "SAGEMAKER_NUM_MODEL_WORKERS": "3",
        "SAGEMAKER_STARTUP_TIMEOUT": "600",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "30",
        "PREDICT_TIMEOUT": "1",
    }
    text = "cpu.minWorkers=1\nmaxWorkers=1\noption.model_loading_timeout=1\noption.predict_timeout=1"
    found = read_properties(text, environ)
    assert (found.min_workers, found.max_workers, found.load_timeout_s, found.predict_timeout_s) == (3, 3, 600, 30)
    assert read_properties(text, environ, {"min_worker": "2"}).min_workers == 2


def test_the_images_variables_are_defaults() -> None:
    """Of timeouts, entry point and workers."""
    found = read(MODEL_LOADING_TIMEOUT="1200", PREDICT_TIMEOUT="240", DJL_ENTRY_POINT="e.py", SERVING_MAX_WORKERS="5")
    assert (found.load_timeout_s, found.predict_timeout_s, found.entry_point, found.max_workers) == (
        1200,
        240,
        "e.py",
        5,
    )
    assert read("option.entryPoint=f.py", DJL_ENTRY_POINT="e.py").entry_point == "f.py"


def test_the_old_name_of_the_model_is_read() -> None:
    """option.s3url was model_id."""
    assert read("option.s3url=s3://b/k").options == {"model_id": "s3://b/k"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch_size=many", "batch_size = 'many' and wants a whole number from 1 to 999"),
        ("batch_size=1000", "batch_size = '1000' and wants"),
        ("batch_size=" + "9" * 5000, "wants a whole number"),
        ("max_batch_delay=-1", "max_batch_delay = '-1'"),
        ("engine=Pyhton", "engine = 'Pyhton' and wants one of Python, MPI"),
        ("load_on_devices=tpu", "load_on_devices = 'tpu'"),
        ("option.tensor_parallel_degree=0", "tensor_parallel_degree = '0'"),
        ("option.env=A", "option.env = 'A' and wants pairs as in A=1,B=2"),
        ("minWorkers=3\nmaxWorkers=2", "minWorkers = 3 above maxWorkers = 2"),
    ],
)
def test_wrong_values_are_refused_by_name(text: str, words: str) -> None:
    """Key, value found, value wanted."""
    with pytest.raises(InvalidArtifactError, match=words):
        read(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("option.max_rolling_batch_prefill_tokes=1", "Did you mean option.max_rolling_batch_prefill_tokens?"),
        ("option.batch_size=2", "Did you mean batch_size?"),
        ("model_id=gpt2", "Did you mean option.model_id?"),
        ("option.threshold=1", "option.threshold is not known: it only reaches the handler, as a property."),
        ("option.rolling_batch=vllm", "option.rolling_batch = vllm has no effect"),
        ("option.enable_lora=true", "merge them into the model"),
        ("translatorFactory=x", "it is for DJL's Java engines"),
    ],
)
def test_keys_without_effect_are_warned_about(text: str, words: str) -> None:
    """By name, with what to do instead; one line a key."""
    (line,) = read(text).warnings
    assert words in line


def test_a_feature_switched_off_needs_no_warning() -> None:
    """`disable` and `false` are what we do anyway; ARGS_ variables never have an effect."""
    assert read("option.rolling_batch=disable\noption.enable_venv=false").warnings == ()
    wanted = "The environment variable ARGS_WIDTH has no effect: it is for DJL's Java engines."
    assert read(ARGS_WIDTH="3").warnings == (wanted,)
