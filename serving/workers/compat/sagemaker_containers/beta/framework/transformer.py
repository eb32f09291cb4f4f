"""The older toolkit's default functions of a script, which people's own functions fall back to.

A model and its prediction have no default, as in the toolkit; its Transformer, which is a server's part, is not here.
People's scripts call the two that read and write.
"""

from __future__ import annotations

from typing import Any

from . import encoders, worker


def default_input_fn(content: Any, content_type: str) -> Any:
    """Return the body as an array; raises `UnsupportedFormatError` for another type than JSON, CSV and npy."""
    return encoders.decode(content, content_type)


def default_output_fn(prediction: Any, accept: str) -> worker.Response:
    """Return the prediction written as `accept`, as a response of that type."""
    return worker.Response(encoders.encode(prediction, accept), mimetype=accept)
