"""Formats that people bring and this version does not serve: what each is, and what to do instead.

A refusal by name saves the search for what is missing. Only names are looked at; nothing is opened, least of all
unpickled. `layouts` asks when it found nothing to serve, and for Python that lies beside a model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

_PYTHON = "runs people's Python, which the isolated workers of a later release will"
_SKLEARN = f"is a Python object and {_PYTHON} do: export it to ONNX with skl2onnx for now"
_TREES = "export it to ONNX with onnxmltools for now; the isolated workers of a later release will serve it as it is"
_TORCH_PICKLE = "holds weights without their program: save the model with torch.jit.script(m).save or torch.export.save"


@dataclass(frozen=True, slots=True)
class _Unserved:
    what: str
    names: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()

    def matches(self, name: str) -> bool:
        return name in self.names or name.endswith(self.suffixes)


_HANDLERS = _Unserved(
    f"{_PYTHON} do: to serve only the model beside it, name that in a wharf.toml (file = ...)",
    ("inference.py", "model.py", "handler.py", "serving.properties"),
)

_TABLE = (
    _HANDLERS,
    _Unserved(
        "is an XGBoost model: " + _TREES,
        ("xgboost-model", "model.json", "xgboost.json", "xgboost.model", "model.xgb"),
        (".ubj", ".xgb", ".bst"),
    ),
    _Unserved("is a LightGBM model: " + _TREES, ("model.txt", "lightgbm-model"), (".lgb",)),
    _Unserved(_SKLEARN, suffixes=(".joblib", ".skops", ".pkl", ".pickle")),
    _Unserved(
        "is a TensorFlow SavedModel: export it to ONNX with tf2onnx for now; a later release serves it as it is",
        ("saved_model.pb",),
        (".graphdef",),
    ),
    _Unserved("is a Keras model: export it to ONNX with tf2onnx for now", suffixes=(".h5", ".hdf5", ".keras")),
    _Unserved("is a TensorFlow Lite model: export it to ONNX with tf2onnx", suffixes=(".tflite",)),
    _Unserved("is a TensorRT engine: Triton's image of a later release serves it", suffixes=(".plan", ".engine")),
    _Unserved("is an OpenVINO model: bring the ONNX that it was made from", ("model.xml",)),
    _Unserved("is a TorchServe archive and runs people's Python: bring the TorchScript inside", suffixes=(".mar",)),
    _Unserved(
        "holds a Hugging Face model's weights without its program: export it to ONNX with optimum for now",
        ("pytorch_model.bin",),
        (".safetensors",),
    ),
    _Unserved("holds llama.cpp's weights: no backend of this version runs them", suffixes=(".gguf",)),
    _Unserved(_TORCH_PICKLE, suffixes=(".pth", ".ckpt")),
)


def advice_for(names: Iterable[str]) -> str | None:
    """Return "'a/b.pkl' is ...: do ..." for the first of `names` (paths) of a known format, in the table's order."""
    found = list(names)
    return next((_say(name, entry) for entry in _TABLE for name in found if entry.matches(PurePath(name).name)), None)


def python_among(names: Iterable[str]) -> str | None:
    """Return the same for the first of `names` that is a handler in Python, or configures one."""
    return next((_say(name, _HANDLERS) for name in names if _HANDLERS.matches(PurePath(name).name)), None)


def _say(name: str, entry: _Unserved) -> str:
    return f"'{name}' {entry.what}"
