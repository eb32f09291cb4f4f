"""Build sample models into a model repository: one folder a model, ready to be served.

Knows which templates there are and which file builds each; what a model is made of is the business of that file. A
folder that was built by the same sources and libraries is left alone, and a new one appears whole or not at all. Called
by `make serve` (the small set, no torch), `make models` and the tests.

    python model_repo_templates/build.py --out models            # the small set
    python model_repo_templates/build.py --out models --set handlers        # people's Python: each folder of handlers/
    python model_repo_templates/build.py --out models --set all
    python model_repo_templates/build.py --out models iris_onnx bert_base_torchscript
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import time
import warnings
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
SMALL = ("iris_onnx", "digits_onnx", "diabetes_onnx")
# Plain files that people copy and change: each is a folder of handlers/.
HANDLERS = (
    "inference_py", "inference_py_stream", "tensorflow_handler", "djl_model_py", "djl_stream", "triton_python",
    "triton_python_decoupled", "engine",
)  # fmt: skip
SETS = {"small": SMALL, "handlers": HANDLERS}
# Template name: the file that builds it and its function there; None for a handler that is whole once it is copied.
TEMPLATES = {
    "iris_onnx": ("iris", "build"),
    "digits_onnx": ("digits", "build_onnx"),
    "diabetes_onnx": ("diabetes", "build"),
    "digits_torchscript": ("digits", "build_torchscript"),
    **{f"{file}_{kind}": (file, f"build_{kind}")
       for file in ("resnet50", "bert_base") for kind in ("torchscript", "export", "onnx")},
    "iris_sklearn": ("iris", "build_sklearn"),
    "iris_xgboost": ("iris", "build_xgboost"),
    "iris_lightgbm": ("iris", "build_lightgbm"),
    "tiny_bert_hf": ("tiny_bert", "build_hf"),
    "cifar_savedmodel": ("cifar", "build_savedmodel"),
    **dict.fromkeys(HANDLERS),
    "inference_py": ("iris", "build_centroids"),
}  # fmt: skip
# Templates of libraries that not everyone has, skipped without them: each module and the package that brings it.
OPTIONAL = {
    "iris_xgboost": {"xgboost": "xgboost-cpu"},
    "iris_lightgbm": {"lightgbm": "lightgbm"},
    "tiny_bert_hf": {"torch": "torch", "transformers": "transformers"},
    "cifar_savedmodel": {"tensorflow": "tensorflow", "keras": "keras"},
}
LIBRARIES = (
    "scikit-learn", "skl2onnx", "onnx", "torch", "transformers", "onnxscript", "joblib", "xgboost", "xgboost-cpu",
    "lightgbm", "keras", "tensorflow", "tensorflow-cpu",
)  # fmt: skip
STAMP = ".built"


def sources_of(name: str) -> list[Path]:
    """Return the files that a template is made from."""
    builder = TEMPLATES[name]
    files = [HERE / f"{file}.py" for file in (builder[0], "onnx_formats", "torch_formats")] if builder else []
    return files + sorted(path for path in (HERE / "handlers" / name).rglob("*") if _is_source(path))


def _is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def stamp_of(name: str) -> str:
    """Return a digest of the sources and library versions that a template is made from."""
    digest = hashlib.sha256()
    for source in sources_of(name):
        digest.update(f"{source.relative_to(HERE)}\n".encode() + source.read_bytes())
    installed = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    digest.update(repr([(library, installed.get(library)) for library in LIBRARIES]).encode())
    return digest.hexdigest()


def build(name: str, out: Path) -> str:
    """Build one template below `out` unless it is up to date; return a line that says what happened."""
    for module, package in OPTIONAL.get(name, {}).items():
        if importlib.util.find_spec(module) is None:
            return f"{name}: skipped, because {module} is not installed (pip install {package})"
    stamp, folder, began = stamp_of(name), out / name, time.monotonic()
    stamp_file = folder / STAMP
    if stamp_file.is_file() and stamp_file.read_text() == stamp:
        return f"{name}: up to date"
    unfinished = out / f".{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _fill(name, unfinished)
    (unfinished / STAMP).write_text(stamp)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    size_mb = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    return f"{name}: built in {time.monotonic() - began:.1f} s, {size_mb:.2f} MB"


def _fill(name: str, folder: Path) -> None:
    if name in HANDLERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(HERE / "handlers" / name, folder, dirs_exist_ok=True, ignore=ignored)
    if builder := TEMPLATES[name]:
        file, function = builder
        getattr(importlib.import_module(file), function)(folder)


def main() -> None:
    """Parse, build, print a line a template."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model repository to write to")
    parser.add_argument("--set", choices=(*SETS, "all"), default="small", help="all wants torch")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"instead of a set: {', '.join(TEMPLATES)}")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(TEMPLATES)):
        parser.error(f"no template {', '.join(unknown)}; there are {', '.join(TEMPLATES)}")
    # Nothing is ever downloaded: transformers is told so before it is imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    # The exporters warn of their own deprecations by the dozen; what they write is checked by the tests.
    warnings.simplefilter("ignore")
    for name in options.names or SETS.get(options.set, TEMPLATES):
        print(build(name, options.out), flush=True)


if __name__ == "__main__":
    main()
