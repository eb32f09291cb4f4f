"""The decorator that marks what a `model.py` without a `handle` function brings for output.

`TextGenerationOutput` is importable from here too, as handlers do.
"""

from __future__ import annotations

from typing import TypeVar

from .request_io import TextGenerationOutput

__all__ = ["TextGenerationOutput", "output_formatter"]

_Function = TypeVar("_Function")


def output_formatter(function: _Function) -> _Function:
    """Mark the function that turns a prediction into what is sent."""
    function.is_output_formatter = True  # type: ignore[attr-defined]
    return function
