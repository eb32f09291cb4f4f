"""TensorFlow Serving's REST API in a worker, for the script that runs in it: bodies in, bodies out, and the responses.

Knows the row form (`instances` -> `predictions`) and the column form (`inputs` -> `outputs`) of predict, base64, and
`examples` -> `results` of classify and regress. Handlers of a pair stand before and after it, without a socket
(`respond`); others post to `context.rest_uri`, where `tensorflow_rest` answers the same. It does not know who predicts.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from serving.codecs.tf_example import example_bytes, from_base64, is_base64
from serving.errors import BadRequestError
from serving.workers.dialects.sagemaker_context import listed
from serving.workers.dialects.tensorflow_predict import Asked, AskedWronglyError, Predict

_loads = json.loads
_dumps = json.dumps

METHODS = ("predict", "classify", "regress")


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


def respond(body: Any, method: str, version: str, predict: Predict) -> Response:
    """Answer the body of a request: JSON as str or bytes, or the dict itself.

    A body that is no such request becomes a response of status 400 with an `error`, as TensorFlow Serving answers;
    what the model itself raises passes through.
    """
    try:
        request = body if isinstance(body, dict) else _loads(body)
        asked, form = (_asked if method == "predict" else _examples)(request, version)
    except BadRequestError as fault:
        return Response({"error": fault.message}, 400)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as fault:
        return Response({"error": f"The request to {method} is wrong: {fault}"}, 400)
    try:
        outputs = predict(asked)
        if method != "predict":
            return Response({"results": _results(method, outputs, len(asked.data["inputs"]))})
        outputs = _with_base64(outputs)
        return Response({"predictions": _rows(outputs)} if form == "instances" else {"outputs": _columns(outputs)})
    except AskedWronglyError as fault:
        return Response({"error": str(fault)}, fault.status)


def _asked(request: Mapping[str, Any], version: str) -> tuple[Asked, str]:
    signature = str(request.get("signature_name") or "")
    if "instances" in request:
        rows = request["instances"]
        if rows and isinstance(rows[0], dict) and not is_base64(rows[0]):
            data: Any = {name: _array([row[name] for row in rows]) for name in rows[0]}
        else:
            data = _array(rows)
        return Asked(data, signature, version), "instances"
    if "inputs" not in request:
        raise ValueError(f"it has {sorted(request)[:10]} and either 'instances' or 'inputs' is wanted")
    columns = request["inputs"]
    if isinstance(columns, dict) and not is_base64(columns):
        return Asked({name: _array(value) for name, value in columns.items()}, signature, version), "inputs"
    return Asked(_array(columns), signature, version), "inputs"


def _examples(request: Mapping[str, Any], version: str) -> tuple[Asked, str]:
    import numpy as np

    examples = request.get("examples")
    if not isinstance(examples, list) or not examples:
        raise ValueError(f"it has {sorted(request)[:10]} and a list of 'examples' is wanted")
    context = example_bytes(request["context"]) if "context" in request else b""
    serialized = np.empty(len(examples), object)
    serialized[:] = [context + example_bytes(each) for each in examples]
    return Asked({"inputs": serialized}, str(request.get("signature_name") or ""), version, has_examples=True), ""


def _results(method: str, outputs: Mapping[str, Any], count: int) -> Any:
    """Return what a model says of examples: pairs of label and score, or numbers."""
    if method == "regress":
        numbers = outputs.get("outputs")
        if numbers is None or numbers.shape not in ((count,), (count, 1)):
            raise AskedWronglyError(f"Expected an output 'outputs' of {count} numbers and got {_told(outputs)}.")
        return numbers.reshape(count)
    classes, scores = outputs.get("classes"), outputs.get("scores")
    shapes = {each.shape for each in (classes, scores) if each is not None}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or next(iter(shapes))[0] != count:
        raise AskedWronglyError(f"Expected 'classes' or 'scores' of [{count}, classes] and got {_told(outputs)}.")
    ((_, width),) = shapes
    labels = [[""] * width] * count if classes is None else classes.tolist()
    numbers = [[0.0] * width] * count if scores is None else scores.tolist()
    return [[list(pair) for pair in zip(*row)] for row in zip(labels, numbers)]  # noqa: B905  3.9 has no strict


def _told(outputs: Mapping[str, Any]) -> str:
    return ", ".join(f"'{name}' {list(array.shape)}" for name, array in outputs.items())


def _array(value: Any) -> Any:
    import numpy as np

    plain = _unwrapped(value)
    is_bytes = plain is not value  # numpy's own bytes type would cut trailing zeros
    return np.array(plain, dtype=object) if is_bytes else np.array(plain)


def _unwrapped(value: Any) -> Any:
    """Return `value` itself, or a copy of it with each `{"b64": …}` as bytes."""
    if isinstance(value, dict):
        return from_base64(value["b64"])
    if not isinstance(value, list) or not value or isinstance(value[0], (int, float)):
        return value
    parts = [_unwrapped(each) for each in value]
    return value if all(part is each for part, each in zip(parts, value)) else parts  # noqa: B905


def _with_base64(outputs: Any) -> Any:
    """Return outputs with those whose name ends in _bytes as base64."""
    if not isinstance(outputs, Mapping):
        return outputs
    return {name: _in_base64(listed(each)) if name.endswith("_bytes") else each for name, each in outputs.items()}


def _in_base64(value: Any) -> Any:
    if isinstance(value, list):
        return [_in_base64(each) for each in value]
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _rows(outputs: Any) -> Any:
    if not isinstance(outputs, Mapping):
        return outputs
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    for name, value in outputs.items():
        if not hasattr(value, "__len__") or getattr(value, "shape", None) == ():
            raise AskedWronglyError(f"Tensor name: {name} has no shape information: ask with 'inputs'.")
    count = len(next(iter(outputs.values()), ()))
    for name, value in outputs.items():
        if len(value) != count:
            raise AskedWronglyError(
                f"Tensor name: {name} has inconsistent batch size: {len(value)} expecting: {count}: ask with 'inputs'."
            )
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
