"""Writes a prediction as JSON, CSV or npy, as the toolkit's default output_fn does.

The writing is the SageMaker dialect's; here is the interface alone, with the toolkit's error for a type that it does
not write. People's scripts call `encode`.
"""

from __future__ import annotations

from typing import Any

from . import content_types
from .errors import UnsupportedFormatError

SUPPORTED_CONTENT_TYPES = {content_types.JSON, content_types.CSV, content_types.NPY}


def encode(array_like: Any, content_type: str) -> Any:
    """Return an array, a tensor, a list or a number written as `content_type`: str for JSON and CSV, bytes for npy.

    Raises `UnsupportedFormatError` for another type, a 406 for a prediction that the type cannot hold.
    """
    from serving.workers.dialects import sagemaker_defaults as defaults

    if content_type is None or defaults.media_type(content_type) not in SUPPORTED_CONTENT_TYPES:
        raise UnsupportedFormatError(content_type, status_code=406)
    return defaults.encode(array_like, content_type)[0]
