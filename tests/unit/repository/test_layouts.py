"""A folder is served as what it holds, or refused by name with the next step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import InvalidArtifactError
from serving.repository.layouts import describe
from serving.tensors import TensorSpec
from tests.unit.repository import packs

CONTENT = {".onnx": packs.onnx(), ".pt": packs.TORCHSCRIPT, ".pt2": packs.EXPORTED}


def lay(folder: Path, *names: str, **texts: str) -> Path:
    """Make files: known suffixes get honest content, `a__toml="..."` makes `a.toml`."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(CONTENT.get(Path(name).suffix, b"x"))
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("names", "file", "format_"),
    [
        (["model.onnx"], "model.onnx", "onnx"),
        (["model.pt"], "model.pt", "torchscript"),
        (["model.pt2"], "model.pt2", "torch_export"),
        (["resnet50.onnx", "labels.txt", "config.json"], "resnet50.onnx", "onnx"),
        (["model.pt", "decoder.pt"], "model.pt", "torchscript"),
        (["1/model.onnx"], "1/model.onnx", "onnx"),
        (["1/model.pt", "3/model.pt", "20/model.pt", "099/model.pt", "x/model.pt"], "20/model.pt", "torchscript"),
        (["1/model.onnx/model.onnx"], "1/model.onnx/model.onnx", "onnx"),
        (["resnet/model.onnx"], "resnet/model.onnx", "onnx"),
        (["hash/model/resnet/1/model.onnx"], "hash/model/resnet/1/model.onnx", "onnx"),
        (["model.onnx", "._model.onnx", "__MACOSX/._x.onnx", ".DS_Store"], "model.onnx", "onnx"),
    ],
)
def test_a_folder_is_served_as_the_model_it_holds(tmp_path: Path, names: list[str], file: str, format_: str) -> None:
    """Preferred names, the only file, the highest version, one folder in another."""
    spec = describe("m", lay(tmp_path, *names))
    assert (spec.file, spec.format, spec.name) == (tmp_path / file, format_, "m")
    assert spec.bytes == (tmp_path / file).stat().st_size
    assert spec.sources == (Path(file).name,)


@pytest.mark.parametrize("suffix", CONTENT)
def test_a_single_file_is_served_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    """A link to a blob, or a platform's own name, tells nothing."""
    (tmp_path / "model").write_bytes(CONTENT[suffix])
    formats = {".onnx": "onnx", ".pt": "torchscript", ".pt2": "torch_export"}
    assert describe("m", tmp_path / "model").format == formats[suffix]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("1/model.py", "no dialect knows"),
        ("src/handler.py", "no dialect knows"),
        ("frozen_graph.pb", "simple_save"),
        ("1/model.graphdef", "simple_save"),
        ("model.tflite", "tf2onnx"),
        ("model.plan", "TensorRT"),
        ("model.safetensors", "transformers"),
        ("pytorch_model.bin", "transformers"),
        ("model.pth", "torch.jit.script"),
        ("model.gguf", "llama"),
        ("model.mar", "TorchServe"),
    ],
)
def test_what_this_version_does_not_serve_is_refused_by_name(tmp_path: Path, name: str, advice: str) -> None:
    """The file, what it is, and what to do instead; in a folder and alone."""
    lay(tmp_path, name)
    with pytest.raises(InvalidArtifactError, match=advice) as caught:
        describe("m", tmp_path)
    assert Path(name).name in caught.value.message
    with pytest.raises(InvalidArtifactError, match=advice):
        describe("m", tmp_path / name)


@pytest.mark.parametrize("name", ["inference.py", "model.py", "handler.py", "serving.properties"])
def test_a_handler_without_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    """What lies around it is not the model's."""
    with pytest.raises(InvalidArtifactError, match=name):
        describe("m", lay(tmp_path, name) / name)


def test_python_that_no_dialect_knows_is_refused_unless_the_model_is_named(tmp_path: Path) -> None:
    """It may change the answers; serving without it must be somebody's word: the file, or its format."""
    lay(tmp_path, "model.pt", "src/model.py")
    with pytest.raises(InvalidArtifactError, match=r"src/model\.py.*wharf\.toml"):
        describe("m", tmp_path)
    assert describe("m", lay(tmp_path, wharf__toml='file = "model.pt"')).format == "torchscript"
    assert describe("m", lay(tmp_path, wharf__toml='format = "torchscript"')).handler is None


