"""Reads a body as its Content-Type says, as the toolkit's default input_fn does.

The reading is the SageMaker dialect's, which unpickles nothing; here is the interface alone: an array for a JSON
object too, and the toolkit's error for a type that it does not read. People's scripts call `decode`.
"""

from __future__ import annotations

from typing import Any

from . import content_types
from .errors import UnsupportedFormatError

_TYPES = (content_types.JSON, content_types.CSV, content_types.NPY, content_types.NPZ)


def decode(obj: Any, content_type: str) -> Any:
    """Return a body, str or bytes, as a numpy array, or a scipy matrix of npz; a JSON object has no dimensions.

    Raises `UnsupportedFormatError` for another type, a 400 for a body that is not what its type says.
    """
    from serving.workers.dialects import sagemaker_defaults as defaults

    if content_type is None or defaults.media_type(content_type) not in _TYPES:
        raise UnsupportedFormatError(content_type)
    value = defaults.decode(obj, content_type)
    if isinstance(value, dict) and defaults.media_type(content_type) == content_types.JSON:
        import numpy as np

        return np.array(value)
    return value
