"""A handler made of decorated functions, for a `model.py` that has no `handle`.

The decorators of `input_parser` and `output_formatter` mark up to four functions: the model is loaded by one at the
warm-up call, a request is parsed, predicted and formatted by the others; what is missing has a default.
`workers.dialects.djl` looks for them.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from .encode_decode import decode, encode
from .inputs import Input
from .outputs import Output

MARKS = ("is_init_handler", "is_input_formatter", "is_prediction_handler", "is_output_formatter")


class DecoratedService:
    """The marked functions of a module; `functions` is empty where it has none."""

    def __init__(self, module: ModuleType) -> None:
        self.functions = {mark: each for each in vars(module).values() for mark in MARKS if _has(each, mark)}
        self.model: Any = None

    @property
    def is_complete(self) -> bool:
        """True when the module brings the model or its prediction; formatters alone are not enough."""
        return bool({"is_init_handler", "is_prediction_handler"} & set(self.functions))

    def handle(self, inputs: Input) -> Output | None:
        """Load the model at the empty call, answer a request at any other."""
        if inputs.is_empty():
            load = self.functions.get("is_init_handler")
            self.model = load(inputs.get_property("model_dir")) if load else None
            return None
        parse = self.functions.get("is_input_formatter", _parse)
        predict = self.functions.get("is_prediction_handler", _predict)
        prediction = predict(parse(inputs), self.model)
        form = self.functions.get("is_output_formatter", _form)
        return _output(form(prediction), inputs.get_property("Accept"))


def _has(each: Any, mark: str) -> bool:
    return callable(each) and getattr(each, mark, False) is True


def _parse(inputs: Input) -> Any:
    """Return an array of the request's numbers: JSON, bare or under `inputs`, or CSV without a header."""
    import numpy as np

    value = decode(inputs, inputs.get_property("Content-Type"), require_csv_headers=False)
    return np.asarray(value["inputs"] if isinstance(value, dict) else value)


def _predict(value: Any, model: Any) -> Any:
    return model.predict(value) if hasattr(model, "predict") else model(value)


def _form(prediction: Any) -> Any:
    return {"predictions": prediction.tolist() if hasattr(prediction, "tolist") else prediction}


def _output(value: Any, accept: str | None) -> Output:
    if isinstance(value, Output):
        return value
    outputs = Output()
    if isinstance(value, (str, bytes, bytearray)):
        return outputs.add(value)
    is_lines = "text/csv" in (accept or "") and isinstance(value, dict) and set(value) == {"predictions"}
    if is_lines:
        lines = "".join(f"{each}\n" for each in value["predictions"])
        return outputs.add(lines).add_property("Content-Type", "text/csv")
    encode(outputs, value, "application/json")
    return outputs
