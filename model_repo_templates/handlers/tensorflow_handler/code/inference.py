"""Half plus two: the inference.py of TensorFlow Serving's container, with a model of numpy in TensorFlow's place.

Between the two handlers a request is predicted as TensorFlow Serving's REST API does it: `instances` in, `predictions`
out. Delete `predict` and put a SavedModel into the folder, and TensorFlow computes instead.
"""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np


def input_handler(data: Any, context: Any) -> str:
    """Return the request to predict as JSON; `data` is a stream of the body."""
    text = data.read().decode()
    if context.request_content_type == "application/json":
        return str(text)
    if context.request_content_type == "text/csv":
        return json.dumps({"instances": [[float(cell) for cell in row] for row in csv.reader(io.StringIO(text))]})
    raise ValueError(f"The Content-Type is {context.request_content_type!r}: send application/json or text/csv.")


def predict(instances: Any) -> Any:
    """Compute for arrays of any shape."""
    return np.asarray(instances, np.float64) / 2 + 2


def output_handler(response: Any, context: Any) -> tuple[bytes, str]:
    """Return the body and its type; `response` is like one of the library requests."""
    if response.status_code != 200:
        raise ValueError(response.text)
    return response.content, context.accept_header
