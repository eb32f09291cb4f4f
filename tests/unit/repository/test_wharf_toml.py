"""Every key of wharf.toml means something; any other is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidArtifactError
from serving.repository.model_config import ModelConfig
from serving.repository.wharf_toml import DIALECTS, read_wharf_toml
from serving.repository.worker_config import WorkerConfig
from serving.tensors import TensorSpec


def read(folder: Path, text: str) -> ModelConfig:
    file = folder / "wharf.toml"
    file.write_text(text)
    return read_wharf_toml(file)[0]


def workers(folder: Path, text: str) -> WorkerConfig:
    file = folder / "wharf.toml"
    file.write_text(text)
    return read_wharf_toml(file)[1]


def test_every_key_is_read(tmp_path: Path) -> None:
    """As in the docstring of the room."""
    text = """
    format = "torchscript"
    file = "weights/net.bin"
    threads = 2
    optimize = false
    device = "cpu"
    labels = { stable = 1 }
    [[inputs]]
    name = "x"
    dtype = "FP32"
    dims = [-1, 3]
    [[outputs]]
    name = "y"
    """
    inputs, outputs = (TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y"),)
    wanted = ModelConfig("torchscript", "weights/net.bin", 2, False, "cpu", inputs, outputs, labels={"stable": 1})
    assert read(tmp_path, text) == wanted


def test_every_key_of_workers_is_read(tmp_path: Path) -> None:
    """A task is an option of the dialect; memory is in bytes."""
    text = """
    min_workers = 0
    max_workers = 4
    batch_size = 8
    predict_timeout_s = 1.5
    load_timeout_s = 600
    memory = "2GiB"
    tensor_parallel_degree = 2
    python = "env/bin/python"
    task = "fill-mask"
    environ = { LOG = "1" }
    options = { outputs = "predictions" }
    """
    options = {"outputs": "predictions", "task": "fill-mask"}
    wanted = WorkerConfig(0, 4, 8, 1.5, 600, 2 << 30, "env/bin/python", {"LOG": "1"}, options, tensor_parallel=2)
    assert workers(tmp_path, text) == wanted
    assert read(tmp_path, text) == ModelConfig()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_format_may_be_who_handles_the_model(tmp_path: Path, dialect: str) -> None:
    """Every dialect of the workers."""
    assert read(tmp_path, f'format = "{dialect}"').format == dialect


def test_an_empty_file_leaves_all_open(tmp_path: Path) -> None:
    """Every key is optional."""
    assert read(tmp_path, "") == ModelConfig()
    assert workers(tmp_path, "") == WorkerConfig()


@pytest.mark.parametrize(
    ("dtype", "wanted"), [("float16", "FP16"), ("bool", "BOOL"), ("uint8", "UINT8"), ("BYTES", "BYTES")]
)
def test_data_types_have_tritons_or_numpys_names(tmp_path: Path, dtype: str, wanted: str) -> None:
    """One type, two names."""
    found = read(tmp_path, f'[[inputs]]\nname = "x"\ndtype = "{dtype}"').inputs
    assert found == (TensorSpec("x", wanted),)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("batch = 8", "unknown key 'batch': allowed are format, file, threads"),
        ('[[inputs]]\nname = "x"\nshape = [1]', "unknown key 'shape': allowed are name, dtype, dims"),
        ('format = "caffe"', "format = 'caffe' and wants one of torchscript"),
        ("format = 1", "format = 1"),
        ("file = ''", "file = ''"),
        ("threads = 0", "threads = 0 and wants a whole number above 0"),
        ("threads = true", "threads = True"),
        ("threads = 1.5", "threads = 1.5"),
        ("min_workers = -1", "min_workers = -1 and wants a whole number, 0 or more"),
        ("max_workers = 0", "max_workers = 0 and wants a whole number above 0"),
        ("batch_size = '8'", "batch_size = '8'"),
        ("predict_timeout_s = 0", "predict_timeout_s = 0 and wants seconds above 0"),
        ("load_timeout_s = -1", "load_timeout_s = -1 and wants seconds above 0"),
        ("predict_timeout_s = nan", "predict_timeout_s = nan"),
        ("predict_timeout_s = true", "predict_timeout_s = True"),
        ("memory = 5", "memory = 5 and wants bytes, such as '2GiB'"),
        ("memory = 'lots'", "memory = 'lots'"),
        ("python = ''", "python = ''"),
        ("task = 1", "task = 1"),
        ("environ = 'A=1'", "environ = 'A=1' and wants a table of texts"),
        ("environ = { A = 1 }", "environ = "),
        ("environ = { 'A=B' = '1' }", "environ = "),
        ('environ = { A = "\\u0000" }', "environ = "),
        ("options = { '' = 'x' }", "options = "),
        ("optimize = 1", "optimize = 1 and wants true or false"),
        ('device = "cuda:x"', "device = 'cuda:x' and wants cpu, cuda or cuda:N"),
        ("device = 1", "device = 1"),
        ("inputs = 3", r"inputs = 3 and wants tables \[\[inputs\]\]"),
        ("inputs = [1]", "inputs"),
        ("[inputs]\nname = 'x'", "inputs"),
        ("[[inputs]]\ndims = [1]", "without a name"),
        ("[[inputs]]\nname = 'x'\ndtype = 'BF16'", "dtype = 'BF16'"),
        ("[[inputs]]\nname = 'x'\ndims = [1, '2']", "dims = .* list of whole numbers"),
        ("[[outputs]]\nname = 'x'\ndims = [-2]", r"\[\[outputs\]\] gives 'x' the dims \[-2\]"),
        ("[[inputs]]\nname = 'x'\n[[inputs]]\nname = 'x'", "'x' twice"),
        ("threads = ", "cannot be read"),
    ],
)
def test_what_is_unknown_or_wrong_is_refused_by_name(tmp_path: Path, text: str, fault: str) -> None:
    """The key, the value found, what is allowed."""
    with pytest.raises(InvalidArtifactError, match=fault):
        read(tmp_path, text)


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Never a traceback."""
    file = tmp_path_factory.mktemp("m") / "wharf.toml"
    file.write_bytes(data)
    try:
        read_wharf_toml(file)
    except InvalidArtifactError as error:
        assert "wharf.toml" in error.message
