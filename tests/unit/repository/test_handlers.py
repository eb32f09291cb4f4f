"""Who handles a folder: one order, the configuration's word first, and nothing of a model runs to find out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import InvalidArtifactError
from serving.repository.artifact import available, locate
from serving.repository.folders import total_bytes
from serving.repository.layouts import describe
from serving.repository.plain_files import plain_dialect
from tests.unit.repository.written import DJL, SERVING, TOOLKIT, TRITON, handled, worker, write


def everything(folder: Path) -> Path:
    """A folder that each dialect would take."""
    names = ["model.onnx", "model.joblib", "config.json", "model.safetensors"]
    texts = {"code__inference_py": TOOLKIT, "model_py": DJL, "1__model_py": TRITON}
    return write(folder, *names, **texts)


def test_the_order_is_that_of_the_docstring(tmp_path: Path) -> None:
    """Each takes the folder when those before it are gone."""
    folder = everything(tmp_path / "m")
    order = []
    for file in ("1/model.py", "model.py", "code/inference.py", "config.json", "model.onnx", "model.joblib"):
        spec = describe("m", folder)
        order.append(spec.handler.dialect if spec.handler else spec.format)
        (folder / file).unlink()
    assert order == ["triton_python", "djl", "sagemaker", "huggingface", "onnx", "sklearn"]
    write(folder, "fake.json", "1/model.py")
    assert describe("m", folder, allow_fake=True).format == "fake"


@pytest.mark.parametrize(
    ("config", "dialect", "file"),
    [
        ('format = "sagemaker"', "sagemaker", "code/inference.py"),
        ('format = "tensorflow"', "tensorflow", "code/inference.py"),
        ('format = "djl"', "djl", "model.py"),
        ('format = "triton_python"', "triton_python", "1/model.py"),
        ('format = "sklearn"', "sklearn", "model.joblib"),
        ('format = "huggingface"', "huggingface", None),
        ('format = "djl"\nfile = "code/inference.py"', "djl", "code/inference.py"),
        ('format = "trees"\nfile = "model.joblib"', "trees", "model.joblib"),
        ('file = "model.py"', "djl", "model.py"),
        ('file = "code/inference.py"', "sagemaker", "code/inference.py"),
        ('file = "1/model.py"', "triton_python", "1/model.py"),
        ('file = "model.joblib"', "sklearn", "model.joblib"),
    ],
)
def test_the_configuration_is_believed(tmp_path: Path, config: str, dialect: str, file: str | None) -> None:
    """A format, a file, or both; a file alone tells its dialect."""
    folder = write(everything(tmp_path / "m"), wharf_toml=config)
    handler = handled(folder)
    assert (handler.dialect, handler.file) == (dialect, folder / file if file else None)


@pytest.mark.parametrize("config", ['format = "onnx"', 'file = "model.onnx"'])
def test_a_model_that_is_named_is_served_in_process(tmp_path: Path, config: str) -> None:
    """Whatever Python lies beside it."""
    spec = describe("m", write(everything(tmp_path), wharf_toml=config))
    assert (spec.format, spec.handler, spec.warnings) == ("onnx", None, ())


@pytest.mark.parametrize("config", ['format = "onnx"', 'format = "sagemaker"', 'file = "1/model.py"'])
def test_a_serving_properties_that_nobody_reads_is_named(tmp_path: Path, config: str) -> None:
    """Where another configuration decides."""
    folder = write(everything(tmp_path), wharf_toml=config, serving_properties="batch_size=4")
    (line,) = describe("m", folder).warnings
    assert line.startswith("serving.properties is not read: another configuration of 'm' says what it is")


@pytest.mark.parametrize(
    "format_", ["sklearn", "trees", "huggingface", "triton_python", "djl", "tensorflow", "savedmodel", "keras"]
)
def test_a_configured_dialect_without_its_file_is_refused(tmp_path: Path, format_: str) -> None:
    """Instead of serving something else."""
    with pytest.raises(InvalidArtifactError, match="Model 'm' cannot be served"):
        describe("m", write(tmp_path, "model.onnx", wharf_toml=f'format = "{format_}"'))


def test_wharf_tomls_word_goes_over_the_dialects_own(tmp_path: Path) -> None:
    """Figures, environment and options; what it leaves open stays the dialect's."""
    config = """
    max_workers = 5
    memory = "1MiB"
    predict_timeout_s = 2.5
    task = "fill-mask"
    environ = { A = "9" }
    options = { dtype = "fp16" }
    """
    said = "minWorkers=2\nmaxWorkers=3\noption.env=A=1,B=2\noption.dtype=fp32"
    handler = handled(write(tmp_path / "m", wharf_toml=config, serving_properties=said, model_py=DJL))
    assert (handler.min_workers, handler.max_workers, handler.predict_timeout_s) == (2, 5, 2.5)
    assert (handler.memory_bytes, handler.environ) == (1 << 20, {"A": "9", "B": "2"})
    assert (handler.options["dtype"], handler.options["task"]) == ("fp16", "fill-mask")


