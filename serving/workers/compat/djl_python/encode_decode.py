"""Values by Content-Type: what the built-in handlers, and people who copy them, decode and encode with.

`decode` reads an `Input`, `encode` writes an `Output`. The media types are JSON, CSV, text, images, audio and tensors.
"""

from __future__ import annotations

import csv
import io
from typing import Any

from .inputs import Input
from .outputs import Output

# A first line with one of these words is a header of names; without one there is nothing to call the columns.
_HEADER_WORDS = ("question", "context", "inputs")


def decode(inputs: Input, content_type: str | None, key: str | None = None, require_csv_headers: bool = True) -> Any:
    """Return the value of an item: JSON as it is, anything else under the key `inputs`.

    Without a Content-Type the item is JSON, and an empty one is `{"inputs": ""}`. CSV without headers is an array of
    numbers. Raises ValueError for CSV that lacks its header, or a number.
    """
    if not content_type:
        return inputs.get_as_json(key) if inputs.get_as_bytes(key) else {"inputs": ""}
    if "application/json" in content_type:
        return inputs.get_as_json(key)
    if "text/csv" in content_type:
        return decode_csv(inputs, require_csv_headers)
    return {"inputs": _decode_other(inputs, content_type, key)}


def _decode_other(inputs: Input, content_type: str, key: str | None) -> Any:
    if "text/plain" in content_type:
        return [inputs.get_as_string(key)]
    if content_type.startswith("image/"):
        return inputs.get_as_image(key)
    if "tensor/npz" in content_type:
        return inputs.get_as_npz(key)
    if content_type in ("tensor/ndlist", "application/x-npy"):
        return inputs.get_as_numpy(key)
    if content_type == "application/x-www-form-urlencoded":
        return inputs.get_as_string(key)
    return inputs.get_as_bytes(key)


def decode_csv(inputs: Input, require_headers: bool = True) -> Any:
    """Return CSV as `{"inputs": ...}`, by the names of its first line, or as an array of numbers without headers."""
    text = inputs.get_as_string()
    if not require_headers:
        return _numbers(text)
    header = text.split("\n", 1)[0].lower()
    if not any(word in header for word in _HEADER_WORDS):
        raise ValueError(f"The CSV begins with {header!r:.80} and wants a header with {', '.join(_HEADER_WORDS)}.")
    rows = list(csv.DictReader(io.StringIO(text)))
    return {"inputs": [row["inputs"] for row in rows] if rows and "inputs" in rows[0] else rows}


def _numbers(text: str) -> Any:
    import numpy as np

    numbers = np.genfromtxt(io.StringIO(text), delimiter=",")
    if np.isnan(numbers).any():
        raise ValueError("The CSV holds something that is no number: send numbers alone, or a header and rows.")
    return numbers


def encode(outputs: Output, prediction: Any, content_type: str | None, key: str | None = None) -> None:
    """Add `prediction` to `outputs` as `content_type` wants it, and say so in the header.

    JSON where it wants nothing, CSV of a list of dicts, npz, and NDList for anything else.
    """
    if not content_type or "application/json" in content_type:
        outputs.add_as_json(prediction, key).add_property("Content-Type", "application/json")
    elif "text/csv" in content_type:
        outputs.add_as_string(encode_csv(prediction), key).add_property("Content-Type", "text/csv")
    elif "tensor/npz" in content_type:
        outputs.add_as_npz(prediction, key).add_property("Content-Type", "tensor/npz")
    else:
        outputs.add_as_numpy(prediction, key).add_property("Content-Type", "tensor/ndlist")


def encode_csv(content: Any) -> str:
    """Return the CSV of dicts that share their keys: a header and a line each."""
    rows = list(content)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