def test_several_candidates_are_refused_and_listed(tmp_path: Path) -> None:
    """Nobody guesses; a configured format or file decides."""
    lay(tmp_path, "encoder.onnx", "decoder.onnx", "net.pt")
    with pytest.raises(InvalidArtifactError, match=r"3 model files \(decoder.onnx, encoder.onnx, net.pt\)"):
        describe("m", tmp_path)
    assert describe("m", lay(tmp_path, wharf__toml='format = "torchscript"')).file.name == "net.pt"
    assert describe("m", lay(tmp_path, wharf__toml='file = "decoder.onnx"')).file.name == "decoder.onnx"


@pytest.mark.parametrize("data", [packs.STATE_DICT, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."])
def test_a_state_dict_is_refused_with_what_to_do(tmp_path: Path, data: bytes) -> None:
    """Both forms of torch.save, told apart without unpickling."""
    (tmp_path / "model.pt").write_bytes(data)
    with pytest.raises(InvalidArtifactError, match=r"torch\.save.*torch\.jit\.script"):
        describe("m", tmp_path)


@pytest.mark.parametrize("suffix", CONTENT)
@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"<html>not found</html>" * 9, "no known format|no ONNX model"),
        (None, "cut short"),
    ],
)
def test_a_file_that_is_not_what_it_claims_is_refused(
    tmp_path: Path, suffix: str, data: bytes | None, fault: str
) -> None:
    """Empty, a pointer, a page of an error, or the first half."""
    (tmp_path / f"model{suffix}").write_bytes(CONTENT[suffix][:-100] if data is None else data)
    with pytest.raises(InvalidArtifactError, match=fault):
        describe("m", tmp_path)


def test_a_compiled_package_is_refused(tmp_path: Path) -> None:
    """AOTInductor's .pt2 runs native code made for one machine."""
    (tmp_path / "model.pt2").write_bytes(packs.AOT)
    with pytest.raises(InvalidArtifactError, match="AOTInductor"):
        describe("m", tmp_path)


def test_the_content_decides_between_the_two_zips_of_torch(tmp_path: Path) -> None:
    """A wrong suffix harms nobody; a wrong configuration is refused."""
    (tmp_path / "model.pt").write_bytes(packs.EXPORTED)
    assert describe("m", tmp_path).format == "torch_export"
    with pytest.raises(InvalidArtifactError, match="configured as onnx"):
        describe("m", lay(tmp_path, wharf__toml='format = "onnx"'))


def test_the_configuration_reaches_the_spec(tmp_path: Path) -> None:
    """Every key of wharf.toml, and which files decided."""
    text = """
    threads = 2
    optimize = false
    device = "cuda"
    [[inputs]]
    name = "x"
    dtype = "float32"
    dims = [-1, 3]
    """
    spec = describe("m", lay(tmp_path, "model.pt", wharf__toml=text))
    assert (spec.threads, spec.optimize, spec.device, spec.outputs) == (2, False, "cuda", None)
    assert spec.inputs == (TensorSpec("x", "FP32", (-1, 3)),)
    assert spec.sources == ("wharf.toml", "model.pt")


def test_wharf_toml_goes_before_config_pbtxt_which_fills_the_rest(tmp_path: Path) -> None:
    """Both are read; both are named."""
    pbtxt = 'backend: "pytorch" max_batch_size: 8 input { name: "a" data_type: TYPE_FP32 dims: 3 }'
    spec = describe("m", lay(tmp_path, "1/model.pt", wharf__toml="threads = 1", config__pbtxt=pbtxt))
    assert (spec.threads, spec.inputs) == (1, (TensorSpec("a", "FP32", (-1, 3)),))
    assert spec.sources == ("wharf.toml", "config.pbtxt", "model.pt")


def test_a_default_model_filename_is_found_in_the_version(tmp_path: Path) -> None:
    """As Triton finds it."""
    lay(tmp_path, "1/a.onnx", "2/a.onnx", "2/b.onnx", config__pbtxt='default_model_filename: "a.onnx"')
    assert describe("m", tmp_path).file == tmp_path / "2" / "a.onnx"


