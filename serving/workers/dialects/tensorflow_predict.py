"""What stands between `input_handler` and `output_handler`: TensorFlow Serving's REST prediction, without its server.

Knows the row form (`instances` -> `predictions`) and the column form (`inputs` -> `outputs`) of its JSON, base64,
and who predicts: the script's own `predict` or `model_fn`, else the folder's SavedModel or Keras file through
TensorFlow, where that can be imported. It does not know people's handlers; `tensorflow` calls it.
"""

from __future__ import annotations

import base64
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from serving.workers.dialects.sagemaker_context import listed
from serving.workers.dialects.sagemaker_defaults import predictor as model_predictor
from serving.workers.dialects.sagemaker_script import defined
from serving.workers.handler import Launch

_loads = json.loads
_dumps = json.dumps

SERVING_DEFAULT = "serving_default"  # the signature that TensorFlow Serving takes where a request names none
KERAS_SUFFIXES = (".keras", ".h5")

Predict = Callable[[Any, str], Any]
"""Takes one array, or arrays by input name, and a signature's name; returns one array, or arrays by output name."""


class Response:
    """What `output_handler` is given: the attributes of a `requests` response that such handlers read."""

    def __init__(self, body: Mapping[str, Any], status_code: int = 200) -> None:
        self.content = _dumps(body, default=_plain).encode()
        self.status_code = status_code
        self.headers = {"Content-Type": "application/json"}
        self.ok = status_code < 400

    @property
    def text(self) -> str:
        """The content as text."""
        return self.content.decode()

    def json(self) -> Any:
        """Return the content parsed."""
        return _loads(self.content)

    def raise_for_status(self) -> None:
        """Raise `RuntimeError` for a status from 400 on."""
        if not self.ok:
            raise RuntimeError(f"{self.status_code}: {self.text}")


def respond(body: Any, predict: Predict) -> Response:
    """Predict from the body that `input_handler` made: JSON as str or bytes, or the dict itself.

    A body that is no such request becomes a response of status 400 with an `error`, as TensorFlow Serving answers;
    what the model itself raises passes through.
    """
    try:
        request = body if isinstance(body, dict) else _loads(body)
        data, is_rows = _data(request)
        signature = str(request.get("signature_name") or SERVING_DEFAULT)
    except (ValueError, TypeError, KeyError, AttributeError) as fault:
        return Response({"error": f"The request to predict is wrong: {fault}"}, 400)
    try:
        outputs = predict(data, signature)
    except UnknownSignatureError as fault:
        return Response({"error": str(fault)}, 400)
    return Response({"predictions": _rows(outputs)} if is_rows else {"outputs": _columns(outputs)})


class UnknownSignatureError(ValueError):
    """The model has no signature of that name, or not those inputs."""


def _data(request: Mapping[str, Any]) -> tuple[Any, bool]:
    if "instances" in request:
        rows = request["instances"]
        if rows and isinstance(rows[0], dict) and set(rows[0]) != {"b64"}:
            return {name: _array([row[name] for row in rows]) for name in rows[0]}, True
        return _array(rows), True
    if "inputs" not in request:
        raise ValueError(f"it has {sorted(request)[:10]} and either 'instances' or 'inputs' is wanted")
    columns = request["inputs"]
    if isinstance(columns, dict) and set(columns) != {"b64"}:
        return {name: _array(value) for name, value in columns.items()}, False
    return _array(columns), False


def _array(value: Any) -> Any:
    import numpy as np

    plain = _unwrapped(value)
    is_bytes = plain is not value  # numpy's own bytes type would cut trailing zeros
    return np.array(plain, dtype=object) if is_bytes else np.array(plain)


def _unwrapped(value: Any) -> Any:
    """Return `value` itself, or a copy of it with each `{"b64": …}` as bytes."""
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    if not isinstance(value, list) or not value or isinstance(value[0], (int, float, str)):
        return value
    parts = [_unwrapped(each) for each in value]
    return value if all(part is each for part, each in zip(parts, value)) else parts  # noqa: B905  3.9 has no strict


def _rows(outputs: Any) -> Any:
    if not isinstance(outputs, Mapping):
        return outputs
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    count = min(len(value) for value in outputs.values())
    return [{name: value[index] for name, value in outputs.items()} for index in range(count)]


def _columns(outputs: Any) -> Any:
    is_single = isinstance(outputs, Mapping) and len(outputs) == 1
    return next(iter(outputs.values())) if is_single else outputs


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    return listed(value)


def predictor(module: ModuleType, launch: Launch) -> Predict:
    """Return who predicts: 1. the script's `predict(data)`; 2. its `model_fn(folder)`; 3. a SavedModel; 4. Keras.

    Raises `ValueError` that says what is missing where there is none, or no TensorFlow for it.
    """
    own, make = defined(module, "predict"), defined(module, "model_fn")
    if own is not None:
        return _one_signature(own)
    if make is not None:
        return _one_signature(model_predictor(make(launch.folder), launch.device))
    folder = Path(launch.folder)
    saved = max(folder.rglob("saved_model.pb"), key=_version, default=None)
    if saved is not None:
        return _saved_model(saved.parent)
    keras = next((path for path in sorted(folder.iterdir()) if path.suffix in KERAS_SUFFIXES), None)
    if keras is not None:
        model = _tensorflow(keras).keras.models.load_model(str(keras))
        return _one_signature(lambda data: model.predict(data, verbose=0))
    raise ValueError(
        f"'{folder}' has nothing that predicts between input_handler and output_handler: add a SavedModel or a .keras "
        "file, or give the script predict(data) or model_fn(model_dir)."
    )


def _version(saved: Path) -> tuple[int, str]:
    """Order versions as TensorFlow Serving does: the highest number serves."""
    name = saved.parent.name
    return (int(name) if name.isdecimal() else -1, name)


def _one_signature(predict: Callable[[Any], Any]) -> Predict:
    def run(data: Any, signature: str) -> Any:
        if signature != SERVING_DEFAULT:
            raise UnknownSignatureError(f"The model has no signature '{signature}', only {SERVING_DEFAULT}.")
        return predict(data)

    return run


def _tensorflow(path: Path) -> Any:
    try:
        return importlib.import_module("tensorflow")
    except ImportError as fault:
        raise ValueError(
            f"'{path}' needs TensorFlow and it cannot be imported ({fault}): name it in the model's requirements.txt, "
            "use an image that has it, or give the script predict(data)."
        ) from fault


def _saved_model(folder: Path) -> Predict:
    tf = _tensorflow(folder)
    model = tf.saved_model.load(str(folder))

    def run(data: Any, signature: str) -> Any:
        if signature not in model.signatures:
            raise UnknownSignatureError(f"The model has no signature '{signature}', but {sorted(model.signatures)}.")
        function = model.signatures[signature]
        specs = function.structured_input_signature[1]
        given = data if isinstance(data, Mapping) else {next(iter(specs)): data}
        if set(given) != set(specs):
            raise UnknownSignatureError(f"The request has inputs {sorted(given)}, the model wants {sorted(specs)}.")
        outputs = function(**{name: tf.constant(given[name], dtype=spec.dtype) for name, spec in specs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    return run
