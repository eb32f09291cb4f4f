"""serving.properties: Java's syntax, and what wins over what."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidArtifactError
from serving.repository.memory_wish import MemoryWish
from serving.repository.properties_keys import _UNSERVED
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
    assert (found.min_workers, found.max_workers, found.max_deaths) == (1, 3, 6)
    assert found.devices == ("cuda:0", "cuda:1", "cpu", "cpu")
    assert found.wish == MemoryWish(1 << 30, 2 << 20, 1 << 30, 2 << 20)
    assert (found.entry_point, found.handler, found.python) == ("mine.py", "answer", "/opt/py/bin/python")
    assert found.environ == {"A": "1", "B": "x=y"}
    assert (found.tensor_parallel, found.pipeline_parallel) == (2, 3)
    assert (found.predict_timeout_s, found.load_timeout_s, found.max_reply_bytes) == (7, 8, 9)
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


def test_option_variables_only_fill_in() -> None:
    """The file wins; names in capitals are lower-cased, known ones get their camel case."""
    environ = {"OPTION_DTYPE": "fp16", "OPTION_TASK": "fill-mask", "OPTION_ENGINE": "MPI", "OPTION_myOwn": "x"}
    found = read_properties("option.task=text-generation", environ | {"OPTION_ENTRYPOINT": "a.py", "OPTION_EMPTY": ""})
    assert (found.engine, found.entry_point) == ("MPI", "a.py")
    wanted = {"task": "text-generation", "dtype": "fp16", "engine": "MPI", "myOwn": "x", "entryPoint": "a.py"}
    assert found.options == wanted
    assert read(OPTION_ENTRY_POINT="b.py").entry_point == "b.py"


LADDERS = {
    "batch_size": "SERVING_BATCH_SIZE batch_size",
    "max_batch_delay_s": "SERVING_MAX_BATCH_DELAY max_batch_delay",
    "queue_size": "SERVING_JOB_QUEUE_SIZE job_queue_size",
    "idle_s": "SERVING_MAX_IDLE_TIME max_idle_time",
    "wish": "SERVING_RESERVED_MEMORY_MB reserved_memory_mb",
    "max_deaths": "SERVING_RETRY_THRESHOLD retry_threshold",
    "min_workers": "SERVING_MIN_WORKERS minWorkers cpu.minWorkers SAGEMAKER_NUM_MODEL_WORKERS",
    "max_workers": "SERVING_MAX_WORKERS maxWorkers cpu.maxWorkers SAGEMAKER_NUM_MODEL_WORKERS",
    "predict_timeout_s": "PREDICT_TIMEOUT OPTION_PREDICT_TIMEOUT option.predict_timeout "
    "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS",
    "load_timeout_s": "MODEL_LOADING_TIMEOUT OPTION_MODEL_LOADING_TIMEOUT option.model_loading_timeout "
    "SAGEMAKER_STARTUP_TIMEOUT",
    "tensor_parallel": "TENSOR_PARALLEL_DEGREE OPTION_TENSOR_PARALLEL_DEGREE option.tensor_parallel_degree",
    "entry_point": "DJL_ENTRY_POINT OPTION_ENTRYPOINT option.entryPoint",
    "engine": "OPTION_ENGINE engine",
    "handler": "OPTION_HANDLER option.handler",
    "environ": "OPTION_ENV option.env",
    "python": "OPTION_PYTHONEXECUTABLE option.pythonExecutable",
    "max_reply_bytes": "OPTION_MAX_OUTPUT_SIZE option.max_output_size",
}
"""What may set a field, the weakest first; capitals are variables."""

VALUES = {
    "engine": ["DeepSpeed", "MPI"],
    "entry_point": ["a.py", "b.py", "c.py"],
    "handler": ["one", "two"],
    "environ": ["A=1", "A=2"],
    "python": ["env1/bin/python", "env2/bin/python"],
}


@pytest.mark.parametrize("field", LADDERS)
def test_the_stronger_word_wins(field: str) -> None:
    """Server's defaults, the model's variables, the file, a device's own key, SageMaker's variables."""
    names = LADDERS[field].split()
    environ: dict[str, str] = {}
    file: list[str] = []
    for name, value in zip(names, VALUES.get(field, ["2", "3", "4", "5"]), strict=False):
        if name.isupper():
            environ[name] = value
        else:
            file.append(f"{name}={value}")
        alone = read(**{name: value}) if name.isupper() else read(f"{name}={value}")
        assert getattr(read_properties("\n".join(file), environ), field) == getattr(alone, field)
        assert getattr(alone, field) != getattr(Properties(), field)


def test_a_degree_reaches_the_handler_wherever_it_stands() -> None:
    """The variable is for all models; `max` is as many as there are devices."""
    assert read(TENSOR_PARALLEL_DEGREE="2").options == {"tensor_parallel_degree": "2"}
    assert read("option.tensor_parallel_degree=max").tensor_parallel == "max"
    assert "tensor_parallel_degree" not in read().options


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("required_memory_mb=3", (3, 0, 3, 0)),
        ("reserved_memory_mb=4", (0, 4, 0, 4)),
        ("reserved_memory_mb=4\ngpu.reserved_memory_mb=9", (0, 4, 0, 9)),
        ("required_memory_mb=3\ngpu.required_memory_mb=0", (3, 0, 0, 0)),
        ("gpu.required_memory_mb=7\ngpu.reserved_memory_mb=8", (0, 0, 7, 8)),
    ],
)
def test_memory_of_a_gpu_has_keys_of_its_own(text: str, wanted: tuple[int, ...]) -> None:
    """Without them as much is wanted of it as of the host, as DJL has it; the host never takes the GPU's."""
    for device in ("cpu", "gpu"):
        found = read_properties(text, {}, "gpu" if device == "gpu" else "cpu").wish
        assert found == MemoryWish(*(each << 20 for each in wanted))


def test_the_old_name_of_the_model_is_read() -> None:
    """option.s3url was model_id."""
    assert read("option.s3url=s3://b/k").options == {"model_id": "s3://b/k"}


@pytest.mark.parametrize(
    ("text", "variable", "wanted"),
    [
        ("maxWorkers=2", "SERVING_MIN_WORKERS", (2, 2)),
        ("cpu.minWorkers=4", "SERVING_MAX_WORKERS", (4, 4)),
        ("maxWorkers=5", "SERVING_MIN_WORKERS", (3, 5)),
    ],
)
def test_a_default_of_the_environment_contradicts_no_file(text: str, variable: str, wanted: tuple[int, int]) -> None:
    """It gives way as far as it must."""
    found = read_properties(text, {variable: "3"})
    assert (found.min_workers, found.max_workers) == wanted


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
        *((f"{key}=1", f"{key} = 1 has no effect: {why}.") for key, why in _UNSERVED.items()),
        ("option.max_rolling_batch_prefill_tokes=1", "Did you mean option.max_rolling_batch_prefill_tokens?"),
        ("option.batch_size=2", "Did you mean batch_size?"),
        ("gpu.batch_size=2", "Did you mean batch_size?"),
        ("cpu.required_memory_mb=2", "Did you mean required_memory_mb?"),
        ("minWorker=2", "Did you mean minWorkers?"),
        ("option.pythonExecutable=python3.9", "python3.9 is a bare name, and our own interpreter runs the model"),
        ("cpu.minWorkers=0", "minWorkers = 0 is taken as 1"),
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