@pytest.mark.parametrize("name", ["../secret.onnx", "/etc/passwd", "nope.onnx", ".", "a\\u0000b", "n" * 300])
def test_a_configured_file_must_be_there_and_inside(tmp_path: Path, name: str) -> None:
    """A configuration leads nowhere else."""
    lay(tmp_path, "secret.onnx", "m/model.onnx")
    with pytest.raises(InvalidArtifactError, match="names the file"):
        describe("m", lay(tmp_path / "m", wharf__toml=f'file = "{name}"'))


@pytest.mark.parametrize("name", ["model.onnx", "wharf.toml", "config.pbtxt", "1"])
def test_a_link_that_leads_outside_is_refused_before_it_is_read(tmp_path: Path, name: str) -> None:
    """`within` is the model repository: what others put there shows nothing of the machine."""
    lay(tmp_path, "secret.onnx", "m/labels.txt", "out/model.onnx")
    (tmp_path / "m" / name).symlink_to(tmp_path / ("out" if name == "1" else "secret.onnx"))
    with pytest.raises(InvalidArtifactError, match="leads outside"):
        describe("m", tmp_path / "m", within=tmp_path / "m")


def test_external_data_counts(tmp_path: Path) -> None:
    """The weights of a large ONNX model lie beside it."""
    (tmp_path / "model.onnx").write_bytes(packs.onnx("model.onnx_data", "model.onnx_data", "sub/w"))
    lay(tmp_path, "model.onnx_data", "sub/w")
    spec = describe("m", tmp_path)
    assert spec.bytes == len(packs.onnx("model.onnx_data", "model.onnx_data", "sub/w")) + 2
    assert spec.sources == ("model.onnx", "model.onnx_data", "w")


def test_a_fake_is_served_only_where_it_is_allowed(tmp_path: Path) -> None:
    """Nobody serves a fake by accident."""
    lay(tmp_path, "fake.json")
    assert describe("m", tmp_path, allow_fake=True).format == "fake"
    with pytest.raises(InvalidArtifactError, match="WHARF_FAKE_BACKEND"):
        describe("m", tmp_path)


def test_an_empty_folder_says_what_was_found_and_what_is_wanted(tmp_path: Path) -> None:
    """Nothing, or the first ten names."""
    with pytest.raises(InvalidArtifactError, match=r"found nothing, wanted model\.onnx"):
        describe("m", tmp_path)
    lay(tmp_path, *(f"{n:02}.md" for n in range(12)), "docs/x.md")
    with pytest.raises(InvalidArtifactError, match=r"found 00\.md, .*09\.md and 3 more, wanted"):
        describe("m", tmp_path)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    """By its name."""
    with pytest.raises(InvalidArtifactError, match="nope"):
        describe("m", tmp_path / "nope")


_AS_NOBODY = """
import os, sys
from pathlib import Path
from serving.errors import InvalidArtifactError
from serving.repository.layouts import describe
os.setuid(65534)
try:
    describe("m", Path(sys.argv[1]))
except InvalidArtifactError as error:
    print(error.message)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
@pytest.mark.parametrize("closed", ["m", "m/model.onnx", "m/wharf.toml"])
def test_what_may_not_be_read_is_refused_by_name(tmp_path: Path, closed: str) -> None:
    """A folder, a model or a configuration with the mode of somebody else."""
    for each in (tmp_path, *tmp_path.parents[:2]):
        each.chmod(0o755)
    lay(tmp_path / "m", "model.onnx", wharf__toml="")
    (tmp_path / closed).chmod(0)
    command = [sys.executable, "-c", _AS_NOBODY, str(tmp_path / "m")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "may not be read" in done.stdout
    assert Path(closed).name in done.stdout


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch deprecates TorchScript; people have it all the same
def test_real_files_of_torch_are_told_apart(tmp_path: Path) -> None:
    """Written by torch itself, in all its ways."""
    import torch

    net = torch.nn.Linear(3, 2)
    torch.jit.save(torch.jit.script(net), tmp_path / "script.pt")
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3),)), tmp_path / "export.pt2")
    torch.save(net.state_dict(), tmp_path / "state.pt")
    torch.save(net.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert describe("m", tmp_path / "script.pt").format == "torchscript"
    assert describe("m", tmp_path / "export.pt2").format == "torch_export"
    for name in ("state.pt", "old.pt"):
        with pytest.raises(InvalidArtifactError, match=r"torch\.save"):
            describe("m", tmp_path / name)