def test_figures_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """Whichever file they come from."""
    config, said = "max_workers = 1", "minWorkers=2"
    with pytest.raises(InvalidArtifactError, match="at least 2 and at most 1"):
        handled(write(tmp_path / "m", wharf_toml=config, serving_properties=said, model_py=DJL))


def test_figures_of_workers_are_idle_in_process(tmp_path: Path) -> None:
    """And said so."""
    spec = describe("m", write(tmp_path, "model.onnx", wharf_toml='min_workers = 2\nmemory = "1g"'))
    assert spec.warnings == (
        "wharf.toml sets min_workers, memory_bytes, which a model that is served in process has not.",
    )


@pytest.mark.parametrize("value", ["env", "env/bin/python", "env.tar.gz"])
def test_a_model_may_bring_its_python(tmp_path: Path, value: str) -> None:
    """An environment, its interpreter, or a packed one."""
    names = ["env/pyvenv.cfg", "env/bin/python", "env.tar.gz", "inference.py"]
    folder = write(tmp_path / "m", *names, wharf_toml=f'python = "{value}"')
    assert handled(folder).python == folder / value


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("model.joblib", "sklearn"),
        ("clf.pkl", "sklearn"),
        ("clf.pickle", "sklearn"),
        ("clf.skops", "sklearn"),
        ("xgboost-model", "trees"),
        ("model.json", "trees"),
        ("xgboost.json", "trees"),
        ("xgboost.model", "trees"),
        ("a.ubj", "trees"),
        ("a.xgb", "trees"),
        ("a.bst", "trees"),
        ("model.txt", "trees"),
        ("lightgbm-model", "trees"),
        ("a.lgb", "trees"),
    ],
)
def test_a_plain_file_is_a_model_in_a_folder_and_alone(tmp_path: Path, name: str, dialect: str) -> None:
    """What lies around a lone file is not its own."""
    folder = write(tmp_path / "m", name, "notes.md", "requirements.txt", "lib/x.py")
    spec, handler = worker(folder)
    assert (handler.dialect, handler.file, spec.file) == (dialect, folder / name, folder / name)
    assert (handler.requirements, handler.paths) == (folder / "requirements.txt", (folder / "lib",))
    lone, handler = worker(folder / name)
    assert (handler.dialect, handler.file, handler.requirements, handler.paths) == (dialect, folder / name, None, ())
    assert (lone.bytes, lone.sources) == (1, (name,))


@pytest.mark.parametrize("name", ["labels.txt", "config.json", "model.onnx", "model.pb", "joblib", "notes"])
def test_other_names_are_no_plain_models(name: str) -> None:
    """A suffix that tells nothing is not enough."""
    assert plain_dialect(name) is None


def test_the_plain_file_with_a_models_name_is_meant(tmp_path: Path) -> None:
    """In its highest version, too; two that could be meant are listed."""
    assert handled(write(tmp_path / "a", "model.pkl", "scaler.pkl")).file == tmp_path / "a" / "model.pkl"
    assert handled(write(tmp_path / "b", "1/xgboost.json", "2/xgboost.json")).file == tmp_path / "b/2/xgboost.json"
    with pytest.raises(InvalidArtifactError, match=r"2 model files \(a\.pkl, b\.ubj\)"):
        handled(write(tmp_path / "c", "a.pkl", "b.ubj"))


@pytest.mark.parametrize("name", ["net.onnx", "1/model.onnx", "net.pt"])
def test_a_pickle_beside_a_model_is_left_alone(tmp_path: Path, name: str) -> None:
    """Its labels or its scaler, as ever."""
    spec = describe("m", write(tmp_path, name, "labels.pkl", "model.json"))
    assert (spec.handler, spec.file) == (None, tmp_path / name)


