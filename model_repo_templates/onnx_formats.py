"""Write scikit-learn models as ONNX the way that they serve best.

Knows skl2onnx and its options; knows no dataset. The builders of iris, digits and diabetes call it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Read by every onnxruntime since 1.13.
TARGET_OPSET = 17


def save_sklearn(model: Any, features: int, folder: Path) -> None:
    """Write `model` to `folder`/model.onnx with the float32 input `x` of dims [-1, features].

    A classifier answers `label` [-1] and `probabilities` [-1, classes], a regressor `value` [-1, 1].
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.base import is_classifier

    # zipmap would turn the probabilities into a list of dicts, which is no tensor.
    options = {id(model): {"zipmap": False}} if is_classifier(model) else None
    graph = convert_sklearn(
        model,
        name="model",  # otherwise a random one
        initial_types=[("x", FloatTensorType([None, features]))],
        options=options,
        target_opset=TARGET_OPSET,
    )
    names = ("label", "probabilities") if is_classifier(model) else ("value",)
    for output, name in zip(graph.graph.output, names, strict=True):
        _rename_output(graph.graph, output.name, name)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())


def _rename_output(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
        node.input[:] = [new if name == old else name for name in node.input]
    for output in graph.output:
        if output.name == old:
            output.name = new
