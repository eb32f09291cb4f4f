"""Every key of wharf.toml means something; any other is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import InvalidArtifactError
from serving.repository.model_config import ModelConfig
from serving.repository.wharf_toml import read_wharf_toml
from serving.tensors import TensorSpec


def read(folder: Path, text: str) -> ModelConfig:
    file = folder / "wharf.toml"
    file.write_text(text)
    return read_wharf_toml(file)


def test_every_key_is_read(tmp_path: Path) -> None:
    """As in the docstring of the room."""
    text = """
    format = "torchscript"
    file = "weights/net.bin"
    threads = 2
    optimize = false
    device = "cpu"
    [[inputs]]
    name = "x"
    dtype = "FP32"
    dims = [-1, 3]
    [[outputs]]
    name = "y"
    """
    inputs, outputs = (TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y"),)
    assert read(tmp_path, text) == ModelConfig("torchscript", "weights/net.bin", 2, False, "cpu", inputs, outputs)


def test_an_empty_file_leaves_all_open(tmp_path: Path) -> None:
    """Every key is optional."""
    assert read(tmp_path, "") == ModelConfig()


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
        ('format = "keras"', "format = 'keras' and wants one of torchscript"),
        ("format = 1", "format = 1"),
        ("file = ''", "file = ''"),
        ("threads = 0", "threads = 0 and wants a whole number above 0"),
        ("threads = true", "threads = True"),
        ("threads = 1.5", "threads = 1.5"),
        ("optimize = 1", "optimize = 1 and wants true or false"),
        ('device = "cuda:1"', "device = 'cuda:1'"),
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
