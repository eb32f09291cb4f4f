"""Formats that people bring and this version does not serve: what each is, and what to do instead.

A refusal by name saves the search for what is missing. Only names are looked at; nothing is opened, least of all
unpickled. `layouts` asks when it found nothing to serve, and for Python that lies beside a model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

_TORCH_PICKLE = (
    "holds weights without their program: add a code/inference.py that loads it, or "
    "save the model with torch.jit.script(m).save or torch.export.save"
)


@dataclass(frozen=True, slots=True)
class _Unserved:
    what: str
    names: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()

    def matches(self, name: str) -> bool:
        return name in self.names or name.endswith(self.suffixes)


_HANDLERS = _Unserved(
    "is Python that no dialect knows here: bring a code/inference.py (SageMaker), a model.py with handle(inputs) (DJL) "
    "or a <version>/model.py with TritonPythonModel, or name the model's file in a wharf.toml (file = ...)",
    ("inference.py", "model.py", "handler.py"),
)

_TABLE = (
    _HANDLERS,
    _Unserved("only configures a model: give the folder that it lies in", ("serving.properties",)),
    _Unserved(
        "is a frozen graph of TensorFlow 1, which does not say its inputs: save it as a SavedModel with "
        "tf.compat.v1.saved_model.simple_save",
        ("model.graphdef",),
        (".graphdef", ".pb"),
    ),
    _Unserved("is a TensorFlow Lite model: export it to ONNX with tf2onnx", suffixes=(".tflite",)),
    _Unserved("is a TensorRT engine: Triton's image of a later release serves it", suffixes=(".plan", ".engine")),
    _Unserved("is an OpenVINO model: bring the ONNX that it was made from", ("model.xml",)),
    _Unserved(
        "is a TorchServe archive: unpack it and bring its TorchScript, or its Python as code/inference.py",
        suffixes=(".mar",),
    ),
    _Unserved(
        "holds weights without their program: add the config.json that transformers wrote beside it, or a "
        "code/inference.py that loads it",
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
    """Return the same for the first of `names` that is Python which would handle a model."""
    return next((_say(name, _HANDLERS) for name in names if _HANDLERS.matches(PurePath(name).name)), None)


def _say(name: str, entry: _Unserved) -> str:
    return f"'{name}' {entry.what}"