@pytest.mark.parametrize(
    "weights",
    [
        ["model.safetensors"],
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
        ["pytorch_model.bin"],
        ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"],
        ["model.safetensors", "optimizer.pt", "scheduler.pt", "tokenizer.json"],
    ],
)
def test_a_hugging_face_folder_is_known_by_config_and_weights(tmp_path: Path, weights: list[str]) -> None:
    """Whole or in parts, a checkpoint's state beside it or not."""
    spec, handler = worker(write(tmp_path / "m", "config.json", "requirements.txt", *weights))
    assert (handler.dialect, handler.file) == ("huggingface", None)
    assert handler.requirements == tmp_path / "m" / "requirements.txt"
    assert spec.bytes == total_bytes(tmp_path / "m")
    assert spec.sources[0] == "config.json"


@pytest.mark.parametrize("name", ["model.pkl", "xgboost-model", "config.json model.safetensors"])
@pytest.mark.parametrize(
    ("data", "fault"), [(b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull")]
)
def test_a_plain_file_that_is_not_whole_is_refused(tmp_path: Path, name: str, data: bytes, fault: str) -> None:
    """Before a worker is started for it."""
    folder = write(tmp_path / "m", *name.split())
    (folder / name.rsplit(maxsplit=1)[-1]).write_bytes(data)
    with pytest.raises(InvalidArtifactError, match=fault):
        handled(folder)


@pytest.mark.parametrize(
    "name",
    ["model.pkl", "model.py", "serving.properties", "1/model.py", "model.safetensors", "config.json", "inference.py"],
)
def test_a_link_out_of_the_repository_is_refused(tmp_path: Path, name: str) -> None:
    """Whatever it would have been; nothing of it is read."""
    write(tmp_path / "out", Path(name).name)
    folder = write(tmp_path / "root" / "m", "notes.md", *({"model.safetensors", "config.json"} - {name}))
    if not name.endswith(("safetensors", "json")):
        (folder / "config.json").unlink()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(tmp_path / "out" / Path(name).name)
    with pytest.raises(InvalidArtifactError, match="leads outside"):
        handled(folder)


def test_a_folder_under_a_files_name_is_no_file(tmp_path: Path) -> None:
    """`model.py/` and `model.pkl/` mean nothing."""
    spec = describe("m", write(tmp_path, "model.onnx", "model.py/x", "inference.py/x", "model.pkl/x"))
    assert (spec.format, spec.handler) == ("onnx", None)


def test_finding_out_runs_nothing(tmp_path: Path) -> None:
    """No line of a model, and no library that would unpickle it, in a fresh interpreter."""
    boom = "raise SystemExit('imported')\n"
    for number, (name, text) in enumerate({"inference_py": SERVING, "model_py": DJL, "1__model_py": TRITON}.items()):
        write(tmp_path / str(number + 1), **{name: boom + text})
    write(tmp_path / "4", "model.joblib", "sitecustomize.py")
    code = """
import sys
from pathlib import Path
from serving.repository.layouts import describe
for each in sorted(Path(sys.argv[1]).iterdir()):
    print(describe("m", each).handler.dialect)
print(sorted({"torch", "joblib", "sklearn", "inference", "model"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split("\n")[:4] == ["tensorflow", "djl", "triton_python", "sklearn"]
    assert "[]" in done.stdout


def test_models_that_need_python_are_listed_and_found(tmp_path: Path) -> None:
    """Alone and in folders of models; names without their suffix lead to them."""
    write(tmp_path, "iris.joblib", "xgboost-model", "notes.txt", "readme.json")
    texts = {"team__a__inference_py": TOOLKIT, "team__b__code__inference_py": TOOLKIT, "team__c__model_py": DJL}
    write(tmp_path, "team/d/serving.properties", "team/e/config.json", "team/e/model.safetensors", **texts)
    write(tmp_path, "team/f/model.skops", "team/g/notes.txt", "gpt/code/inference.py")
    assert available(tmp_path) == [
        *("gpt", "iris.joblib", "team/a", "team/b", "team/c", "team/d", "team/e", "team/f", "xgboost-model"),
    ]
    assert locate(tmp_path, "iris")[0] == "iris.joblib"


def test_bytes_are_counted_without_leaving_the_folder(tmp_path: Path) -> None:
    """Links to folders are not followed, links to nothing are none, hidden files count."""
    folder = write(tmp_path / "m", "a/b/c/d/e", ".hidden/x")
    write(tmp_path / "large", "x", "y")
    (folder / "out").symlink_to(tmp_path / "large")
    (folder / "gone").symlink_to("nothing")
    assert total_bytes(folder) == 2
